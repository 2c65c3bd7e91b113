"""With FOYER_OTLP_ENDPOINT set, what a request does in two processes arrives at a collector as one trace."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from chassis.access import EVERYWHERE, AccessTokens, Caller
from chassis.ids import new_id
from chassis.settings import PREFIX, Settings
from tools import spawn
from tools.running import free_port_base
from tools.servers import Servers

START_SECONDS = 40.0
STOP_SECONDS = 20.0


class Collector(BaseHTTPRequestHandler):
    """What an OpenTelemetry collector is to a sender: it takes what is posted."""

    received: ClassVar[list[ExportTraceServiceRequest]] = []

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def collector() -> Iterator[str]:
    Collector.received.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def process(module: str, environ: dict[str, str], log: Path) -> Iterator[None]:
    """A process of the platform, until the block ends; then it has handed over its last spans."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            spawn.wrap([sys.executable, "-m", module], signal.SIGKILL), env=environ, stdout=output, stderr=output
        )
    try:
        yield
        child.send_signal(signal.SIGTERM)
        child.wait(STOP_SECONDS)
    finally:
        child.kill()
        child.wait()


async def post_when_ready(url: str, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    ends_at = asyncio.get_running_loop().time() + START_SECONDS
    async with httpx.AsyncClient(timeout=10) as api:
        while True:
            try:
                answer = await api.post(url, json=body, headers=headers)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code != 503:
                return answer
            assert asyncio.get_running_loop().time() < ends_at, "nobody answers"
            await asyncio.sleep(0.2)


def spans(trace_id: str) -> dict[tuple[str, str], Any]:
    """Spans of a trace, by the process's name and their own."""
    return {
        (resource.resource.attributes[names(resource).index("service.name")].value.string_value, span.name): span
        for request in Collector.received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if span.trace_id.hex() == trace_id
    }


def names(resource: Any) -> list[str]:
    return [attribute.key for attribute in resource.resource.attributes]


async def test_a_request_is_one_trace_at_the_collector(servers: Servers, collector: str, tmp_path: Path) -> None:
    base = free_port_base()
    given = {"OTLP_ENDPOINT": collector, "SERVICE_ADDRESS": f"unix:{tmp_path}/{{service}}.sock", "PORT_BASE": str(base)}
    outside = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environ = {
        **outside,
        **servers.environ,
        **{f"{PREFIX}{name}": value for name, value in given.items()},
        f"{PREFIX}LOG_LEVEL": "debug",
    }
    grants: dict[str, Any] = {"customers.write": EVERYWHERE}
    caller = Caller(new_id(), "account", "Owner", new_id(), "Asia/Shanghai", "CNY", grants=grants)
    token = AccessTokens(Settings.from_environment(servers.environ).secret).mint(caller)
    trace_id, above = secrets.token_hex(16), secrets.token_hex(8)
    headers = {"authorization": f"Bearer {token}", "traceparent": f"00-{trace_id}-{above}-01"}
    log = tmp_path / "customers.log"
    with process("services.customers", environ, log), process("gateway", environ, tmp_path / "gateway.log"):
        body = {"name": "贾宝玉", "phone": "13900139000"}
        answer = await post_when_ready(f"http://127.0.0.1:{base}/v1/customers", body, headers)
        assert answer.status_code == 201, answer.text

    found = spans(trace_id)
    gateway = found["foyer-gateway", "http"]
    service = found["foyer-customers", "foyer.customers.v1.Customers/CreateCustomer"]
    assert service.parent_span_id == gateway.span_id
    assert gateway.parent_span_id.hex() == above
    assert gateway.start_time_unix_nano <= service.start_time_unix_nano <= service.end_time_unix_nano

    # The same id is in the service's log, whose loggers were made before anybody said how to log.
    told = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if trace_id in line]
    call = next(line for line in told if line["event"] == "call")
    assert (call["service"], call["level"], call["logger"]) == ("customers", "debug", "chassis.rpc")
    assert (call["method"], call["code"]) == ("foyer.customers.v1.Customers/CreateCustomer", "OK")
