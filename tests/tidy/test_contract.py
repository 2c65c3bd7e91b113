"""What the contract promises strangers: every RPC has a permission, every refusal two languages, every event a key."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator

import pytest
from foyer import options_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

from chassis import errors
from chassis.rpc import snake_case
from chassis.settings import SERVICES
from gateway import contract
from services.access.permissions import READY_MADE

FILES: tuple[FileDescriptor, ...] = contract.files()
HAN = re.compile(r"[一-鿿]")


def methods() -> Iterator[MethodDescriptor]:
    for file in FILES:
        for service in file.services_by_name.values():
            yield from service.methods


@pytest.mark.parametrize("method", list(methods()), ids=lambda m: m.full_name)
def test_every_rpc_says_who_may_call_it(method: MethodDescriptor) -> None:
    rule = method.GetOptions().Extensions[options_pb2.rpc]
    ways = [bool(rule.permission), rule.open, rule.signed_in, rule.internal]
    assert sum(ways) == 1
    if rule.internal:
        assert not method.GetOptions().HasExtension(annotations_pb2.http), "an internal RPC has no route"  # type: ignore[arg-type]
    if rule.permission:
        assert rule.permission in READY_MADE["owner"].permissions, "the owner may do everything"
    for refusal in rule.refusals:
        assert refusal in errors.RULES


def test_refusals_are_told_in_both_languages() -> None:
    for rule in errors.RULES.values():
        assert rule.en
        assert HAN.search(rule.zh), rule.code
        assert rule.status in errors.GRPC_STATUS


def test_events_have_a_subject_and_a_key() -> None:
    subjects: set[str] = set()
    for file in FILES:
        for message in file.message_types_by_name.values():
            option = message.GetOptions().Extensions[options_pb2.event]
            if not option.subject:
                continue
            assert re.fullmatch(r"[a-z_]+\.[a-z_]+", option.subject)
            assert option.subject not in subjects, f"{option.subject} is published by two events"
            subjects.add(option.subject)
            assert option.key in message.fields_by_name
    assert len(subjects) > 20


@pytest.mark.parametrize("name", SERVICES)
def test_methods_stand_in_the_order_of_the_contract(name: str) -> None:
    for descriptor, servicer in importlib.import_module(f"services.{name}.service").SERVICE.servicers:
        wanted = [snake_case(method.name) for method in descriptor.methods]
        defined = [attribute for attribute in vars(servicer) if attribute in wanted]
        assert defined == wanted, descriptor.name


def test_every_grpc_service_is_served() -> None:
    services = (importlib.import_module(f"services.{name}.service").SERVICE for name in SERVICES)
    served = {descriptor.full_name for service in services for descriptor, _ in service.servicers}
    named = {service.full_name for file in FILES for service in file.services_by_name.values()}
    assert named - {"foyer.common.v1.Operations"} == served
