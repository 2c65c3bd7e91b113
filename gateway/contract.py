"""The contract as the gateway reads it: operations with their routes, events, refusals, and what the comments say."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from foyer import options_pb2
from foyer.common.v1 import common_pb2
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor, MethodDescriptor

from chassis import errors
from chassis.settings import SERVICES

SERVICE_FIELD = "service"
VERSION_FIELD = "version"
PARAMETER = re.compile(r"{(\w+)}")
DESCRIPTORS_FILE = "foyer.binpb"
HTTP_RULE: Any = annotations_pb2.http


@dataclass(frozen=True, slots=True)
class Operation:
    """An RPC that is reachable over HTTP."""

    method: MethodDescriptor
    verb: str
    path: str
    service: str | None
    """Service of the platform that answers; None: the one the request's `service` field names."""
    has_body: bool
    permission: str
    is_open: bool
    status: int
    refusals: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the RPC, which is the operation's id."""
        return str(self.method.name)

    @property
    def is_read(self) -> bool:
        """It changes nothing."""
        return self.verb == "GET"

    @property
    def parameters(self) -> list[str]:
        """Names of the fields that stand in the path."""
        return PARAMETER.findall(self.path)

    @property
    def changes_fields(self) -> bool:
        """It changes those fields only that were sent, so that null would be ambiguous."""
        return self.verb == "PATCH"

    @property
    def has_version(self) -> bool:
        """Its answer has a version: an ETag."""
        return VERSION_FIELD in self.method.output_type.fields_by_name


@functools.cache
def files() -> tuple[FileDescriptor, ...]:
    """The proto files of the services and of what they share; their refusals are known from here on."""
    found = tuple(
        import_module(f"foyer.{name}.v1.{module}").DESCRIPTOR for name in SERVICES for module in _modules(name)
    )
    errors.register(*found)
    return (*found, common_pb2.DESCRIPTOR)


def _modules(service: str) -> list[str]:
    """The generated modules of a service: that of its own name first, then those of its other nouns."""
    package = import_module(f"foyer.{service}.v1")
    names = {module.name for module in iter_modules(package.__path__) if module.name.endswith("_pb2")}
    own = f"{service}_pb2"
    return [own, *sorted(names - {own})]


@functools.cache
def operations() -> tuple[Operation, ...]:
    """Every RPC with a route. Raises ValueError for a route the gateway could not serve."""
    return tuple(_operations())


def _operations() -> Iterator[Operation]:
    for file in files():
        service = file.package.split(".")[1]
        for descriptor in file.services_by_name.values():
            for method in descriptor.methods:
                operation = _operation(method, service if service in SERVICES else None)
                if operation is not None:
                    yield operation


def _operation(method: MethodDescriptor, service: str | None) -> Operation | None:
    options = method.GetOptions()
    http: Any = options.Extensions[HTTP_RULE]
    verb = http.WhichOneof("pattern")
    if verb is None:
        return None
    if http.body not in ("", "*") or http.additional_bindings:
        raise ValueError(f'{method.full_name}: a body is all of the request ("*"), and a route is one')
    if service is None and SERVICE_FIELD not in method.input_type.fields_by_name:
        raise ValueError(f"{method.full_name}: which service answers? The request needs a field `{SERVICE_FIELD}`")
    rule: Any = options.Extensions[options_pb2.rpc]
    if rule.internal:
        raise ValueError(f"{method.full_name} is internal and has a route")
    creates = rule.creates or method.name.startswith("Create")
    return Operation(
        method=method,
        verb=verb.upper(),
        path=getattr(http, verb),
        service=service,
        has_body=http.body == "*",
        permission=rule.permission,
        is_open=rule.open,
        status=201 if creates and not rule.open else 200,
        refusals=tuple(rule.refusals),
    )


@functools.cache
def events() -> dict[str, Descriptor]:
    """Every event of the platform: name, such as booking.confirmed → message."""
    found: dict[str, Descriptor] = {}
    for file in files():
        for message in file.message_types_by_name.values():
            subject = message.GetOptions().Extensions[options_pb2.event].subject
            if subject:
                found[subject] = message
    return dict(sorted(found.items()))


def source_of(event: Descriptor) -> str:
    """Service that publishes an event."""
    return str(event.file.package.split(".")[1])


class Comments:
    """What the protos' comments say, by full name: the public documentation."""

    def __init__(self, descriptors: descriptor_pb2.FileDescriptorSet) -> None:
        self._texts: dict[str, str] = {}
        for file in descriptors.file:
            if file.package.startswith("foyer"):
                self._read(file)

    def text(self, full_name: str) -> str:
        """The whole comment, without line ends inside paragraphs; empty when there is none."""
        return self._texts.get(full_name, "")

    def summary(self, full_name: str) -> str:
        """Its first paragraph."""
        return self.text(full_name).partition("\n\n")[0]

    def details(self, full_name: str) -> str:
        """What follows the first paragraph."""
        return self.text(full_name).partition("\n\n")[2]

    def _read(self, file: descriptor_pb2.FileDescriptorProto) -> None:
        places = {tuple(place.path): place for place in file.source_code_info.location}

        def note(name: str, *path: int) -> None:
            place = places.get(path)
            if place is not None:
                self._texts[f"{file.package}.{name}"] = _paragraphs(place.leading_comments or place.trailing_comments)

        for i, service in enumerate(file.service):
            note(service.name, 6, i)
            for j, method in enumerate(service.method):
                note(f"{service.name}.{method.name}", 6, i, 2, j)
        for i, enum in enumerate(file.enum_type):
            note(enum.name, 5, i)
            for j, value in enumerate(enum.value):
                # Values are siblings of their enum in protobuf's names; here they hang below it.
                note(f"{enum.name}.{value.name}", 5, i, 2, j)
        for i, message in enumerate(file.message_type):
            note(message.name, 4, i)
            for j, field in enumerate(message.field):
                note(f"{message.name}.{field.name}", 4, i, 2, j)


def _paragraphs(comment: str) -> str:
    parts = re.split(r"\n\s*\n", comment.strip())
    return "\n\n".join(" ".join(line.strip() for line in part.splitlines()) for part in parts)


@functools.cache
def comments() -> Comments:
    """Comments of the contract this process was generated from."""
    path = Path(common_pb2.__file__).resolve().parents[3] / DESCRIPTORS_FILE
    return Comments(descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()))
