"""The RPCs of Customers, in the order of the proto."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
from foyer.customers.v1 import customers_pb2 as pb

from chassis import metrics
from chassis.app import Context, Service
from chassis.errors import FieldError, Refusal, invalid, not_found
from chassis.ids import new_id
from chassis.pages import cursor_decode, page_limit, split_page, wrong_token
from chassis.rows import projector
from chassis.unit import UUID_PATTERN, Absent, Unit
from services.customers import domain, statements
from services.customers.events import fetch_branch, fetch_staff, on

READ, WRITE, READ_CONTACT = "customers.read", "customers.write", "customers.read_contact"
IMPORT = "records.import"

TAKEN_UP = metrics.counter("foyer_customers_total", "Customers taken up.")

to_customer = projector(pb.Customer, identities=lambda row: [pb.Identity(**identity) for identity in row["identities"]])


class Customers:
    """Profiles of customers."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def create_customer(self, request: pb.CreateCustomerRequest, unit: Unit) -> pb.Customer:
        """Take up a customer."""
        since = _customer_since(request, unit)
        phone = domain.normalise_phone(request.phone) or None
        values: dict[str, Any] = {
            "name": request.name,
            "phone": phone,
            "other_phones": domain.normalise_phones(request.other_phones, phone),
            "identities": _identities(request.identities),
            "language": request.language or unit.caller.language,
        }
        for name in ("email", "source", "owner_staff_id", "home_branch_id", "level", "notes", "external_id"):
            values[name] = getattr(request, name) or None
        _lower_ids(values)
        _check_home(unit, values["home_branch_id"], WRITE)
        zone = await _check_references(unit, values)
        row = await unit.one(
            statements.ADD_CUSTOMER,
            id=new_id(),
            customer_since=since,
            created_at=unit.now,
            **values,
            **_search(unit.chain_id, values),
        )
        if row is None:
            raise _external_id_taken()
        unit.emit(pb.CustomerCreated(customer_id=row["id"], card=_card(row, zone)), since)
        unit.after_commit(TAKEN_UP.inc)
        return _seen_by(unit, row)

    async def list_customers(self, request: pb.ListCustomersRequest, unit: Unit) -> pb.ListCustomersResponse:
        """List customers, newest first, or find them by a part of the name or phone."""
        limit = page_limit(request.page_size)
        allowed = unit.allowed_branches(READ)
        home = request.home_branch_id.lower() or None
        _check_home(unit, home, READ)
        parameters: dict[str, Any] = {"before": _before(request.page_token), "limit": limit + 1}
        if words := domain.words_of_query(request.query):
            rows = await unit.all(
                statements.SEARCH_CUSTOMERS,
                words=words,
                grams=domain.grams_of_words(unit.chain_id, words),
                # Who may not see phones must not learn them digit by digit either.
                names_only=not unit.caller.may(READ_CONTACT),
                branch_ids=allowed,
                home_branch_id=home,
                external_id=request.external_id or None,
                **parameters,
            )
        else:
            statement = statements.list_customers(
                at_home=home is not None, at_allowed=allowed is not None, by_external_id=bool(request.external_id)
            )
            parameters |= {"home_branch_id": home, "branch_ids": allowed, "external_id": request.external_id}
            rows = await unit.all(statement, **parameters)
        if not rows and home is not None:
            await _check_references(unit, {"home_branch_id": home, "owner_staff_id": None})
        page, token = split_page(rows, limit, lambda row: [row["id"]])
        return pb.ListCustomersResponse(customers=[_seen_by(unit, row) for row in page], next_page_token=token)

    async def get_customer(self, request: pb.GetCustomerRequest, unit: Unit) -> pb.Customer:
        """Read a customer: one statement."""
        row = await unit.one(statements.GET_CUSTOMER, id=request.id)
        if row is None:
            raise not_found("customer", "id")
        _check_home(unit, row["home_branch_id"], READ)
        return _seen_by(unit, row)

    async def update_customer(self, request: pb.UpdateCustomerRequest, unit: Unit) -> pb.Customer:
        """Change a customer; an empty text takes a field away."""
        row = await unit.one(statements.LOCK_CUSTOMER, id=request.id)
        if row is None:
            raise not_found("customer", "id")
        _check_home(unit, row["home_branch_id"], WRITE)
        unit.check_version(row["version"])
        values = _changed(request, row)
        _check_home(unit, values["home_branch_id"], WRITE)
        zone = await _check_references(unit, values)
        parameters = {f"new_{name}": value for name, value in (values | _search(unit.chain_id, values)).items()}
        try:
            changed = await unit.one(statements.CHANGE_CUSTOMER, id=request.id, **parameters)
        except asyncpg.UniqueViolationError:
            raise _external_id_taken() from None
        if changed is None:
            raise not_found("customer", "id")
        unit.emit(pb.CustomerUpdated(customer_id=changed["id"], card=_card(changed, zone)))
        return _seen_by(unit, changed)


# --- what the methods share ---


def _customer_since(request: pb.CreateCustomerRequest, unit: Unit) -> datetime:
    """When the customer first came: now, unless a caller who may bring in records from before says otherwise."""
    if not request.HasField("customer_since"):
        return unit.now
    if not unit.caller.may(IMPORT):
        raise Refusal("PERMISSION_DENIED", permission=IMPORT)
    since = request.customer_since.ToDatetime(UTC)
    if since > unit.now:
        raise invalid(FieldError("customer_since", "future", "must not lie in the future", "不能是将来的时间"))
    return since


def _changed(request: Any, row: asyncpg.Record) -> dict[str, Any]:
    """All changeable fields of a customer as they will be. Raises Refusal INVALID_REQUEST for ids that are none."""
    values: dict[str, Any] = {}
    for name in ("email", "source", "owner_staff_id", "home_branch_id", "level", "notes", "external_id"):
        values[name] = (getattr(request, name) or None) if request.HasField(name) else row[name]
    for name in ("name", "language"):
        values[name] = getattr(request, name) if request.HasField(name) else row[name]
    _lower_ids(values)
    values["phone"] = domain.normalise_phone(request.phone) or None if request.HasField("phone") else row["phone"]
    further = request.other_phones.phones if request.HasField("other_phones") else row["other_phones"]
    values["other_phones"] = domain.normalise_phones(further, values["phone"])
    values["identities"] = (
        _identities(request.identities.identities) if request.HasField("identities") else row["identities"]
    )
    return values


def _lower_ids(values: dict[str, Any]) -> None:
    """Bring the ids among the values into their one form. Raises Refusal INVALID_REQUEST for what is no id."""
    errors = []
    for name in ("owner_staff_id", "home_branch_id"):
        if values[name] is not None:
            try:
                values[name] = str(UUID(values[name]))
            except ValueError:
                errors.append(FieldError(name, "id", "must be an id (a UUID)", "应为编号（UUID）"))
    if errors:
        raise invalid(*errors)


def _identities(identities: Iterable[pb.Identity]) -> list[dict[str, str]]:
    return [{"kind": identity.kind, "value": identity.value} for identity in identities]


def _search(chain_id: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the customer is found by."""
    phones = [values["phone"]] if values["phone"] else []
    text = domain.search_text(values["name"], [*phones, *values["other_phones"]])
    return {"search_text": text, "search_grams": domain.grams(chain_id, text.split("\n"))}


def _check_home(unit: Unit, home_branch_id: str | None, permission: str) -> None:
    """Refuse PERMISSION_DENIED for a customer of a branch that the caller's permission does not reach."""
    if not domain.holds_at(unit.allowed_branches(permission), home_branch_id):
        raise Refusal("PERMISSION_DENIED", permission=permission)


async def _check_references(unit: Unit, values: Mapping[str, Any]) -> str:
    """Zone in which the customer's days are counted: the home branch's, else the chain's.

    Raises Absent for a branch or staff member that is not known here (yet).
    """
    home, staff_id = values["home_branch_id"], values["owner_staff_id"]
    if home is None and staff_id is None:
        return unit.caller.time_zone
    row = await unit.one(statements.REFERENCES, home_branch_id=home, owner_staff_id=staff_id)
    if home is not None and (row is None or row["time_zone"] is None):
        raise Absent("branch", home, field="home_branch_id")
    if staff_id is not None and (row is None or not row["has_staff"]):
        raise Absent("staff", staff_id, field="owner_staff_id")
    return row["time_zone"] if home is not None and row is not None else unit.caller.time_zone


def _before(page_token: str) -> str:
    """The id that a page begins behind. Raises Refusal INVALID_REQUEST for a token that is not ours."""
    cursor = cursor_decode(page_token, 1)
    if cursor is None:
        return statements.LAST_ID
    before = cursor[0]
    if not isinstance(before, str) or not UUID_PATTERN.fullmatch(before):
        raise wrong_token()
    return before


def _card(row: asyncpg.Record, time_zone: str) -> pb.CustomerCard:
    """What other services keep of the customer."""
    return pb.CustomerCard(
        name=row["name"],
        language=row["language"],
        phone=row["phone"],
        email=row["email"],
        home_branch_id=row["home_branch_id"],
        source=row["source"],
        version=row["version"],
        time_zone=time_zone,
    )


def _seen_by(unit: Unit, row: asyncpg.Record) -> pb.Customer:
    """The customer as the caller may see them: without permission for contacts they are masked."""
    customer = to_customer(row)
    branches = unit.allowed_branches(READ_CONTACT)
    if branches is None or domain.holds_at(branches, row["home_branch_id"]):
        return customer
    if row["phone"] is not None:
        customer.phone = domain.masked_phone(row["phone"])
    customer.other_phones[:] = [domain.masked_phone(phone) for phone in row["other_phones"]]
    if row["email"] is not None:
        customer.email = domain.masked_email(row["email"])
    del customer.identities[:]
    return customer


def _external_id_taken() -> Refusal:
    text = "another customer has this external_id"
    error = FieldError("external_id", "exists", text, "已有客户使用该 external_id")
    return Refusal("ALREADY_EXISTS", kind="customer", field="external_id", errors=[error])


SERVICE = Service(
    name="customers",
    servicers=[(pb.DESCRIPTOR.services_by_name["Customers"], Customers)],
    subscriptions=on,
    fetchers={"branch": fetch_branch, "staff": fetch_staff},
)
