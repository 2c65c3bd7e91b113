"""The whole platform as a child process, for tests and measurements: started, asked for pids, stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from chassis.settings import PREFIX
from tools import spawn
from tools.children import ROOT, tail
from tools.home import Home
from tools.postgres import data_folder
from tools.servers import temporary_folder

START_TIMEOUT_SECONDS = 120.0
STOP_TIMEOUT_SECONDS = 25.0
PORT_BASES = range(20000, 30000, 50)
PORTS = (0, 1, 2, 3, 5, *range(10, 16))


class RunningError(Exception):
    """The platform did not come up; the text holds the end of what it said."""


@dataclass(slots=True)
class Running:
    """A platform that is ready. `demo` is what demo.json holds."""

    home: Home
    port_base: int
    process: subprocess.Popen[bytes] = field(repr=False)
    temporary: bool
    demo: dict[str, Any] = field(repr=False)

    @property
    def gateway(self) -> str:
        """Base URL of the gateway."""
        return f"http://127.0.0.1:{self.port_base}"

    def pid(self, name: str) -> int | None:
        """Pid of `gateway`, a service, `nats`, `postgres` or `supervisor`; None while it is not running."""
        try:
            return int((self.home.run / f"{name}.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def memory_bytes(self) -> int:
        """Memory of all processes together (PSS: what they share is counted once)."""
        supervisor = psutil.Process(self.process.pid)
        return sum(process.memory_full_info().pss for process in [supervisor, *supervisor.children(recursive=True)])

    def stop(self) -> None:
        """Stop all; a temporary home is deleted."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.temporary:
            shutil.rmtree(data_folder(self.home.postgres), ignore_errors=True)
            shutil.rmtree(self.home.path, ignore_errors=True)


def start(
    home: Path | None = None,
    *,
    port_base: int | None = None,
    environ: Mapping[str, str] | None = None,
    timeout_seconds: float = START_TIMEOUT_SECONDS,
) -> Running:
    """Start the platform and wait until it is ready, in a temporary home on free ports unless told otherwise.

    Call it from the main thread: the platform ends with the thread that started it. Raises RunningError.
    """
    folder = Home((home or temporary_folder()).absolute())
    base = port_base or free_port_base()
    folder.path.mkdir(parents=True, exist_ok=True)
    outside = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    own = {f"{PREFIX}HOME": str(folder.path), f"{PREFIX}PORT_BASE": str(base)}
    said = folder.path / "up.log"
    with said.open("wb") as output:
        process = subprocess.Popen(
            spawn.wrap([sys.executable, "-m", "tools.up"], signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**outside, **(environ or {}), **own},
            start_new_session=True,
        )
    running = Running(folder, base, process, temporary=home is None, demo={})
    deadline = time.monotonic() + timeout_seconds
    while not (running.pid("supervisor") == process.pid and folder.demo.exists()):
        if process.poll() is not None or time.monotonic() > deadline:
            text = tail(said, 60)
            running.stop()
            raise RunningError(f"the platform did not come up\n{text}")
        time.sleep(0.05)
    running.demo = json.loads(folder.demo.read_text())
    return running


def free_port_base() -> int:
    """A port base with all its ports free, below those the system hands out by itself."""
    for base in random.sample(PORT_BASES, len(PORT_BASES)):
        if all(_is_free(base + offset) for offset in PORTS):
            return base
    raise RunningError(f"no free ports from {PORT_BASES.start} to {PORT_BASES.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
