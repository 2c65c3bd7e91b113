"""The OpenAPI document, derived from the contract: routes, schemas, comments, permissions, refusals."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor

from chassis import codec, errors
from chassis.rules import required_fields
from gateway import byhand, contract
from gateway.contract import Comments, Operation
from gateway.schemas import REFERENCE, Schema, Schemas
from gateway.tables import rows_field

VERSION = "1.0.0"
SECURITY = "bearer"
DESCRIPTION = (
    "Front of house for service chains: bookings, customers, stored value, messages and reports. Times are RFC 3339, "
    'money is {"amount": minor units, "currency"}, what is absent is absent. A refusal is a problem document '
    "(RFC 9457) with a stable `code`; its texts follow Accept-Language (en, zh). Send an Idempotency-Key with every "
    "write: the same key and request get the same answer, however often they are sent. A caller who waits no longer "
    "than some seconds says so in Request-Timeout (10 when not given) and gets 504 then."
)

BODY_CODES = ("MALFORMED_BODY", "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")
ALWAYS_CODES = ("INVALID_REQUEST", "RATE_LIMITED", "UNAVAILABLE", "DEADLINE_EXCEEDED")
SIGNED_IN_CODES = ("UNAUTHENTICATED", "PERMISSION_DENIED")
UUID_RULE: Any = validate_pb2.field


@functools.cache
def document() -> dict[str, Any]:
    """The whole document."""
    return _Builder(contract.comments()).document()


@functools.cache
def document_bytes() -> bytes:
    """The document as JSON."""
    return orjson.dumps(document())


class _Builder:
    def __init__(self, comments: Comments) -> None:
        self._comments = comments
        contract.files()  # registers the refusals
        members = [_message(rule.member_type) for rule in errors.RULES.values() if rule.member_type]
        answers = [operation.method.output_type for operation in contract.operations()]
        self._schemas = Schemas(comments, answers + members)

    def document(self) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = {}
        for operation in contract.operations():
            paths.setdefault(operation.path, {})[operation.verb.lower()] = self._operation(operation)
        for path, verb, described in byhand.operations():
            codes = described.pop("x-codes")
            described["responses"] |= self._problems(codes)
            paths.setdefault(path, {})[verb] = described
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Foyer",
                "version": VERSION,
                "description": DESCRIPTION,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": self._tags(),
            "paths": paths,
            "components": {
                "schemas": dict(sorted({**self._schemas.found, **PROBLEM_SCHEMAS, **byhand.SCHEMAS}.items())),
                "parameters": PARAMETERS,
                "headers": HEADERS,
                "securitySchemes": {SECURITY: SECURITY_SCHEME},
            },
            "security": [{SECURITY: []}],
        }

    def _tags(self) -> list[dict[str, str]]:
        services = [service for file in contract.files() for service in file.services_by_name.values()]
        own: list[dict[str, str]] = [
            {"name": each.name, "description": self._comments.text(each.full_name)} for each in services
        ]
        return [*own, *byhand.TAGS]

    def _operation(self, operation: Operation) -> dict[str, Any]:
        method = operation.method
        described: dict[str, Any] = {
            "operationId": operation.name,
            "tags": [method.containing_service.name],
            "summary": self._comments.summary(method.full_name).rstrip("."),
            "parameters": list(self._parameters(operation)),
        }
        details = self._comments.details(method.full_name)
        if details:
            described["description"] = details
        if operation.is_open:
            described["security"] = []
        else:
            described["security"] = [{SECURITY: [operation.permission] if operation.permission else []}]
        if operation.has_body:
            names = operation.parameters
            schema = self._schemas.request(method.input_type, names, nulls=not operation.changes_fields)
            whole = self._schemas.found[schema["$ref"].removeprefix(REFERENCE)]
            described["requestBody"] = {
                "required": "required" in whole,
                "content": {"application/json": {"schema": schema}},
            }
        described["responses"] = {str(operation.status): self._success(operation), **self._problems(_codes(operation))}
        if operation.is_read and operation.has_version:
            described["responses"]["304"] = {"description": "It is still what If-None-Match names."}
        return described

    def _parameters(self, operation: Operation) -> Iterator[dict[str, Any]]:
        fields = operation.method.input_type.fields
        for field in fields:
            in_path = field.name in operation.parameters
            if not in_path and operation.has_body:
                continue
            name = codec.json_name(field)
            parameter: dict[str, Any] = {"name": field.name if in_path else name, "in": "path" if in_path else "query"}
            if in_path or name in required_fields(operation.method.input_type):
                parameter["required"] = True
            description = self._comments.text(field.full_name)
            if description:
                parameter["description"] = description
            yield {**parameter, "schema": self._schemas.parameter(field)}
        yield _parameter("AcceptLanguage")
        if operation.is_read:
            if operation.has_version:
                yield _parameter("IfNoneMatch")
        else:
            if _takes_key(operation):
                yield _parameter("IdempotencyKey")
            if _takes_version(operation):
                yield _parameter("IfMatch")

    def _success(self, operation: Operation) -> dict[str, Any]:
        output = operation.method.output_type
        content: dict[str, Any] = {"application/json": {"schema": self._schemas.output(output)}}
        rows = rows_field(output) if operation.is_read else None
        headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ("RateLimit-Remaining", "Foyer-Trace-Id")}
        if rows is not None:
            content["text/csv"] = {"schema": {"type": "string"}}
            headers["Foyer-Next-Page-Token"] = {"$ref": "#/components/headers/Foyer-Next-Page-Token"}
        if operation.has_version:
            headers["ETag"] = {"$ref": "#/components/headers/ETag"}
        description = self._comments.text(output.full_name) or output.name
        return {"description": description, "headers": headers, "content": content}

    def _problems(self, codes: Iterable[str]) -> dict[str, Any]:
        """Answers that tell refusals, by status."""
        by_status: dict[int, list[str]] = {}
        for code in dict.fromkeys(codes):
            by_status.setdefault(errors.RULES[code].status, []).append(code)
        return {str(status): self._problem(by_status[status]) for status in sorted(by_status)}

    def _problem(self, codes: list[str]) -> dict[str, Any]:
        described = " ".join(f"`{code}`: {errors.RULES[code].en}" for code in codes)
        with_members = [self._problem_with_member(code) for code in codes if errors.RULES[code].member]
        plain: Schema = {"$ref": REFERENCE + "Problem"}
        schema = plain
        if with_members:
            others = [plain] if len(with_members) < len(codes) else []
            both = [*with_members, *others]
            schema = both[0] if len(both) == 1 else {"anyOf": both}
        return {"description": described, "content": {"application/problem+json": {"schema": schema}}}

    def _problem_with_member(self, code: str) -> Schema:
        """Schema of a problem that carries more than all have."""
        rule = errors.RULES[code]
        name = "".join(part.title() for part in code.split("_")) + "Problem"
        if name not in self._schemas.found:
            member = self._schemas.output(_message(rule.member_type))
            if rule.member_repeated:
                member = {"type": "array", "items": member}
            plain: Any = PROBLEM_SCHEMAS["Problem"]
            self._schemas.found[name] = {
                "type": "object",
                "description": rule.en,
                "properties": {**plain["properties"], "code": {"type": "string", "enum": [code]}, rule.member: member},
                "required": plain["required"],
            }
        return {"$ref": REFERENCE + name}


def _codes(operation: Operation) -> Iterator[str]:
    """Every refusal an operation may answer with."""
    yield from operation.refusals
    if operation.has_body:
        yield from BODY_CODES
    if not operation.is_open:
        yield from SIGNED_IN_CODES
    if operation.parameters or _names_things(operation.method.input_type):
        yield "NOT_FOUND"
    if _takes_key(operation):
        yield "IDEMPOTENCY_KEY_REUSED"
    if _takes_version(operation):
        yield "PRECONDITION_FAILED"
    yield from ALWAYS_CODES


def _takes_key(operation: Operation) -> bool:
    """Whether an operation minds Idempotency-Key: keys are those of who is signed in, or of the link in the path."""
    return not operation.is_read and (not operation.is_open or bool(operation.parameters))


def _takes_version(operation: Operation) -> bool:
    """Whether an operation minds If-Match: it changes what its path names, and does not make something new."""
    changes = operation.verb == "PATCH" or (bool(operation.parameters) and operation.status != 201)
    return not operation.is_read and operation.has_version and changes


def _names_things(descriptor: Descriptor) -> bool:
    """Whether a request names things by their ids, which may not be there."""
    for field in descriptor.fields:
        rules = field.GetOptions().Extensions[UUID_RULE]
        if rules.string.uuid or rules.repeated.items.string.uuid or field.name.endswith("_id"):
            return True
        if field.message_type is not None and not codec.is_timestamp(field) and _names_things(field.message_type):
            return True
    return False


def _message(full_name: str) -> Descriptor:
    package, _, name = full_name.rpartition(".")
    for file in contract.files():
        if file.package == package and name in file.message_types_by_name:
            return file.message_types_by_name[name]
    raise ValueError(f"{full_name} is no message of the contract")


def _parameter(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/parameters/{name}"}


SECURITY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "An access token from POST /v1/auth/token, or an API key. The scopes are the permissions needed.",
}

PARAMETERS: dict[str, Any] = {
    "AcceptLanguage": {
        "name": "Accept-Language",
        "in": "header",
        "description": "Language of texts: en or zh.",
        "schema": {"type": "string", "examples": ["zh-CN, en;q=0.5"]},
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "The same key and request get the same answer, and the effect once.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
    },
    "IfMatch": {
        "name": "If-Match",
        "in": "header",
        "description": "ETag of the version that is to be changed; another current version answers 412.",
        "schema": {"type": "string", "pattern": '^("[0-9]{1,15}"|\\*)$'},
    },
    "IfNoneMatch": {
        "name": "If-None-Match",
        "in": "header",
        "description": "ETag of what the caller has; answers 304 while it is current.",
        "schema": {"type": "string"},
    },
}

HEADERS: dict[str, Any] = {
    "ETag": {"description": "Version of the answer, for If-Match and If-None-Match.", "schema": {"type": "string"}},
    "RateLimit-Remaining": {
        "description": "Requests left until RateLimit-Reset (seconds), of RateLimit-Limit.",
        "schema": {"type": "integer"},
    },
    "Foyer-Trace-Id": {"description": "Leads to what happened in the platform's logs.", "schema": {"type": "string"}},
    "Foyer-Next-Page-Token": {
        "description": "`next_page_token`, for answers as CSV; absent on the last page.",
        "schema": {"type": "string"},
    },
}

PROBLEM_SCHEMAS: dict[str, Any] = {
    "Problem": {
        "type": "object",
        "description": "A refusal (RFC 9457).",
        "properties": {
            "type": {"type": "string", "description": "URN of the kind of problem."},
            "title": {"type": "string", "description": "The kind of problem, in the caller's language."},
            "status": {"type": "integer", "description": "HTTP status."},
            "code": {"type": "string", "description": "Name of the refusal; it never changes."},
            "detail": {"type": "string", "description": "What is wrong, in the caller's language."},
            "instance": {"type": "string", "description": "Path that was asked."},
            "trace_id": {"type": "string", "description": "Leads to what happened in the platform's logs."},
            "errors": {
                "type": "array",
                "items": {"$ref": REFERENCE + "FieldProblem"},
                "description": "Every field that needs attention.",
            },
        },
        "required": ["type", "title", "status", "code", "detail"],
    },
    "FieldProblem": {
        "type": "object",
        "description": "A field that needs attention.",
        "properties": {
            "field": {"type": "string", "description": "Path of the field, such as `identities[0].kind`, or a header."},
            "code": {"type": "string", "description": "What is wrong, for programs."},
            "message": {"type": "string", "description": "What is wrong, in the caller's language."},
        },
        "required": ["field", "code", "message"],
    },
}
