"""The gateway's parts that need nobody else: routes, headers, queries, tables, limits, masks."""

from __future__ import annotations

import asyncio
import io
import time
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from foyer.access.v1 import access_pb2
from foyer.bookings.v1 import bookings_pb2
from foyer.customers.v1 import customers_pb2
from foyer.wallet.v1 import wallet_pb2

from chassis import codec, tracing
from chassis.access import AccessTokens, Caller, CallerTokens
from chassis.bus import Event
from chassis.errors import FieldError, Refusal
from chassis.money import money
from gateway import contract, events, tables
from gateway.access_log import AccessLog
from gateway.auth import Authenticator, bearer
from gateway.exchange import Exchange, preferred_language, prefers_csv, problem
from gateway.rates import Rates
from gateway.routing import Routes
from gateway.transcode import converters, read_json, read_query

SECRET = b"a secret of more than 32 bytes, for tests only"
CHAIN = "01a20009-edc2-72e4-8ffa-f49056a5bc81"
ID = "01a2000a-828d-76cc-9b3b-572046aa40a7"


# --- routes ---


def test_every_route_is_found_by_its_own_path() -> None:
    routes: Routes[str] = Routes()
    for operation in contract.operations():
        routes.add(operation.verb, operation.path, operation.name)
    for operation in contract.operations():
        path = operation.path
        for name in operation.parameters:
            path = path.replace(f"{{{name}}}", f"value-of-{name}")
        found = routes.find(path)
        assert found is not None
        assert found[0][operation.verb] == operation.name
        assert found[1] == {name: f"value-of-{name}" for name in operation.parameters}


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1",
        "/v1/bookings/",
        "/v1/bookings:",
        "/v1/bookings/x:frob",
        "/v1/bookings//x",
        "/v1/bookings/x/y/z",
        "x",
    ],
)
def test_other_paths_are_not(path: str) -> None:
    routes: Routes[int] = Routes()
    routes.add("GET", "/v1/bookings/{id}", 1)
    routes.add("POST", "/v1/bookings/{id}:cancel", 2)
    routes.add("POST", "/v1/bookings", 3)
    assert routes.find(path) is None


def test_a_route_is_added_once() -> None:
    routes: Routes[int] = Routes()
    routes.add("GET", "/v1/bookings/{id}", 1)
    with pytest.raises(ValueError, match="already"):
        routes.add("GET", "/v1/bookings/{id}", 2)


# --- headers ---


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        (b"en-GB,en;q=0.9,zh;q=0.1", "en"),
        (b"fr, zh;q=0.2", "zh"),
        (b"fr", None),
        (b"*", None),
        (b"zh;q=nonsense, en;q=0.1", "en"),
        (b"zh;q=0, en;q=0", None),
        (b"", None),
    ],
)
def test_language(header: bytes, expected: str | None) -> None:
    assert preferred_language(header) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"text/csv", True),
        (b"text/csv, application/json;q=0.5", True),
        (b"application/json, text/csv;q=0.5", False),
        (b"*/*", False),
        (b"", False),
        (b"text/csv;q=x", False),
    ],
)
def test_csv_is_wanted(header: bytes, expected: bool) -> None:
    assert prefers_csv(header) is expected


def test_bearer() -> None:
    assert bearer(None) is None
    assert bearer("bearer  abc ") == "abc"
    for wrong in ("Basic abc", "Bearer", "Bearer ", "abc", "Bearer é", "Bearer " + "x" * 9000):
        with pytest.raises(Refusal):
            bearer(wrong)


# --- what is sent ---


def test_queries_are_read_by_type() -> None:
    known = converters(bookings_pb2.ListBookingsRequest.DESCRIPTOR)
    errors: list[FieldError] = []
    query = b"page_size=5&status=held&status=no_show&from=2026-05-01T09:00:00+08:00&branch_id="
    assert read_query(query, known, errors) == {
        "page_size": 5,
        "status": ["held", "no_show"],
        "from": "2026-05-01T09:00:00+08:00",
        "branch_id": "",
    }
    assert not errors


def test_wrong_queries_are_told_at_once() -> None:
    known = converters(bookings_pb2.ListBookingsRequest.DESCRIPTOR)
    errors: list[FieldError] = []
    values = read_query(b"page_size=five&page_size=6&colour=red", known, errors)
    assert values["page_size"] == "five", "the decoder refuses it by name"
    assert [(error.field, error.code) for error in errors] == [("page_size", "repeated"), ("colour", "unknown")]
    for wrong in (b"x=%ff", b"\xff=1", b"a=" + b"x" * 9000, b"&".join([b"status=held"] * 300)):
        errors = []
        read_query(wrong, known, errors)
        assert [error.code for error in errors] == ["encoding"]


def test_bodies() -> None:
    assert read_json(b'{"a": 1}', "application/json; charset=utf-8") == {"a": 1}
    assert read_json(b"[]", "application/merge-patch+json") == []
    assert read_json(b"[]", None) == []
    with pytest.raises(Refusal, match="UNSUPPORTED_MEDIA_TYPE"):
        read_json(b"{}", "text/plain")
    for wrong in (b"{", b"\xff", b'"\\ud800"', b"NaN", b"[" * 5000):
        with pytest.raises(Refusal, match="MALFORMED_BODY"):
            read_json(wrong, "application/json")


async def test_a_body_has_a_limit() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 600, "more_body": True}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
    with pytest.raises(Refusal, match="PAYLOAD_TOO_LARGE"):
        await Exchange(scope, receive, tracing.new()).body(1000)


def test_problems_speak_the_caller_s_language() -> None:
    async def receive() -> dict[str, Any]:
        return {}

    headers = [(b"accept-language", b"zh-CN")]
    scope = {"type": "http", "method": "GET", "path": "/v1/x", "headers": headers, "query_string": b""}
    exchange = Exchange(scope, receive, tracing.new())
    answer = problem(Refusal("RATE_LIMITED", retry_after_seconds=7), exchange)
    document = orjson.loads(answer.body)
    assert (answer.status, document["code"], document["instance"]) == (429, "RATE_LIMITED", "/v1/x")
    assert "7 秒" in document["detail"]
    assert (b"retry-after", b"7") in answer.headers


# --- tables ---


def test_lists_become_tables() -> None:
    payment = wallet_pb2.Payment(id=ID, kind=wallet_pb2.PAYMENT_KIND_SALE, amount=money(-5, "CNY"), description="=1+1")
    answer = wallet_pb2.ListPaymentsResponse(payments=[payment, wallet_pb2.Payment(description='a "b", c')])
    field = tables.rows_field(wallet_pb2.ListPaymentsResponse.DESCRIPTOR)
    assert field is not None
    header, first, second = tables.to_csv(field, codec.to_json(answer)).decode().splitlines()
    assert header.startswith("id,kind,amount.amount,amount.currency,tax.amount")
    assert first.startswith(f"{ID},sale,-5,CNY,,")
    assert "'=1+1" in first
    assert '"a ""b"", c"' in second


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=1", "'=1"),
        ("+cmd", "'+cmd"),
        ("-2", "-2"),
        ("-2.5", "-2.5"),
        ("+8613800138000", "+8613800138000"),
        ("-2+3", "'-2+3"),
        ("@x", "'@x"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        (-7, "-7"),
        (True, "true"),
        (None, ""),
        (["=a", "b"], "'=a; b"),
        ({"a": 1}, '{"a":1}'),
    ],
)
def test_no_cell_is_a_formula(value: object, expected: str) -> None:
    assert tables.cell(value) == expected


def test_single_things_are_no_tables() -> None:
    for message in (bookings_pb2.Booking, access_pb2.Branch, access_pb2.Me, wallet_pb2.CustomerWallet):
        assert tables.rows_field(message.DESCRIPTOR) is None
    assert tables.rows_field(bookings_pb2.Availability.DESCRIPTOR) is not None


# --- limits and credentials ---


def test_rates() -> None:
    now = 100.0
    rates = Rates(3, 1, now=lambda: now, most=2)
    for left in (2, 1, 0):
        assert dict(rates.take("a", known=True))[b"ratelimit-remaining"] == b"%d" % left
    with pytest.raises(Refusal, match="RATE_LIMITED"):
        rates.take("a", known=True)
    rates.take("b", known=False)
    rates.take("c", known=True)
    rates.take("d", known=True)  # shares a count with c: more callers than are told apart
    now = 101.0
    rates.take("a", known=True)


def caller(**grants: str | list[str]) -> Caller:
    return Caller(
        ID, "account", "Owner", CHAIN, grants={key.replace("_", ".", 1): value for key, value in grants.items()}
    )


async def test_api_keys_are_asked_for_once_and_kept() -> None:
    asked: list[str] = []

    async def look_up(key: str) -> access_pb2.AuthenticatedCaller:
        asked.append(key)
        await asyncio.sleep(0.01)
        if key == "foyer_wrong":
            raise Refusal("UNAUTHENTICATED")
        answer = access_pb2.AuthenticatedCaller(
            id=ID, name="k", chain=access_pb2.Chain(id=CHAIN, currency="CNY"), roles=["owner"]
        )
        answer.permissions["a.read"].all = True
        answer.permissions["b.read"].branch_ids.append(ID)
        return answer

    authenticator = Authenticator(AccessTokens(SECRET), CallerTokens(SECRET), look_up)
    found = await asyncio.gather(*(authenticator.check("foyer_x") for _ in range(20)))
    assert asked == ["foyer_x"]
    assert found[0].caller.grants == {"a.read": "*", "b.read": [ID]}
    assert authenticator.known("foyer_x") is found[0]
    token = authenticator.caller_token(found[0])
    assert CallerTokens(SECRET).verify(token).chain_id == CHAIN
    found[0].holds_until = time.time() - 1
    assert authenticator.known("foyer_x") is None
    again = await authenticator.check("foyer_x")
    assert authenticator.caller_token(again) == token, "the same caller: the same token"
    for _ in range(2):
        with pytest.raises(Refusal):
            await authenticator.check("foyer_wrong")
    assert authenticator.known("foyer_wrong") is None


async def test_access_tokens_are_checked_here() -> None:
    async def look_up(key: str) -> access_pb2.AuthenticatedCaller:
        raise AssertionError(key)

    authenticator = Authenticator(AccessTokens(SECRET), CallerTokens(SECRET), look_up)
    token = AccessTokens(SECRET).mint(caller(events_read="*"), 60)
    credential = await authenticator.check(token)
    assert credential.caller.may("events.read")
    assert credential.holds_until > time.time()
    for forged in (AccessTokens(SECRET[::-1]).mint(caller()), CallerTokens(SECRET).mint(caller()), "x.y.z", token[:-2]):
        with pytest.raises(Refusal):
            await authenticator.check(forged)
    with pytest.raises(Refusal):
        await authenticator.check(AccessTokens(SECRET).mint(caller(), -1))


# --- events ---


def event(message: Any, type_: str) -> Event:
    now = datetime.now(UTC)
    return Event(
        id=ID,
        type=type_,
        chain_id=CHAIN,
        aggregate_id=ID,
        source="customers",
        time=now,
        occurred_at=now,
        body=message.SerializeToString(),
    )


def test_sensitive_fields_need_their_permission() -> None:
    card = customers_pb2.CustomerCard(name="王小明", phone="138", email="x@example.com")
    created = event(customers_pb2.CustomerCreated(customer_id=ID, card=card), "customer.created")
    hidden = events.cloud_event(created, caller(events_read="*"))
    assert hidden is not None
    assert hidden["data"]["card"]["name"] == "王小明"
    assert not {"phone", "email"} & set(hidden["data"]["card"])
    shown = events.cloud_event(created, caller(events_read="*", customers_read_contact="*"))
    assert shown is not None
    assert shown["data"]["card"]["phone"] == "138"


def test_a_caller_of_some_branches_sees_those() -> None:
    booked = event(
        bookings_pb2.BookingConfirmed(booking_id=ID, booking=bookings_pb2.Booking(branch_id=ID)), "booking.confirmed"
    )
    customer = event(customers_pb2.CustomerCreated(customer_id=ID), "customer.created")
    assert events.cloud_event(booked, caller(events_read=[ID])) is not None
    assert events.cloud_event(booked, caller(events_read=[CHAIN])) is None
    assert events.cloud_event(customer, caller(events_read=[ID])) is None, "of no branch"
    assert events.cloud_event(event(customers_pb2.CustomerCreated(), "nobody.knows"), caller(events_read="*")) is None


def test_streams_are_bounded() -> None:
    streams = events.Streams()
    for _ in range(events.MOST_STREAMS_OF_A_CREDENTIAL):
        streams.enter("a")
    with pytest.raises(Refusal, match="RATE_LIMITED"):
        streams.enter("a")
    streams.enter("b")
    streams.leave("a")
    streams.enter("a")


async def test_the_access_log_is_json_and_names_nobody() -> None:
    output = io.StringIO()
    log = AccessLog("gateway", "info", "json", output)
    log.tell("abc", "GET", "/v1/customers/{id}", 200, 0.0123, "0123")
    log.write()
    line = orjson.loads(output.getvalue())
    assert (line["event"], line["route"], line["status"], line["milliseconds"]) == (
        "request",
        "/v1/customers/{id}",
        200,
        12.3,
    )
    assert line["trace_id"] == "abc"
    silent = AccessLog("gateway", "warning", "json", output)
    silent.tell("abc", "GET", "/", 200, 0.1, "")
    silent.write()
    assert len(output.getvalue().splitlines()) == 1
