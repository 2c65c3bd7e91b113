"""One HTTP exchange: what was asked, and the answer, whichever part of the gateway gives it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chassis import codec, errors
from chassis.errors import Refusal
from chassis.tracing import Trace

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"
LANGUAGES = ("en", "zh")
DEFAULT_LANGUAGE = "en"
LARGEST_BODY_BYTES = 1024 * 1024
BODY_TIMEOUT_SECONDS = 30.0
NOT_MODIFIED = 304

# On every answer. The documentation pages bring a content policy of their own.
COMMON_HEADERS: Headers = [(b"x-content-type-options", b"nosniff")]
DATA_HEADERS: Headers = [
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]


class ClientGone(Exception):
    """Whoever asked has hung up; nobody waits for an answer."""


@dataclass(slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes
    media_type: str = JSON
    headers: Headers = field(default_factory=list)


class Exchange:
    """A request being answered."""

    __slots__ = (
        "_receive",
        "answer_headers",
        "credential_id",
        "headers",
        "language",
        "path_values",
        "route",
        "scope",
        "trace",
    )

    def __init__(self, scope: Scope, receive: Receive, trace: Trace) -> None:
        self.scope = scope
        self._receive = receive
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.trace = trace
        accepted = self.headers.get(b"accept-language")
        self.language = preferred_language(accepted) if accepted is not None else None
        self.route = ""
        self.credential_id = ""
        self.path_values: dict[str, str] = {}
        self.answer_headers: Headers = []

    @property
    def method(self) -> str:
        """HTTP method."""
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        """Path, percent-decoded."""
        return str(self.scope["path"])

    @property
    def client_address(self) -> str:
        """Address the request came from."""
        client = self.scope.get("client")
        return str(client[0]) if client else "local"

    def header(self, name: bytes) -> str | None:
        """A header's value; None when it was not sent. `name` in small letters."""
        value = self.headers.get(name)
        return value.decode("latin-1").strip() if value is not None else None

    async def body(self, limit_bytes: int = LARGEST_BODY_BYTES) -> bytes:
        """The whole body. Raises Refusal PAYLOAD_TOO_LARGE or DEADLINE_EXCEEDED, and ClientGone."""
        length = self.headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > limit_bytes:
            raise Refusal("PAYLOAD_TOO_LARGE", limit_bytes=limit_bytes)
        try:
            async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
                return await self._parts(limit_bytes)
        except TimeoutError:
            raise Refusal("DEADLINE_EXCEEDED") from None

    async def _parts(self, limit_bytes: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > limit_bytes:
                raise Refusal("PAYLOAD_TOO_LARGE", limit_bytes=limit_bytes)
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def gone(self) -> None:
        """Return once whoever asked has hung up."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


@functools.lru_cache(1024)
def preferred_language(accept_language: bytes) -> str | None:
    """The language of ours that an Accept-Language header likes best; None when it names none of them."""
    best, best_quality = None, 0.0
    for part in accept_language.decode("latin-1").split(",")[:20]:
        tag, _, quality_text = part.partition(";q=")
        name = tag.strip().lower().partition("-")[0]
        try:
            quality = float(quality_text) if quality_text else 1.0
        except ValueError:
            continue
        if name in LANGUAGES and quality > best_quality:
            best, best_quality = name, quality
    return best


@functools.lru_cache(1024)
def prefers_csv(accept: bytes) -> bool:
    """Whether an Accept header likes text/csv better than JSON."""
    qualities = {"text/csv": 0.0, JSON: 0.0}
    for part in accept.decode("latin-1").split(",")[:20]:
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        try:
            if name in qualities:
                qualities[name] = float(quality)
        except ValueError:
            continue
    return qualities["text/csv"] > qualities[JSON]


def problem(refusal: Refusal, exchange: Exchange) -> Answer:
    """The answer that tells a refusal, in the caller's language."""
    status, document = errors.problem(refusal, exchange.language or DEFAULT_LANGUAGE, exchange.path)
    document["trace_id"] = exchange.trace.trace_id
    headers: Headers = []
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="foyer"'))
    wait = refusal.parameters.get("retry_after_seconds")
    if status in (429, 503):
        headers.append((b"retry-after", str(wait or 1).encode()))
    return Answer(status, codec.dumps(document), PROBLEM_JSON, headers)


def start_message(answer: Answer, extra: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
    """The ASGI message that begins an answer."""
    headers = [*answer.headers, *extra]
    if answer.status != NOT_MODIFIED:
        headers.append((b"content-type", answer.media_type.encode()))
        headers.append((b"content-length", b"%d" % len(answer.body)))
    return {"type": "http.response.start", "status": answer.status, "headers": headers}
