"""Refusals: what the platform says no with, and the one table that maps a name to gRPC and HTTP.

    Refusal                     a named no that the caller can act on: raise Refusal("SLOT_TAKEN", members={...})
    FieldError                  one field that needs attention; a refusal carries all of them at once

A refusal's status and its English and Chinese texts are written once, in the protos ((foyer.refusal) on an enum value).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import orjson
from foyer import options_pb2
from foyer.common.v1 import common_pb2
from google.protobuf.descriptor import EnumDescriptor, FileDescriptor

PROBLEM_METADATA = "foyer-problem-bin"
PROBLEM_TYPE_PREFIX = "urn:foyer:refusal:"

# THE table: HTTP status of a refusal → gRPC status.
GRPC_STATUS: Mapping[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    409: grpc.StatusCode.ABORTED,
    412: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.OUT_OF_RANGE,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

# gRPC status of a call that was not refused by us (no answer, no deadline left) → name of the refusal.
CODE_OF_STATUS: Mapping[grpc.StatusCode, str] = {
    grpc.StatusCode.UNAVAILABLE: "UNAVAILABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    grpc.StatusCode.CANCELLED: "DEADLINE_EXCEEDED",
    grpc.StatusCode.UNAUTHENTICATED: "UNAUTHENTICATED",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "UNAVAILABLE",
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """A field that needs attention: its path in the JSON body or query, a stable code, and the texts."""

    field: str
    code: str
    message: str
    message_zh: str = ""


@dataclass(frozen=True, slots=True)
class RefusalRule:
    """How a refusal is told: HTTP status, texts, and the member it adds to the problem document."""

    code: str
    status: int
    en: str
    zh: str
    member: str = ""
    member_type: str = ""
    member_repeated: bool = False


RULES: dict[str, RefusalRule] = {}


@dataclass
class Refusal(Exception):
    """A named no. `parameters` fill the texts, `members` are added to the problem document (JSON values)."""

    code: str
    members: Mapping[str, Any] = field(default_factory=dict)
    errors: Sequence[FieldError] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __init__(
        self,
        code: str,
        *,
        members: Mapping[str, Any] | None = None,
        errors: Sequence[FieldError] = (),
        **parameters: Any,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.members = members or {}
        self.errors = errors
        self.parameters = parameters

    def __str__(self) -> str:
        fields = "; ".join(f"{error.field}: {error.message}" for error in self.errors)
        return f"{self.code} {dict(self.parameters)}{' ' + fields if fields else ''}"

    @property
    def rule(self) -> RefusalRule:
        """The rule of this refusal; a name that no proto knows is told as INTERNAL."""
        return RULES.get(self.code) or RULES["INTERNAL"]


def not_found(kind: str, field_name: str | None = None) -> Refusal:
    """There is no such `kind` in this chain; `field_name` is the field of the request that named it."""
    errors = (
        [FieldError(field_name, "not_found", f"there is no such {kind}", "未找到该记录")]
        if field_name is not None
        else []
    )
    return Refusal("NOT_FOUND", errors=errors, kind=kind)


def invalid(*errors: FieldError) -> Refusal:
    """Fields of the request are wrong."""
    return Refusal("INVALID_REQUEST", errors=errors)


def code_prefix(enum: EnumDescriptor) -> str:
    """The prefix of an enum's values: BOOKING_STATUS_ for BookingStatus."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"


def register(*files: FileDescriptor) -> None:
    """Take up the refusals that proto files declare. Raises ValueError when a name has two meanings."""
    for file in files:
        for enum in file.enum_types_by_name.values():
            if not enum.name.endswith("Refusal"):
                continue
            prefix = code_prefix(enum)
            for value in enum.values:
                option = value.GetOptions().Extensions[options_pb2.refusal]
                if not option.status:
                    continue
                rule = RefusalRule(
                    value.name.removeprefix(prefix),
                    option.status,
                    option.en,
                    option.zh,
                    option.member,
                    option.member_type,
                    option.member_repeated,
                )
                if RULES.setdefault(rule.code, rule) != rule:
                    raise ValueError(f"refusal {rule.code} is declared twice with different rules")


register(common_pb2.DESCRIPTOR)


def grpc_status(refusal: Refusal) -> grpc.StatusCode:
    """The gRPC status a refusal travels with."""
    return GRPC_STATUS[refusal.rule.status]


def to_wire(refusal: Refusal) -> bytes:
    """A refusal as the bytes that travel in trailing metadata."""
    return orjson.dumps(
        {
            "code": refusal.code,
            "parameters": {name: str(value) for name, value in refusal.parameters.items()},
            "members": dict(refusal.members),
            "errors": [[error.field, error.code, error.message, error.message_zh] for error in refusal.errors],
        },
        option=orjson.OPT_UTC_Z,
    )


def from_wire(data: bytes) -> Refusal:
    """The refusal that `to_wire` wrote. Raises ValueError when it is not one."""
    content = orjson.loads(data)
    return Refusal(
        content["code"],
        members=content["members"],
        errors=[FieldError(*error) for error in content["errors"]],
        **content["parameters"],
    )


def from_call(error: grpc.aio.AioRpcError) -> Refusal:
    """The refusal a failed gRPC call stands for, whether a service said it or the transport did."""
    for key, value in error.trailing_metadata() or ():
        if key == PROBLEM_METADATA and isinstance(value, bytes):
            return from_wire(value)
    return Refusal(CODE_OF_STATUS.get(error.code(), "INTERNAL"))


def problem(refusal: Refusal, language: str = "en", instance: str | None = None) -> tuple[int, dict[str, Any]]:
    """HTTP status and RFC 9457 problem document of a refusal, its texts in `language` (zh or en)."""
    rule = refusal.rule
    code = refusal.code if refusal.code in RULES else "INTERNAL"
    text = _fill(rule.zh if language == "zh" else rule.en, refusal.parameters)
    document: dict[str, Any] = {
        "type": PROBLEM_TYPE_PREFIX + code.lower(),
        "title": code.replace("_", " ").capitalize() if language != "zh" else text,
        "status": rule.status,
        "code": code,
        "detail": text,
    }
    if instance is not None:
        document["instance"] = instance
    if refusal.errors:
        document["errors"] = [_field_error(error, language) for error in refusal.errors]
    document.update(refusal.members)
    return rule.status, document


def _field_error(error: FieldError, language: str) -> dict[str, str]:
    message = error.message_zh if language == "zh" and error.message_zh else error.message
    return {"field": error.field, "code": error.code, "message": message}


def _fill(text: str, parameters: Mapping[str, Any]) -> str:
    """Replace {name} by the parameter of that name; braces that name none are left out."""
    return re.sub(r"{(\w+)}", lambda found: str(parameters.get(found[1], "")), text)


def first_per_field(errors: Iterable[FieldError]) -> list[FieldError]:
    """One error a field: the first one found."""
    seen: dict[str, FieldError] = {}
    for error in errors:
        seen.setdefault(error.field, error)
    return list(seen.values())
