"""Structured logs: one line an event, JSON or text, with the trace id, and without personal data or secrets.

`log = logs.logger(__name__)`, then `log.info("booking confirmed", booking_id=...)`. Chain ids and other ids may be
logged; names, phone numbers, addresses, texts of messages and secrets may not: keys that sound like them are blacked
out, and so are e-mail addresses and phone numbers inside texts, should one slip through.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from chassis import tracing

BLACKED_OUT = "[redacted]"
DEEPEST = 4
LONGEST_TEXT = 4000
_level = logging.WARNING
SENSITIVE = re.compile(
    r"password|passwd|secret|token|authorization|cookie|api_?key|credential|signature|phone|mobile|e?_?mail\b|address"
    r"|display_name|full_name|recipient|^name$",
    re.IGNORECASE,
)
NOT_SENSITIVE = frozenset({"page_token", "service_address", "idempotency_key"})
PERSONAL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+|(?<![\w.])\+\d[\d -]{7,16}\d|(?<![\w.-])1[3-9]\d{9}(?![\w-])")
# PostgreSQL tells the values of a row that broke a constraint; they are the customer's.
DATABASE_DETAIL = re.compile(r"DETAIL: .*")
# What stands in such a path opens it to whoever has it.
SECRET_PATH = re.compile(r"(?<=/self-service/)[^/:?#\s\"']+")
# Libraries that tell every call at INFO.
TALKATIVE = ("asyncio", "grpc", "httpx", "httpcore", "nats", "mail.log", "alembic")


def configure(service: str, level: str = "info", format: str = "json") -> None:  # noqa: A002
    """Set up logging of this process, of our own loggers and of the libraries', to standard error.

    `level` is debug, info, warning or error; `format` is json or text.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared, renderer = _set_up(service, number, format)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def _set_up(service: str, level: int, format: str) -> tuple[list[Processor], Processor]:  # noqa: A002
    """Set up our own loggers; answers what libraries' records must go through as well."""
    global _level
    _level = level
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _named(service),
        structlog.processors.format_exc_info,
        redact,
    ]
    renderer: Processor = structlog.dev.ConsoleRenderer(colors=False) if format == "text" else _render_json
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_names: structlog.WriteLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    return shared, renderer


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger; `name` is told as `logger`."""
    # Lazy: most are made at import, before `configure`; what is bound at once would keep the settings of that moment.
    return cast("structlog.typing.FilteringBoundLogger", structlog.get_logger(logger_name=name))


def tells_debug() -> bool:
    """Whether debug lines are written: ask where even preparing one costs too much."""
    return _level <= logging.DEBUG


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Black out what must not be in a log: a structlog processor."""
    return {
        key: value if key in ("time", "level", "trace_id") else _clean(key, value, 0) for key, value in event.items()
    }


def without_personal_data(text: str) -> str:
    """The text without e-mail addresses, phone numbers, secrets in paths, and values of rows the database quotes."""
    if "/self-service/" in text:
        text = SECRET_PATH.sub(BLACKED_OUT, text)
    return PERSONAL.sub(BLACKED_OUT, DATABASE_DETAIL.sub(f"DETAIL: {BLACKED_OUT}", text))


def _named(service: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        if "logger_name" in event:  # structlog keeps the word `logger` for itself
            event["logger"] = event.pop("logger_name")
        trace = tracing.current()
        if trace is not None:
            event.setdefault("trace_id", trace.trace_id)
        return event

    return add


def _clean(key: str, value: Any, depth: int) -> Any:
    if SENSITIVE.search(key) and key not in NOT_SENSITIVE and value is not None:
        return BLACKED_OUT
    if isinstance(value, str):
        return without_personal_data(value)[:LONGEST_TEXT]
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth >= DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {str(inner): _clean(str(inner), item, depth + 1) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(key, item, depth + 1) for item in value]
    return _clean(key, str(value), depth + 1)


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return orjson.dumps(event, default=str).decode()


# Whoever does not configure gets warnings as text: structlog's own default prints the variables of every traceback.
_set_up("foyer", logging.WARNING, "text")
