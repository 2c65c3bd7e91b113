"""HTTP ↔ gRPC for one operation, compiled from its descriptor. Nothing here knows a service by name.

headers, query, path and body → message → rules → call → message → JSON or CSV, with all that is wrong told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import grpc
import orjson
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from chassis import client, codec
from chassis.access import CALLER_METADATA
from chassis.errors import FieldError, Refusal, from_call, invalid
from chassis.rpc import IF_MATCH_METADATA, KEY_METADATA, LANGUAGE_METADATA
from chassis.rules import violations
from gateway.contract import SERVICE_FIELD, VERSION_FIELD, Operation
from gateway.exchange import Answer, Exchange, Headers, prefers_csv
from gateway.tables import rows_field, to_csv

DEADLINE_SECONDS = 10.0
LEAST_DEADLINE_SECONDS, MOST_DEADLINE_SECONDS = 0.05, 30.0
LONGEST_KEY = 200
LONGEST_QUERY = 8192
MOST_PARAMETERS = 200
LARGEST_VERSION = 2**53

Convert = Callable[[str], Any]
ChannelOf = Callable[[str], grpc.aio.Channel]


class Endpoint:
    """Answers the requests of one operation."""

    def __init__(self, operation: Operation, channel_of: ChannelOf) -> None:
        """`channel_of` answers the channel of a service by its name."""
        method = operation.method
        self.operation = operation
        self._decode = codec.decoder(method.input_type, nulls=not operation.changes_fields)
        self._encode = codec.encoder(method.output_type)
        self._convert = converters(method.input_type)
        self._parameters = operation.parameters
        self._names = {name: codec.json_name(method.input_type.fields_by_name[name]) for name in self._parameters}
        self._query_fields = {} if operation.has_body else self._convert
        self._rows = rows_field(method.output_type) if operation.is_read else None
        self._channel_of = channel_of
        self._path = f"/{method.containing_service.full_name}/{method.name}"
        self._serialize = message_factory.GetMessageClass(method.input_type).SerializeToString
        self._parse = message_factory.GetMessageClass(method.output_type).FromString
        self._calls: dict[str, Any] = {}

    async def __call__(self, exchange: Exchange, caller_token: str | None) -> Answer:
        """Answer a request. Raises Refusal and ClientGone."""
        errors: list[FieldError] = []
        value = await self._read(exchange, errors)
        message = self._decode(value, errors)
        if message is None:
            raise invalid(*errors)
        errors = violations(message, errors)
        deadline_seconds, metadata = _metadata(exchange, caller_token, errors, is_read=self.operation.is_read)
        if errors:
            raise invalid(*errors)
        call = self._call(self.operation.service or getattr(message, SERVICE_FIELD))
        if self.operation.is_read:
            answer = await client.read(call, message, metadata, deadline_seconds)
        else:
            try:
                answer = await call(message, timeout=deadline_seconds, metadata=metadata)
            except grpc.aio.AioRpcError as problem:
                raise from_call(problem) from None
        return self._answer(answer, exchange)

    def _call(self, service: str) -> Any:
        call = self._calls.get(service)
        if call is None:
            channel = self._channel_of(service)
            call = self._calls[service] = channel.unary_unary(self._path, self._serialize, self._parse)
        return call

    async def _read(self, exchange: Exchange, errors: list[FieldError]) -> Any:
        """The request as a JSON value: body or query, and the path."""
        query = exchange.scope["query_string"]
        value: Any = read_query(query, self._query_fields, errors) if query else {}
        if self.operation.has_body:
            body = await exchange.body()
            if body:
                value = read_json(body, exchange.header(b"content-type"))
            if type(value) is not dict:
                return value
        for name, text in exchange.path_values.items():
            key = self._names[name]
            given = value.get(key)
            if given is not None and given != text:
                errors.append(FieldError(key, "conflict", "differs from the path", "与路径中的值不一致"))
            value[key] = self._convert[key][0](text)
        return value

    def _answer(self, message: Any, exchange: Exchange) -> Answer:
        headers: Headers = []
        if self.operation.has_version:
            tag = f'"{getattr(message, VERSION_FIELD)}"'
            headers = [(b"etag", tag.encode()), (b"cache-control", b"private, no-cache")]
            if self.operation.is_read and _matches(exchange.header(b"if-none-match"), tag):
                return Answer(304, b"", headers=headers)
        value = self._encode(message)
        if self._rows is not None and prefers_csv(exchange.headers.get(b"accept", b"")):
            token = value.get("next_page_token")
            if token:
                headers.append((b"foyer-next-page-token", token.encode()))
            return Answer(200, to_csv(self._rows, value), "text/csv; charset=utf-8; header=present", headers)
        return Answer(self.operation.status, orjson.dumps(value), headers=headers)


def converters(descriptor: Descriptor) -> dict[str, tuple[Convert, bool]]:
    """Name in JSON → how its text in a query or path becomes a JSON value, and whether it may come several times."""
    found: dict[str, tuple[Convert, bool]] = {}
    for field in descriptor.fields:
        if field.message_type is None or codec.is_timestamp(field):
            found[codec.json_name(field)] = (_converter(field), field.is_repeated)
    return found


def _converter(field: FieldDescriptor) -> Convert:
    if codec.is_timestamp(field):
        return _time
    if field.type in codec.INTEGERS:
        return _integer
    if field.type == FieldDescriptor.TYPE_BOOL:
        return lambda text: {"true": True, "false": False}.get(text, text)
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return _number
    return str


def _integer(text: str) -> Any:
    """What is no number stays text, which the decoder then refuses by name."""
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else text


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _time(text: str) -> str:
    """A + that was not percent-encoded arrives as a blank: 2026-05-01T09:00:00 08:00."""
    return f"{text[:-6]}+{text[-5:]}" if text[-6:-5] == " " and "T" in text else text


def read_query(query: bytes, known: Mapping[str, tuple[Convert, bool]], errors: list[FieldError]) -> dict[str, Any]:
    """A query string as a JSON value; adds to `errors` what is not known or comes too often."""
    try:
        if len(query) > LONGEST_QUERY:
            raise ValueError
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS
        )
    except ValueError:
        text = f"must be percent-encoded UTF-8 of at most {LONGEST_QUERY} bytes and {MOST_PARAMETERS} parameters"
        chinese = f"应为百分号编码的 UTF-8，最多 {LONGEST_QUERY} 字节、{MOST_PARAMETERS} 个参数"
        errors.append(FieldError("query", "encoding", text, chinese))
        return {}
    values: dict[str, Any] = {}
    for name, text in pairs:
        convert, many = known.get(name, (None, False))
        if convert is None:
            names = ", ".join(known) or "none"
            errors.append(
                FieldError(name, "unknown", f"is not known; known are: {names}", f"未知参数；可用参数：{names}")
            )
        elif many:
            values.setdefault(name, []).append(convert(text))
        elif name in values:
            errors.append(FieldError(name, "repeated", "must be given once", "只能出现一次"))
        else:
            values[name] = convert(text)
    return values


def read_json(body: bytes, content_type: str | None) -> Any:
    """A body as a JSON value. Raises Refusal UNSUPPORTED_MEDIA_TYPE or MALFORMED_BODY."""
    if content_type is not None:
        kind = content_type.partition(";")[0].strip().lower()
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            raise Refusal("UNSUPPORTED_MEDIA_TYPE")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Refusal("MALFORMED_BODY") from None


def _metadata(
    exchange: Exchange, caller_token: str | None, errors: list[FieldError], *, is_read: bool
) -> tuple[float, list[tuple[str, str]]]:
    """Deadline (seconds) and metadata of the call; adds to `errors` the headers that are wrong."""
    metadata = [("traceparent", exchange.trace.traceparent)]
    if caller_token is not None:
        metadata.append((CALLER_METADATA, caller_token))
    if exchange.language is not None:
        metadata.append((LANGUAGE_METADATA, exchange.language))
    deadline_seconds = DEADLINE_SECONDS
    headers = exchange.headers
    if b"request-timeout" in headers:
        deadline_seconds = _deadline(exchange.header(b"request-timeout") or "", errors)
    if not is_read:
        if b"idempotency-key" in headers:
            metadata.append((KEY_METADATA, _idempotency_key(exchange.header(b"idempotency-key") or "", errors)))
        if b"if-match" in headers:
            version = _version(exchange.header(b"if-match") or "", errors)
            if version is not None:
                metadata.append((IF_MATCH_METADATA, version))
    return deadline_seconds, metadata


def _deadline(text: str, errors: list[FieldError]) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    least, most = LEAST_DEADLINE_SECONDS, MOST_DEADLINE_SECONDS
    if not least <= seconds <= most:
        english, chinese = f"must be seconds from {least} to {most}", f"应为 {least} 到 {most} 之间的秒数"
        errors.append(FieldError("Request-Timeout", "range", english, chinese))
    return seconds


def _idempotency_key(text: str, errors: list[FieldError]) -> str:
    if not 1 <= len(text) <= LONGEST_KEY or not text.isascii() or not text.isprintable():
        english, chinese = f"must be 1 to {LONGEST_KEY} printable characters", f"应为 1 到 {LONGEST_KEY} 个可打印字符"
        errors.append(FieldError("Idempotency-Key", "format", english, chinese))
    return text


def _version(text: str, errors: list[FieldError]) -> str | None:
    """The version an If-Match header names; None for any (`*`)."""
    if text == "*":
        return None
    digits = text.removeprefix("W/").strip('"')
    if not (digits.isascii() and digits.isdigit() and int(digits[:20]) <= LARGEST_VERSION):
        english, chinese = 'must be the ETag of an answer, such as "5"', '应为响应中的 ETag，例如 "5"'
        errors.append(FieldError("If-Match", "format", english, chinese))
    return digits


def _matches(if_none_match: str | None, tag: str) -> bool:
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or tag in [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
