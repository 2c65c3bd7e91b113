"""W3C trace context: carried through HTTP, gRPC, outbox, bus and SQL comments, and exported when a collector is set.

The trace of what is being done is a context variable. `span` is the one way to begin something: it continues the trace
it is given, or the current one, or begins a new one. Without a collector a span costs about a microsecond.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanContext

Kind = Literal["internal", "server", "client", "producer", "consumer"]
Attribute = str | int | float | bool

TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
EXPORT_QUEUE_SPANS = 4096
EXPORT_BATCH_SPANS = 512
EXPORT_TIMEOUT_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Trace:
    """Where in which trace we are."""

    trace_id: str
    """32 hex digits."""
    span_id: str
    """16 hex digits: the span that is open."""
    sampled: bool = True

    @property
    def traceparent(self) -> str:
        """The header that tells others to continue here."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def child(self) -> Trace:
        """A new span of the same trace."""
        return Trace(self.trace_id, _span_id(), self.sampled)


_current: ContextVar[Trace | None] = ContextVar("foyer_trace", default=None)


def parse(header: str | None) -> Trace | None:
    """The trace a traceparent header names; None when there is none or it is not valid."""
    if not header:
        return None
    found = TRACEPARENT.fullmatch(header)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or trace_id == "0" * 32 or span_id == "0" * 16:
        return None
    return Trace(trace_id, span_id, bool(int(flags, 16) & 1))


def new() -> Trace:
    """The beginning of a trace."""
    return Trace(f"{random.getrandbits(128) or 1:032x}", _span_id())


def current() -> Trace | None:
    """The trace of what is being done now."""
    return _current.get()


def trace_id() -> str:
    """Id of the current trace; empty when there is none."""
    trace = _current.get()
    return trace.trace_id if trace is not None else ""


def traceparent() -> str | None:
    """Header for what we call or write now; None outside any trace."""
    trace = _current.get()
    return trace.traceparent if trace is not None else None


def sql_comment() -> str:
    """The current trace as an SQL comment, or nothing.

    Only for statements that are not prepared, such as BEGIN: a comment that changes makes every statement a new one.
    """
    trace = _current.get()
    return f"/*traceparent='{trace.traceparent}'*/" if trace is not None else ""


class span:  # noqa: N801 - reads as a verb: `with span("...")`
    """Do something as a span of a trace: `with span("handle booking.confirmed", kind="consumer", parent=header):`.

    Continues `parent` (a traceparent header), or the current trace, or begins one. Answers the Trace of the span.
    """

    __slots__ = ("_above", "_attributes", "_kind", "_name", "_parent", "_started", "_token", "_trace")

    def __init__(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: str | None = None,
        attributes: Mapping[str, Attribute] | None = None,
    ) -> None:
        self._name = name
        self._kind: Kind = kind
        self._parent = parent
        self._attributes = attributes
        self._started = 0
        self._token: Token[Trace | None] | None = None

    def __enter__(self) -> Trace:
        self._above = parse(self._parent) or _current.get()
        self._trace = self._above.child() if self._above is not None else new()
        self._token = _current.set(self._trace)
        if _exporter is not None:
            self._started = time.time_ns()
        return self._trace

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
        if _exporter is not None and self._started and self._trace.sampled:
            _exporter.add(self._name, self._kind, self._trace, self._above, self._started, self._attributes, problem)


class _Exporter:
    """Hands finished spans to a collector from a thread of its own; what it cannot take in time is dropped."""

    def __init__(self, processor: BatchSpanProcessor, resource: Resource) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import status

        self._processor = processor
        self._resource = resource
        self._readable = ReadableSpan
        self._trace = trace
        self._status = status
        self._kinds = {kind.name.lower(): kind for kind in trace.SpanKind}

    def add(
        self,
        name: str,
        kind: Kind,
        own: Trace,
        above: Trace | None,
        started: int,
        attributes: Mapping[str, Attribute] | None,
        problem: BaseException | None,
    ) -> None:
        """Take a span that has ended."""
        code = self._status.StatusCode.ERROR if problem is not None else self._status.StatusCode.UNSET
        description = type(problem).__name__ if problem is not None else None
        self._processor.on_end(
            self._readable(
                name=name,
                context=self._context(own, remote=False),
                parent=self._context(above, remote=kind in ("server", "consumer")) if above is not None else None,
                resource=self._resource,
                attributes=attributes,
                kind=self._kinds[kind],
                status=self._status.Status(code, description),
                start_time=started,
                end_time=time.time_ns(),
            )
        )

    def close(self) -> None:
        """Send what is left and stop."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _context(self, trace: Trace, *, remote: bool) -> SpanContext:
        flags = self._trace.TraceFlags(int(trace.sampled))
        return self._trace.SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), remote, flags)


_exporter: _Exporter | None = None


def export_to(endpoint: str, service: str) -> None:
    """Send spans to an OpenTelemetry collector (OTLP over HTTP) from now on; nothing when `endpoint` is empty.

    `service` is the name the process is known by there. An endpoint without a path means its /v1/traces.
    """
    global _exporter
    if not endpoint or _exporter is not None:
        return
    from urllib.parse import urlsplit

    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    url = endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + "/v1/traces"
    sender = OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_SECONDS)
    processor = BatchSpanProcessor(
        sender, max_queue_size=EXPORT_QUEUE_SPANS, max_export_batch_size=EXPORT_BATCH_SPANS, schedule_delay_millis=1000
    )
    _exporter = _Exporter(processor, Resource.create({"service.name": service, "service.namespace": "foyer"}))


def stop_exporting() -> None:
    """Send what is left and stop; blocks for a few seconds at most, so call it in a thread."""
    global _exporter
    if _exporter is not None:
        exporter, _exporter = _exporter, None
        exporter.close()


def _span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"
