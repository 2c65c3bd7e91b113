"""JSON ↔ message: every message of the contract, and the dialect's finer points."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from foyer.access.v1 import access_pb2
from foyer.bookings.v1 import bookings_pb2
from foyer.customers.v1 import customers_pb2
from foyer.reports.v1 import reports_pb2
from foyer.wallet.v1 import wallet_pb2
from google.protobuf import duration_pb2, message_factory, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis import codec
from chassis.errors import FieldError
from chassis.money import money
from gateway import contract

ID = "01a2000a-828d-76cc-9b3b-572046aa40a7"
TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
MOST_DEPTH = 3


def messages() -> list[Descriptor]:
    return [message for file in contract.files() for message in file.message_types_by_name.values()]


def decode(message_type: Any, value: Any, *, nulls: bool = True) -> tuple[Any, list[FieldError]]:
    errors: list[FieldError] = []
    return codec.decoder(message_type.DESCRIPTOR, nulls=nulls)(value, errors), errors


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Values in protobuf's terms for one entry of a field."""
    if codec.is_timestamp(field):
        return st.datetimes(datetime(1900, 1, 2), datetime(2200, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
    if field.message_type is not None:
        return filled(field.message_type, depth + 1)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values if value.number] or [0])
    if field.type in codec.INTEGERS:
        return st.integers(*codec.INTEGERS[field.type])
    simple: dict[int, st.SearchStrategy[Any]] = {
        FieldDescriptor.TYPE_STRING: TEXT,
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
        FieldDescriptor.TYPE_BYTES: st.binary(max_size=20),
    }
    return simple[field.type]


@st.composite
def filled(draw: st.DrawFn, descriptor: Descriptor, depth: int = 0) -> Message:
    given_fields: dict[str, Any] = {}
    for field in descriptor.fields:
        if field.message_type is not None and depth >= MOST_DEPTH:
            continue
        if codec.is_map(field):
            entries = st.dictionaries(TEXT, values(codec.map_value(field), depth), max_size=2)
            given_fields[field.name] = draw(entries)
        elif field.is_repeated:
            given_fields[field.name] = draw(st.lists(values(field, depth), max_size=2))
        elif field.full_name in codec.ALWAYS_REQUIRED or not field.has_presence or draw(st.booleans()):
            given_fields[field.name] = draw(values(field, depth))
    return message_factory.GetMessageClass(descriptor)(**given_fields)


@pytest.mark.parametrize("descriptor", messages(), ids=lambda d: d.full_name)
@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_message_comes_back_as_it_was(descriptor: Descriptor, data: st.DataObject) -> None:
    message = data.draw(filled(descriptor))
    value = orjson.loads(codec.dumps(codec.to_json(message)))
    errors: list[FieldError] = []
    again = codec.decoder(descriptor)(value, errors)
    assert not errors
    assert again == message


def at(text: str) -> timestamp_pb2.Timestamp:
    moment = timestamp_pb2.Timestamp()
    moment.FromJsonString(text)
    return moment


def test_the_dialect() -> None:
    booking = bookings_pb2.Booking(
        id=ID,
        status=bookings_pb2.BOOKING_STATUS_NO_SHOW,
        starts_at=at("2026-05-01T09:30:00Z"),
        created_at=at("2026-05-01T09:30:00.123456Z"),
        price=money(12300, "CNY"),
        version=3,
    )
    value = codec.to_json(booking)
    assert value["status"] == "no_show"
    assert value["starts_at"] == "2026-05-01T09:30:00Z"
    assert value["created_at"] == "2026-05-01T09:30:00.123456Z"
    assert value["price"] == {"amount": 12300, "currency": "CNY"}
    assert value["version"] == 3
    assert value["branch_id"] == "", "a text without presence is always there"
    for absent in ("expires_at", "note", "cancelled_at"):
        assert absent not in value


def test_an_enum_that_says_nothing_is_absent() -> None:
    assert "status" not in codec.to_json(bookings_pb2.Booking(id=ID))


def test_a_field_may_have_a_name_of_its_own() -> None:
    message, errors = decode(reports_pb2.GetSeriesRequest, {"from": "2026-01-01", "to": "2026-02-01"})
    assert not errors
    assert (message.from_date, message.to_date) == ("2026-01-01", "2026-02-01")
    assert codec.to_json(message)["from"] == "2026-01-01"
    _, errors = decode(reports_pb2.GetSeriesRequest, {"from_date": "2026-01-01"})
    assert [(error.field, error.code) for error in errors] == [("from_date", "unknown")]


def test_all_that_is_wrong_is_told_at_once_with_its_path() -> None:
    message, errors = decode(
        customers_pb2.CreateCustomerRequest,
        {
            "name": 7,
            "phone": "138",
            "other_phones": ["1", 2],
            "identities": [{"kind": "wechat"}, {"value": 1, "colour": "red"}, "x"],
            "customer_since": "yesterday",
            "nickname": "x",
        },
    )
    assert message.phone == "138", "what is right is there, for the rules"
    assert {error.field: error.code for error in errors} == {
        "name": "type",
        "other_phones[1]": "type",
        "identities[1].value": "type",
        "identities[1].colour": "unknown",
        "identities[2]": "type",
        "customer_since": "time",
        "nickname": "unknown",
    }
    assert all(error.message and error.message_zh for error in errors)
    unknown = next(error for error in errors if error.field == "nickname")
    assert "home_branch_id" in unknown.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-05-01T09:30:00+08:00", "2026-05-01T01:30:00Z"),
        ("2026-05-01T09:30:00Z", "2026-05-01T09:30:00Z"),
        ("2026-05-01t09:30:00.5z", "2026-05-01T09:30:00.500000Z"),
        ("2026-05-01T09:30:00.123456789-03:30", "2026-05-01T13:00:00.123456Z"),
    ],
)
def test_times_are_read_with_any_offset(text: str, expected: str) -> None:
    message, errors = decode(bookings_pb2.CreateBookingRequest, {"starts_at": text})
    assert not errors
    assert codec.to_json(message)["starts_at"] == expected


@pytest.mark.parametrize(
    "value",
    [
        "2026-05-01T09:30:00",
        "2026-05-01",
        "20260501T093000Z",
        "2026-02-30T09:30:00Z",
        "2026-05-01T25:00:00Z",
        "2026-05-01T09:30:00+99:99",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59Z",
        "",
        0,
        True,
        [],
    ],
)
def test_what_is_no_time_is_refused(value: object) -> None:
    _, errors = decode(bookings_pb2.CreateBookingRequest, {"starts_at": value})
    assert [error.field for error in errors] == ["starts_at"]


@pytest.mark.parametrize("value", [1.0, "1", True, 2**53, -(2**63), 1e300, None])
def test_amounts_are_whole_numbers(value: object) -> None:
    amount = {"amount": value, "currency": "CNY"}
    _, errors = decode(wallet_pb2.ChargeWalletRequest, {"amount": amount})
    assert [error.field for error in errors] == ["amount.amount"]


def test_an_amount_left_out_is_not_zero() -> None:
    _, errors = decode(wallet_pb2.ChargeWalletRequest, {"amount": {"currency": "CNY"}})
    assert [(error.field, error.code) for error in errors] == [("amount.amount", "required")]


def test_null_counts_as_left_out_but_not_in_a_change() -> None:
    message, errors = decode(customers_pb2.CreateCustomerRequest, {"name": "x", "phone": None})
    assert not errors
    assert not message.HasField("phone")
    _, errors = decode(customers_pb2.UpdateCustomerRequest, {"phone": None}, nulls=False)
    assert [(error.field, error.code) for error in errors] == [("phone", "null")]


def test_text_that_no_database_keeps_is_refused() -> None:
    _, errors = decode(customers_pb2.CreateCustomerRequest, {"name": "a\0b"})
    assert [(error.field, error.code) for error in errors] == [("name", "characters")]


@pytest.mark.parametrize("value", [None, [], "x", 1, True])
def test_what_is_no_object_is_refused(value: object) -> None:
    message, errors = decode(access_pb2.CreateTokenRequest, value)
    assert message is None
    assert [error.field for error in errors] == ["body"]


def test_enums_name_their_choices() -> None:
    _, errors = decode(wallet_pb2.TopUpRequest, {"method": "payment_method_unspecified"})
    assert "cash, card, bank, sandbox" in errors[0].message
    _, errors = decode(wallet_pb2.TopUpRequest, {"method": "unspecified"})
    assert errors


def test_bytes_are_base64() -> None:
    message, errors = decode(wallet_pb2.ReceivePaymentCallbackRequest, {"body": "aGk=", "headers": {"a": "b"}})
    assert not errors
    assert (message.body, dict(message.headers)) == (b"hi", {"a": "b"})
    _, errors = decode(wallet_pb2.ReceivePaymentCallbackRequest, {"body": "%", "headers": {"a": 1}})
    assert {error.field for error in errors} == {"body", "headers.a"}


def test_types_the_dialect_lacks_are_refused_at_start() -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="test_lacks.proto", package="test.lacks", syntax="proto3")
    file.dependency.append(duration_pb2.DESCRIPTOR.name)
    message = file.message_type.add(name="Lacks")
    message.field.add(name="wait", number=1, label=1, type=11, type_name=".google.protobuf.Duration")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(duration_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    with pytest.raises(TypeError, match="Duration"):
        codec.encoder(pool.FindMessageTypeByName("test.lacks.Lacks"))
