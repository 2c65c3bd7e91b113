"""Broken rules, told field by field in both languages."""

from __future__ import annotations

import re
from typing import Any

import pytest
from buf.validate import validate_pb2
from foyer.bookings.v1 import bookings_pb2
from foyer.common.v1 import common_pb2
from foyer.customers.v1 import customers_pb2
from foyer.wallet.v1 import wallet_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from chassis import rules
from chassis.errors import FieldError
from chassis.money import money
from gateway import contract

HAN = re.compile(r"[一-鿿]")
FIELD_RULES: Any = validate_pb2.field
MESSAGE_RULES: Any = validate_pb2.message


def messages() -> list[Descriptor]:
    return [message for file in contract.files() for message in file.message_types_by_name.values()]


def codes(message: Message, errors: list[FieldError] | None = None) -> dict[str, str]:
    return {error.field: error.code for error in rules.violations(message, errors or [])}


@pytest.mark.parametrize("descriptor", messages(), ids=lambda d: d.full_name)
def test_every_message_s_rules_compile_and_speak_both_languages(descriptor: Descriptor) -> None:
    for error in rules.violations(message_factory.GetMessageClass(descriptor)()):
        assert error.message
        assert HAN.search(error.message_zh), error


def test_every_pattern_and_own_rule_has_words() -> None:
    for message in messages():
        for field in message.fields:
            own = field.GetOptions().Extensions[FIELD_RULES]
            for rule in (own.string, own.repeated.items.string):
                if rule.pattern:
                    assert rule.pattern.removeprefix("^$|") in rules.PATTERNS, f"{field.full_name}: {rule.pattern}"
            for rule in own.cel:
                assert rule.message in rules.OWN_RULES, f"{field.full_name}: {rule.message}"
        for rule in message.GetOptions().Extensions[MESSAGE_RULES].cel:
            assert rule.id in message.fields_by_name, "a rule of a message is named like the field it is about"
            assert rule.message in rules.OWN_RULES, f"{message.full_name}: {rule.message}"


def test_what_is_right_is_not_told() -> None:
    assert rules.violations(customers_pb2.CreateCustomerRequest(name="王小明", phone="138 0013 8000")) == []


def test_what_was_left_out_is_required() -> None:
    assert codes(bookings_pb2.CreateBookingRequest()) == {
        "branch_id": "required",
        "service_id": "required",
        "customer_id": "required",
        "starts_at": "required",
    }
    assert codes(bookings_pb2.CreateBookingRequest(service_id="1"))["service_id"] == "id"
    assert codes(bookings_pb2.ListStaffRequest(branch_id="")) == {"branch_id": "id"}, "sent, but empty"


def test_paths_lead_into_lists_and_messages() -> None:
    request = customers_pb2.CreateCustomerRequest(
        name="x",
        other_phones=["138001380", "abc"],
        identities=[
            customers_pb2.Identity(kind="wechat", value="a"),
            customers_pb2.Identity(kind="fax", value="1"),
        ],
    )
    found = {error.field: error for error in rules.violations(request)}
    assert set(found) == {"other_phones[1]", "identities[1].kind"}
    assert found["identities[1].kind"].message == "must be one of: wechat, wecom, alipay, mini_program, other"
    assert found["other_phones[1]"].message_zh.startswith("应为电话号码")


def test_names_are_those_of_the_json() -> None:
    assert set(codes(bookings_pb2.FindAvailabilityRequest())) == {"branch_id", "service_id", "from", "to"}


def test_ranges_tell_their_ends() -> None:
    (error,) = rules.violations(bookings_pb2.ListBookingsRequest(page_size=201))
    assert (error.code, error.message, error.message_zh) == ("range", "must be from 0 to 200", "应在 0 到 200 之间")
    (error,) = rules.violations(common_pb2.Money(amount=-(10**15), currency="CNY"))
    assert error.message == "must be from -1000000000000 to 1000000000000"


def test_enums_tell_their_names() -> None:
    request = wallet_pb2.TopUpRequest(
        customer_id="01a2000a-828d-76cc-9b3b-572046aa40a7",
        amount=money(1, "CNY"),
        method=wallet_pb2.PAYMENT_METHOD_OTHER,
    )
    (error,) = rules.violations(request)
    assert (error.field, error.message) == ("method", "must be one of: cash, card, bank, sandbox")


def test_own_rules_are_told_in_their_words() -> None:
    request = wallet_pb2.CaptureAuthorizationRequest(id="01a2000a-828d-76cc-9b3b-572046aa40a7", amount=money(0, "CNY"))
    (error,) = rules.violations(request)
    assert (error.field, error.code) == ("amount", "positive")
    assert (error.message, error.message_zh) == ("must be more than 0", "必须大于 0")


def test_what_decoding_found_comes_first_and_once() -> None:
    request = customers_pb2.CreateCustomerRequest(other_phones=["abc"])
    before = [FieldError("name", "type", "must be text"), FieldError("other_phones[0]", "type", "must be text")]
    found = rules.violations(request, before)
    assert [(error.field, error.code) for error in found] == [("name", "type"), ("other_phones[0]", "type")]


def test_required_fields() -> None:
    assert rules.required_fields(wallet_pb2.ChargeWalletRequest.DESCRIPTOR) == {"customer_id", "amount", "reason"}
    assert rules.required_fields(common_pb2.Money.DESCRIPTOR) == {"amount", "currency"}
    assert not rules.required_fields(bookings_pb2.ListBookingsRequest.DESCRIPTOR)
