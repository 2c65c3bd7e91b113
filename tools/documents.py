"""Writes what is derived from the contract for readers: `python -m tools.documents` (with `--check`: only compares).

docs/openapi.json for callers of the API, docs/asyncapi.json and docs/events.md for those who follow events. They are
kept in the repository so that a change of the contract shows in review.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
from foyer import options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from chassis import codec
from gateway import contract, openapi
from gateway.schemas import REFERENCE, Schemas
from tools.protos import ROOT

FOLDER = ROOT / "docs"
ASYNCAPI_VERSION = "3.0.0"
SENSITIVE: Any = options_pb2.sensitive
ABOUT_EVENTS = (
    "What happens on the platform, as CloudEvents 1.0. On NATS JetStream (stream EV) an event is published as "
    "`ev.<chain>.<noun>.<past-verb>` in binary mode: attributes as headers, the protobuf message as the body. "
    "`GET /v1/events` gives the same as server-sent events with JSON. Each event arrives at least once, and events of "
    "one thing (its key) in order."
)


def documents() -> dict[str, bytes]:
    """Name of each file in docs/, and what it should hold."""
    return {
        "openapi.json": _json(openapi.document()),
        "asyncapi.json": _json(asyncapi()),
        "events.md": events_page().encode(),
    }


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI document of the events."""
    comments = contract.comments()
    events = contract.events()
    schemas = Schemas(comments, events.values())
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for name, message in events.items():
        messages[message.name] = {
            "name": name,
            "title": message.name,
            "summary": comments.summary(message.full_name),
            "contentType": "application/protobuf",
            "headers": {"$ref": REFERENCE + "CloudEventHeaders"},
            "payload": schemas.output(message),
            "x-protobuf": message.full_name,
        }
        channels[message.name] = {
            "address": f"ev.{{chain_id}}.{name}",
            "parameters": {"chain_id": {"description": "Id of the chain."}},
            "messages": {message.name: {"$ref": f"#/components/messages/{message.name}"}},
        }
        operations[f"publish{message.name}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{message.name}"},
            "tags": [{"name": contract.source_of(message)}],
        }
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {"title": "Foyer events", "version": openapi.VERSION, "description": ABOUT_EVENTS},
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": {"CloudEventHeaders": HEADERS, **dict(sorted(schemas.found.items()))},
        },
    }


def events_page() -> str:
    """The list of events for readers."""
    comments = contract.comments()
    lines = [
        "# Events",
        "",
        "Generated from the protos by `python -m tools.documents`; do not edit.",
        "",
        ABOUT_EVENTS,
        "",
    ]
    lines += ["| event | from | key | what happened |", "| --- | --- | --- | --- |"]
    for name, message in contract.events().items():
        key = message.GetOptions().Extensions[options_pb2.event].key
        told = comments.summary(message.full_name)
        lines.append(f"| [{name}](#{_anchor(name)}) | {contract.source_of(message)} | `{key}` | {told} |")
    for name, message in contract.events().items():
        lines += ["", f"## {name}", "", f"`{message.full_name}`: {comments.text(message.full_name)}", ""]
        lines += ["| field of `data` | type | |", "| --- | --- | --- |"]
        lines += [_field_row(field, comments) for field in message.fields]
    return "\n".join(lines) + "\n"


def _field_row(field: FieldDescriptor, comments: contract.Comments) -> str:
    sensitive = _sensitive_below(field)
    note = f" Sensitive: {', '.join(sensitive)}." if sensitive else ""
    return f"| `{codec.json_name(field)}` | {_type(field)} | {comments.text(field.full_name)}{note} |"


def _sensitive_below(field: FieldDescriptor) -> list[str]:
    """Sensitive fields in a field, with the permission each needs."""
    permission = field.GetOptions().Extensions[SENSITIVE].permission
    if permission:
        return [f"`{codec.json_name(field)}` ({permission})"]
    inner: Descriptor | None = field.message_type
    if inner is None or codec.is_timestamp(field):
        return []
    return [found for below in inner.fields for found in _sensitive_below(below)]


def _type(field: FieldDescriptor) -> str:
    if codec.is_timestamp(field):
        name = "time"
    elif field.message_type is not None:
        name = field.message_type.name
    elif field.enum_type is not None:
        name = " or ".join(f"`{value}`" for value in codec.enum_numbers(field.enum_type))
    else:
        kinds = {FieldDescriptor.TYPE_STRING: "text", FieldDescriptor.TYPE_BOOL: "true or false"}
        name = kinds.get(field.type, "number")
    return f"list of {name}" if field.is_repeated else name


def _anchor(name: str) -> str:
    """As GitHub makes it of a heading."""
    return name.replace(".", "")


def _json(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"


HEADERS: dict[str, Any] = {
    "type": "object",
    "description": "CloudEvents attributes in binary mode.",
    "properties": {
        "ce-specversion": {"type": "string"},
        "ce-id": {"type": "string", "format": "uuid", "description": "Id of the event; also Nats-Msg-Id."},
        "ce-type": {"type": "string", "description": "Noun and past verb."},
        "ce-source": {"type": "string", "description": "Service it comes from."},
        "ce-subject": {"type": "string", "description": "Id of the thing it happened to."},
        "ce-time": {"type": "string", "format": "date-time", "description": "When it was written."},
        "ce-occurredat": {"type": "string", "format": "date-time", "description": "When it happened in the business."},
        "traceparent": {"type": "string", "description": "W3C trace context."},
    },
    "required": ["ce-specversion", "ce-id", "ce-type", "ce-source", "ce-subject", "ce-time"],
}


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of the files that do not hold what they should."""
    return [
        name
        for name, content in documents().items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content
    ]


def main() -> int:
    """Write the documents, or compare them; answers a process exit code."""
    wrong = stale()
    if "--check" in sys.argv[1:]:
        if wrong:
            print(f"documents: run `python -m tools.documents`; not up to date: {', '.join(wrong)}", file=sys.stderr)
        return 1 if wrong else 0
    contents = documents()
    FOLDER.mkdir(exist_ok=True)
    for name in wrong:
        (FOLDER / name).write_bytes(contents[name])
        print(f"documents: docs/{name} is up to date", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
