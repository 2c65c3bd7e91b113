"""What the chassis tells about a process: trace ids, logs without personal data, metrics and health over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from chassis import ids, logs, metrics, tracing

HEADER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_ids_ascend_and_tell_when_they_were_made() -> None:
    found = [ids.new_id() for _ in range(1000)]
    assert found == sorted(found)
    assert len(set(found)) == 1000
    assert abs(ids.time_of(found[0]) - datetime.now(UTC)) < timedelta(seconds=5)
    with pytest.raises(ValueError, match="not a UUIDv7"):
        ids.time_of("c1e2a1b0-0000-4000-8000-000000000000")


def test_a_traceparent_is_read_and_written() -> None:
    trace = tracing.parse(HEADER)
    assert trace is not None
    assert trace.traceparent == HEADER
    assert tracing.parse(HEADER[:-2] + "00") == tracing.Trace(trace.trace_id, trace.span_id, sampled=False)
    assert tracing.parse("01-" + HEADER[3:] + "-more") == trace


@pytest.mark.parametrize(
    "header",
    [
        "",
        None,
        "00-abc",
        HEADER.upper(),
        HEADER + "-more",
        "ff" + HEADER[2:],
        "00-" + "0" * 32 + HEADER[35:],
        HEADER[:36] + "0" * 16 + "-01",
        HEADER + "\n",
        HEADER + "'*/ drop table",
    ],
)
def test_what_is_no_traceparent_is_not_followed(header: str | None) -> None:
    assert tracing.parse(header) is None


def test_spans_continue_a_trace_and_end() -> None:
    assert tracing.sql_comment() == ""
    with tracing.span("outer", parent=HEADER) as outer:
        assert outer.trace_id == HEADER[3:35]
        assert tracing.traceparent() == outer.traceparent
        with tracing.span("inner") as inner:
            assert (inner.trace_id, tracing.trace_id()) == (outer.trace_id, outer.trace_id)
            assert inner.span_id != outer.span_id
            assert tracing.sql_comment() == f"/*traceparent='{inner.traceparent}'*/"
        assert tracing.current() == outer
    assert tracing.current() is None


class Collector(BaseHTTPRequestHandler):
    received: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def collector() -> Iterator[HTTPServer]:
    Collector.received = []
    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_spans_are_exported_when_a_collector_is_set(collector: HTTPServer) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    tracing.export_to(f"http://127.0.0.1:{collector.server_port}", "foyer-test")

    def fail() -> None:
        with tracing.span("call", kind="server", parent=HEADER, attributes={"rpc": "Get"}):
            with tracing.span("inner"):
                pass
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    tracing.stop_exporting()
    with tracing.span("afterwards"):
        pass
    ((path, body),) = Collector.received
    assert path == "/v1/traces"
    (spans,) = ExportTraceServiceRequest.FromString(body).resource_spans
    inner, outer = spans.scope_spans[0].spans
    assert (outer.name, inner.name) == ("call", "inner")
    assert outer.trace_id.hex() == inner.trace_id.hex() == HEADER[3:35]
    assert outer.parent_span_id.hex() == HEADER[36:52]
    assert inner.parent_span_id == outer.span_id
    assert outer.status.code == 2
    assert outer.end_time_unix_nano >= outer.start_time_unix_nano > 0


def test_logs_are_json_with_the_trace_and_without_personal_data(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("wallet", "info", "json")
        log = logs.logger("here")
        log.debug("not told")
        with tracing.span("call", parent=HEADER):
            log.info(
                "paid by anna@example.com, +86 138 1234 5678 or 13812345678",
                chain_id="01a2000e-1667-76ca-889b-384ab0d11989",
                phone="13812345678",
                nested={"access_token": "x", "amount": 12300, "times": [datetime(2026, 1, 2, tzinfo=UTC)]},
            )
        try:
            raise ValueError("duplicate key\nDETAIL:  Key (phone)=(13812345678) already exists.")
        except ValueError:
            log.exception("failed")
        logging.getLogger("nats").warning("from a library about %s", "bob@example.com")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logs.configure("foyer", "warning", "text")
        root.handlers[:] = handlers
        root.setLevel(level)
    told = capsys.readouterr().err
    first, second, third = map(json.loads, told.strip().splitlines())
    assert first["event"] == "paid by [redacted], [redacted] or [redacted]"
    assert (first["service"], first["level"], first["logger"], first["trace_id"]) == (
        *("wallet", "info", "here"),
        HEADER[3:35],
    )
    assert (first["chain_id"], first["phone"]) == ("01a2000e-1667-76ca-889b-384ab0d11989", "[redacted]")
    assert first["nested"] == {"access_token": "[redacted]", "amount": 12300, "times": ["2026-01-02 00:00:00+00:00"]}
    assert "duplicate key" in second["exception"]
    assert third["event"] == "from a library about [redacted]"
    assert "1381234" not in told
    assert "@" not in told


def test_a_metric_is_made_once() -> None:
    one = metrics.counter("foyer_test_total", "For the test.", ("kind",))
    assert metrics.counter("foyer_test_total", "For the test.", ("kind",)) is one
    with pytest.raises(TypeError):
        metrics.gauge("foyer_test_total", "For the test.")


async def ask(port: int, request: bytes) -> tuple[bytes, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


async def test_metrics_and_health_over_http() -> None:
    health = {"database": True, "bus": False}
    server = await metrics.serve(0, lambda: health)
    port = server.sockets[0].getsockname()[1]
    metrics.observe_rpc("bookings", "GetBooking", "OK", 0.003)
    head, body = await ask(port, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b'foyer_rpc_seconds_bucket{code="OK",le="0.005",method="GetBooking",service="bookings"}' in body
    assert b"process_resident_memory_bytes" in body
    assert (await ask(port, b"GET /healthz HTTP/1.1\r\n\r\n"))[1] == b'{"status":"ok"}'
    head, body = await ask(port, b"GET /readyz?verbose HTTP/1.1\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert json.loads(body) == {"status": "not ready", "checks": {"database": True, "bus": False}}
    health["bus"] = True
    assert (await ask(port, b"GET /readyz HTTP/1.1\r\n\r\n"))[0].startswith(b"HTTP/1.1 200 ")
    assert (await ask(port, b"HEAD /healthz HTTP/1.1\r\n\r\n"))[1] == b""
    assert (await ask(port, b"GET /else HTTP/1.1\r\n\r\n"))[0].startswith(b"HTTP/1.1 404 ")
    assert (await ask(port, b"POST /metrics HTTP/1.1\r\n\r\n"))[0].startswith(b"HTTP/1.1 405 ")
    assert await ask(port, b"GET /" + b"x" * 9000) == (b"", b"")
    server.close()
    await server.wait_closed()
