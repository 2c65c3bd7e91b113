"""The rows of bookings, no-shows, cancellations and payments → records of the API."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from tools.importing.expressions import Expression, ValueProblem, rfc3339, same_name
from tools.importing.mapping import BookingSource, PaymentSource, ServiceMaker
from tools.importing.planning import Planner, Reference
from tools.importing.reading import Row

STATUSES = ("completed", "cancelled", "no_show")
LONGEST_EXTERNAL_ID = 100
LONGEST_DESCRIPTION = 500


@dataclass(slots=True)
class Draft:
    """A booking on its way."""

    place: str
    source: BookingSource
    row: Row
    day: date
    starts_at: datetime
    key: str
    body: dict[str, Any]


def bookings(planner: Planner) -> None:
    """Plan bookings: the rows of their files, ended as the no-shows say, no-shows without such a row, cancellations."""
    drafts: list[Draft] = []
    for section, status in (("bookings", "completed"), ("no_shows", "no_show"), ("cancellations", "cancelled")):
        if section == "no_shows":
            open_drafts = _by_match(planner, drafts)
        for number, source in enumerate(getattr(planner.mapping, section)):
            place = f"{section}[{number}]"
            for row in planner.rows(place, source):
                try:
                    draft = _draft(planner, place, source, row, status)
                    if section == "no_shows" and source.match and _ends(planner, draft, open_drafts):
                        planner.count(place, source).matched += 1
                    else:
                        drafts.append(draft)
                except ValueProblem as problem:
                    planner.plan.refuse(row, str(problem))
    _unnamed(planner, drafts)
    for draft in drafts:
        _remark(planner, draft)
        planner.count(draft.place, draft.source).planned += 1
        planner.record("bookings", draft.key, draft.body, draft.row)


def _draft(planner: Planner, place: str, source: BookingSource, row: Row, status: str) -> Draft:
    """The record of one row; ValueProblem holds all that is wrong with it."""
    formats = planner.formats
    problems: list[str] = []
    values: dict[str, Any] = {}

    def take(name: str, make: Any) -> None:
        try:
            values[name] = make()
        except ValueProblem as problem:
            problems.append(str(problem))

    make = dict(source.makers())
    take("day", lambda: formats.day(make["date"].cell(row), "date"))
    take("time", lambda: formats.clock(make["time"].cell(row), "time"))
    take("customer_id", lambda: _client(planner, make["customer"], row))
    take("staff_id", lambda: planner.reference("staff", make["staff"].read(row), "staff"))
    take("service_id", lambda: _service(planner, source.service, make["service"], row))
    take("status", lambda: _status(make.get("status"), row, status))
    if "price" in make and make["price"].read(row):
        take("price", lambda: _money(planner, make["price"], row, "price"))
    if {"day", "time"} <= values.keys():
        take("starts_at", lambda: formats.moment(values["day"], values["time"], "date"))
    if values.get("service_id", "") is None:
        problems.append(f"service: {make['service'].read(row)!r} is not a service")
    if problems:
        raise ValueProblem("; ".join(problems))
    body: dict[str, Any] = {"branch_id": planner.branch}
    body |= {name: values[name] for name in ("service_id", "customer_id", "staff_id", "status")}
    body["starts_at"] = rfc3339(values["starts_at"])
    body |= {name: values[name] for name in ("price",) if name in values}
    for name, target in (("note", "note"), ("reason", "cancel_reason")):
        if name in make and make[name].read(row) and (name != "reason" or body["status"] == "cancelled"):
            body[target] = make[name].read(row)
    _history(planner, source, make, row, values, body)
    key = _external_id(planner, place, make.get("number"), row, repeats=False)
    body["external_id"] = key
    return Draft(place, source, row, values["day"], values["starts_at"], key, body)


def _history(
    planner: Planner,
    source: BookingSource,
    make: dict[str, Expression],
    row: Row,
    values: dict[str, Any],
    body: dict[str, Any],
) -> None:
    """When it was booked and cancelled."""
    formats = planner.formats
    day, starts_at = values["day"], values["starts_at"]
    known: list[datetime] = []
    if body["status"] == "cancelled":
        if "cancelled_on" not in make:
            raise ValueProblem("status: is cancelled, but the mapping does not say where `cancelled_on` stands")
        on = formats.day(make["cancelled_on"].cell(row), "cancelled_on")
        at = (
            formats.clock(make["cancelled_time"].cell(row), "cancelled_time")
            if "cancelled_time" in make
            else values["time"]
        )
        cancelled_at = formats.moment(on, at, "cancelled_on")
        body["cancelled_at"] = rfc3339(cancelled_at)
        _check_days_ahead(planner, make.get("days_ahead"), row, (day - on).days)
        # When it was booked is not known: at the latest when it was called off.
        known.append(min(cancelled_at, starts_at))
    if "booked_on" in make and make["booked_on"].read(row):
        on = formats.day(make["booked_on"].cell(row), "booked_on")
        body["booked_at"] = rfc3339(min([formats.moment(on, values["time"], "booked_on"), starts_at, *known]))
    elif known:
        body["booked_at"] = rfc3339(known[0])
    if source.known_until is not None and day > date.fromisoformat(source.known_until.date):
        body["note"] = " ".join([*filter(None, [body.get("note")]), source.known_until.note])


def _check_days_ahead(planner: Planner, maker: Expression | None, row: Row, days: int) -> None:
    if maker is None:
        return
    text = maker.read(row)
    if not text:
        planner.plan.remark(row, f"does not say how many days ahead it was cancelled; by its dates {days}")
    elif planner.formats.decimal(text, "days_ahead") != days:
        raise ValueProblem(f"days_ahead: says {text}, by its dates it is {days}")
    if days < 0:
        planner.plan.remark(row, f"was cancelled {-days} days after the day it was booked for")


def _client(planner: Planner, maker: Expression, row: Row) -> Reference:
    """The customer of a booking; the stand-in where the row names none."""
    code = maker.read(row)
    part = planner.mapping.customers
    if not code and part is not None and part.unnamed is not None:
        return Reference("customers", part.unnamed.code)
    return planner.reference("customers", code, "customer")


def _unnamed(planner: Planner, drafts: list[Draft]) -> None:
    """Take up the stand-in for clients who are not named, when there are such bookings."""
    part = planner.mapping.customers
    if part is None or part.unnamed is None or part.unnamed.code in planner.known["customers"]:
        return
    theirs = [draft for draft in drafts if draft.body["customer_id"].key == part.unnamed.code]
    if theirs:
        first = min(theirs, key=lambda draft: draft.starts_at)
        body: dict[str, Any] = {"external_id": part.unnamed.code, "name": part.unnamed.name}
        body |= {"home_branch_id": planner.branch, "customer_since": rfc3339(first.starts_at)}
        if part.language:
            body["language"] = part.language
        planner.record("customers", part.unnamed.code, body, first.row)


def _service(planner: Planner, made: ServiceMaker, maker: Expression, row: Row) -> Reference | None:
    """The service a row names; None for goods."""
    what = "service"
    text = maker.read(row)
    if made.by == "code":
        return planner.reference("services", text, what)
    name = same_name(text)
    code = planner.service_names.get(name)
    if code is not None:
        return Reference("services", code)
    if name in planner.service_names:
        raise ValueProblem(f"{what}: two services are called {text!r}")
    if made.goods is not None and name in planner.names_in(made.goods):
        return None
    raise ValueProblem(f"{what}: {text!r} is neither a service{' nor among the goods' if made.goods else ''}")


def _status(maker: Expression | None, row: Row, usual: str) -> str:
    status = maker.read(row) if maker is not None else usual
    if status not in STATUSES:
        raise ValueProblem(f"status: {status!r} is none of {', '.join(STATUSES)}: translate it by `values`")
    return status


def _money(planner: Planner, maker: Expression, row: Row, what: str) -> dict[str, Any]:
    amount = planner.formats.minor_units(planner.formats.decimal(maker.cell(row), what), what)
    return {"amount": amount, "currency": planner.formats.currency}


def _external_id(planner: Planner, place: str, maker: Expression | None, row: Row, *, repeats: bool) -> str:
    """The number in the other system, or a digest of the row; both where several rows may have one number."""
    kind = place.partition("[")[0]
    number = maker.read(row) if maker is not None else ""
    parts = [planner.mapping.name, kind, number] if number else [planner.mapping.name, kind]
    if not number or repeats:
        parts.append(planner.row_key(row))
    key = "/".join(parts)
    if len(key) > LONGEST_EXTERNAL_ID:
        raise ValueProblem(f"number: {number!r} is too long")
    if number and not repeats and not planner.claim(key):
        raise ValueProblem(f"number: {number!r} stands on another row too")
    return key


def _by_match(planner: Planner, drafts: list[Draft]) -> dict[tuple[str, ...], list[Draft]]:
    """Bookings by what no-shows find them by; of equals the earliest first."""
    names = {tuple(source.match) for source in planner.mapping.no_shows}
    found: dict[tuple[str, ...], list[Draft]] = defaultdict(list)
    for match in names:
        for draft in sorted(drafts, key=lambda draft: draft.starts_at):
            if draft.body["status"] == "completed":
                found[(*match, *_match_key(draft, match))].append(draft)
    return found


def _match_key(draft: Draft, match: tuple[str, ...]) -> tuple[str, ...]:
    body = draft.body
    values = {"date": draft.day.isoformat(), "time": body["starts_at"]}
    values |= {name: body[f"{name}_id"].key for name in ("customer", "service", "staff")}
    return tuple(values[name] for name in match)


def _ends(planner: Planner, draft: Draft, open_drafts: dict[tuple[str, ...], list[Draft]]) -> bool:
    """Whether a no-show found its booking; that one is a no-show then."""
    match = tuple(draft.source.match)
    candidates = open_drafts[(*match, *_match_key(draft, match))]
    while candidates:
        booking = candidates.pop(0)
        if booking.body["status"] == "completed":
            booking.body["status"] = "no_show"
            return True
    planner.plan.remark(draft.row, "no row of the bookings is like it; recorded on its own")
    return False


def _remark(planner: Planner, draft: Draft) -> None:
    part = planner.mapping.customers
    if part is not None and part.unnamed is not None and draft.body["customer_id"].key == part.unnamed.code:
        planner.plan.remark(draft.row, f"names no client; recorded for {part.unnamed.name!r}")
    until = draft.source.known_until
    if until is not None and draft.day > date.fromisoformat(until.date):
        status = draft.body["status"]
        planner.plan.remark(
            draft.row, f"lies after {until.date}: how it ended is not known; taken as {status}, with a note"
        )


def payments(planner: Planner) -> None:
    """Plan payments: what is below 0 was given back."""
    for number, source in enumerate(planner.mapping.payments):
        place = f"payments[{number}]"
        for row in planner.rows(place, source):
            try:
                _payment(planner, place, source, row)
                planner.count(place, source).planned += 1
            except ValueProblem as problem:
                planner.plan.refuse(row, str(problem))


def _payment(planner: Planner, place: str, source: PaymentSource, row: Row) -> None:
    formats = planner.formats
    make = {name: expression for name, expression in source.makers() if name != "tax"}
    problems: list[str] = []
    body: dict[str, Any] = {"branch_id": planner.branch, "method": make["method"].read(row)}

    def take(name: str, value: Any) -> None:
        try:
            found = value()
        except ValueProblem as problem:
            problems.append(str(problem))
        else:
            if found is not None:
                body[name] = found

    take("occurred_at", lambda: _moment(planner, make, row))
    take("customer_id", lambda: _payer(planner, source, make.get("customer"), row))
    if "staff" in make and make["staff"].read(row):
        take("staff_id", lambda: planner.reference("staff", make["staff"].read(row), "staff"))
    made = source.service
    if made is not None and make["service"].read(row):
        take("service_id", lambda: _service(planner, made, make["service"], row))
    take("description", lambda: _description(make, row))
    amount = tax = 0
    try:
        amount = formats.minor_units(formats.decimal(make["amount"].cell(row), "amount"), "amount")
        tax = _tax(planner, source, row)
        if amount * tax < 0:
            problems.append("tax: has another sign than the amount")
    except ValueProblem as problem:
        problems.append(str(problem))
    if problems:
        raise ValueProblem("; ".join(problems))
    kind = "refund" if amount < 0 or (amount == 0 and tax < 0) else "sale"
    body |= {"kind": kind, "amount": {"amount": abs(amount), "currency": formats.currency}}
    if source.tax:
        body["tax"] = {"amount": abs(tax), "currency": formats.currency}
    key = _external_id(planner, place, make.get("number"), row, repeats=True)
    body["external_id"] = key
    planner.plan.money["sales" if kind == "sale" else "refunds"] += amount
    planner.plan.money["tax"] += tax
    planner.record("payments", key, body, row)


def _moment(planner: Planner, make: dict[str, Expression], row: Row) -> str:
    day = planner.formats.day(make["date"].cell(row), "date")
    at = planner.formats.clock(make["time"].cell(row), "time")
    return rfc3339(planner.formats.moment(day, at, "date"))


def _payer(planner: Planner, source: PaymentSource, maker: Expression | None, row: Row) -> Reference | None:
    code = maker.read(row) if maker is not None else ""
    return planner.reference("customers", code, "customer") if code and code not in source.walk_in else None


def _description(make: dict[str, Expression], row: Row) -> str:
    """What was sold, with how many where that is not one."""
    text = make["description"].read(row)
    if not text:
        raise ValueProblem("description: is empty")
    quantity = make["quantity"].read(row) if "quantity" in make else "1"
    return (text if quantity in ("", "1") else f"{quantity} × {text}")[:LONGEST_DESCRIPTION]


def _tax(planner: Planner, source: PaymentSource, row: Row) -> int:
    """All taxes of a row in minor units; their sum is rounded where the mapping says how."""
    formats = planner.formats
    makers = [expression for name, expression in source.makers() if name == "tax"]
    total = sum((formats.decimal(maker.cell(row), "tax") for maker in makers if maker.read(row)), start=formats.zero)
    units = formats.minor_units(total, "tax", source.tax_rounding)
    if formats.has_more_digits(total):
        planner.plan.remark(row, "has a tax of more digits than its currency; rounded")
    return units
