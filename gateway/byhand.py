"""What the OpenAPI document says of the routes that are written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gateway import contract
from gateway.events import PERMISSION

TAGS = [
    {"name": "Calendar programs", "description": "What calendar programs subscribe to."},
    {"name": "Events", "description": "What happens in the chain, as it happens."},
    {"name": "Payment providers", "description": "Callbacks of payment providers, and the built-in sandbox provider."},
]
LANGUAGE = {"$ref": "#/components/parameters/AcceptLanguage"}
OPEN_CODES = ("RATE_LIMITED", "UNAVAILABLE", "DEADLINE_EXCEEDED")

SCHEMAS: dict[str, Any] = {
    "CloudEvent": {
        "type": "object",
        "description": "An event (CloudEvents 1.0). What `data` holds for each type is told in docs/asyncapi.json.",
        "properties": {
            "specversion": {"type": "string"},
            "id": {"type": "string", "format": "uuid"},
            "source": {"type": "string", "description": "Service it comes from."},
            "type": {"type": "string", "description": "Noun and past verb, such as booking.confirmed."},
            "subject": {"type": "string", "description": "Id of the thing it happened to."},
            "time": {"type": "string", "format": "date-time", "description": "When it was written."},
            "occurredat": {"type": "string", "format": "date-time", "description": "When it happened in the business."},
            "datacontenttype": {"type": "string"},
            "traceparent": {"type": "string"},
            "data": {"type": "object", "additionalProperties": True},
        },
        "required": ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"],
    },
    "PaymentDecision": {
        "type": "object",
        "description": "What the customer does at the sandbox provider.",
        "properties": {"paid": {"type": "boolean", "default": True, "description": "False: turns away."}},
        "additionalProperties": False,
    },
    "SandboxPayment": {
        "type": "object",
        "description": "A payment at the sandbox provider.",
        "properties": {
            "payment_id": {"type": "string"},
            "amount": {"$ref": "#/components/schemas/Money"},
            "status": {"type": "string", "description": "State of the top-up: pending, credited or failed."},
        },
        "required": ["payment_id"],
    },
    "PaymentCallbackReceipt": {
        "type": "object",
        "description": "What the callback did.",
        "properties": {
            "top_up_id": {"type": "string", "description": "Top-up it was for."},
            "status": {"type": "string", "description": "Its state now: pending, credited or failed."},
        },
        "required": ["top_up_id"],
    },
}


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, verb and description of each; `x-codes` names the refusals."""
    yield "/v1/calendars/{token}.ics", "get", _calendar()
    yield "/v1/events", "get", _events()
    yield "/v1/hooks/payments/{provider}", "post", _callback()
    yield "/v1/sandbox/payments/{payment_id}", "get", _show_payment()
    yield "/v1/sandbox/payments/{payment_id}:pay", "post", _pay()


def _calendar() -> dict[str, Any]:
    return {
        "operationId": "ReadCalendarFeed",
        "tags": ["Calendar programs"],
        "summary": "Read a calendar feed",
        "description": (
            "What a calendar feed shows, as iCalendar (RFC 5545), for whoever knows its address. Ask again with "
            "If-None-Match: the entity tag stays while nothing that is shown changes. Entries keep their UID, and "
            "their SEQUENCE grows with every change. A forged, rotated, revoked or expired address answers 404."
        ),
        "security": [],
        "parameters": [
            {
                "name": "token",
                "in": "path",
                "required": True,
                "description": "The secret, as the feed's `url` has it.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 200},
            },
            {"$ref": "#/components/parameters/IfNoneMatch"},
            LANGUAGE,
        ],
        "responses": {
            "200": {
                "description": "The calendar.",
                "headers": {"ETag": {"$ref": "#/components/headers/ETag"}},
                "content": {"text/calendar": {"schema": {"type": "string"}}},
            },
            "304": {"description": "It is still what If-None-Match names."},
        },
        "x-codes": ["NOT_FOUND", "INVALID_REQUEST", *OPEN_CODES],
    }


def _events() -> dict[str, Any]:
    return {
        "operationId": "StreamEvents",
        "tags": ["Events"],
        "summary": "Follow the chain's events as server-sent events",
        "description": (
            "The stream goes on until the caller hangs up. Each event is the `data` of a message, as CloudEvents JSON; "
            "its `id` is the event's. With Last-Event-ID the stream goes on after that event; when it is no longer "
            "found, some events before it come again: each arrives at least once. Fields the caller has no permission "
            "for are left out; a caller whose permission holds at some branches sees the events of those. A comment "
            "is sent every 15 seconds. A credential may have 5 streams."
        ),
        "security": [{"bearer": [PERMISSION]}],
        "parameters": [
            {
                "name": "types",
                "in": "query",
                "description": "Only these events, comma-separated.",
                "style": "form",
                "explode": False,
                "schema": {"type": "array", "items": {"type": "string", "enum": list(contract.events())}},
            },
            {
                "name": "last_event_id",
                "in": "query",
                "description": "The same as Last-Event-ID, for callers that cannot send headers.",
                "schema": {"type": "string", "format": "uuid"},
            },
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "Id of the last event that arrived.",
                "schema": {"type": "string", "format": "uuid"},
            },
            LANGUAGE,
        ],
        "responses": {
            "200": {
                "description": "The stream.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            }
        },
        "x-codes": ["UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_REQUEST", *OPEN_CODES],
    }


def _callback() -> dict[str, Any]:
    headers = ("webhook-id", "webhook-timestamp", "webhook-signature")
    return {
        "operationId": "ReceivePaymentCallback",
        "tags": ["Payment providers"],
        "summary": "Take a payment provider's callback",
        "description": (
            "Signed by the provider as Standard Webhooks describe; credited once, however often it comes. "
            "The body is the provider's own and is read byte by byte, 64 KiB at most."
        ),
        "security": [],
        "parameters": [
            {
                "name": "provider",
                "in": "path",
                "required": True,
                "description": "Provider.",
                "schema": {"type": "string", "enum": ["sandbox"]},
            },
            *({"name": name, "in": "header", "schema": {"type": "string", "maxLength": 1000}} for name in headers),
            LANGUAGE,
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"type": "object", "additionalProperties": True}}},
        },
        "responses": {
            "200": _json("The callback was taken.", "PaymentCallbackReceipt"),
        },
        "x-codes": ["BAD_SIGNATURE", "NOT_FOUND", "PAYLOAD_TOO_LARGE", "INVALID_REQUEST", *OPEN_CODES],
    }


def _show_payment() -> dict[str, Any]:
    return {
        "operationId": "ShowSandboxPayment",
        "tags": ["Payment providers"],
        "summary": "Show the sandbox provider's payment page",
        "security": [],
        "parameters": [_payment_id(), LANGUAGE],
        "responses": {
            "200": {"description": "The page.", "content": {"text/html": {"schema": {"type": "string"}}}},
        },
        "x-codes": ["NOT_FOUND", "INVALID_REQUEST", *OPEN_CODES],
    }


def _pay() -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/PaymentDecision"}
    return {
        "operationId": "PaySandboxPayment",
        "tags": ["Payment providers"],
        "summary": "Pay at the sandbox provider, or turn away",
        "description": "The sandbox then calls the platform's hook over HTTP, signed, as a real provider would.",
        "security": [],
        "parameters": [_payment_id(), LANGUAGE],
        "requestBody": {"required": False, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": _json("The payment as it is now.", "SandboxPayment")},
        "x-codes": [
            "BAD_SIGNATURE",
            "NOT_FOUND",
            "WRONG_STATE",
            "MALFORMED_BODY",
            "PAYLOAD_TOO_LARGE",
            "UNSUPPORTED_MEDIA_TYPE",
            "INVALID_REQUEST",
            *OPEN_CODES,
        ],
    }


def _payment_id() -> dict[str, Any]:
    return {
        "name": "payment_id",
        "in": "path",
        "required": True,
        "description": "Payment, as `payment_url` names it.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 80},
    }


def _json(description: str, schema: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }
