"""The processes the supervisor keeps alive: started, watched, started again, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 5.0
SETTLED_SECONDS = 10.0
READY_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.05
ENDS_BEFORE_READY_AT_MOST = 3
LOG_BYTES_AT_MOST = 20_000_000


class ChildError(Exception):
    """A process does not become ready or failed; the text holds the end of its log."""


@dataclass(slots=True)
class Child:
    """One process of the platform. Its output goes to `log`, its pid into `pid_file` while it runs."""

    name: str
    command: Callable[[], list[str]]
    environ: Mapping[str, str]
    log: Path
    pid_file: Path
    is_ready: Callable[[], Awaitable[bool]]
    say: Callable[[str], None]
    stop_signal: signal.Signals = signal.SIGTERM
    folder: Path = ROOT
    restarts: int = 0
    _process: asyncio.subprocess.Process | None = None
    _ends: int = 0
    _ready_before: bool = False
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Pid while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Start it and keep it running until `stop`."""
        bound_log(self.log)
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def wait_ready(self, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> None:
        """Wait until it is ready. Raises ChildError when it takes too long or keeps ending before."""
        deadline = time.monotonic() + timeout_seconds
        while not (self.pid is not None and await self.is_ready()):
            if self._keeper is not None and self._keeper.done() and not self._stopping.is_set():
                raise ChildError(f"{self.name} cannot be started: {self._keeper.exception()}")
            if self._ends >= ENDS_BEFORE_READY_AT_MOST:
                raise ChildError(f"{self.name} ended {self._ends} times before it was ready\n{tail(self.log)}")
            if time.monotonic() > deadline:
                raise ChildError(f"{self.name} is not ready after {timeout_seconds:.0f} s\n{tail(self.log)}")
            await asyncio.sleep(POLL_SECONDS)
        self._ready_before = True

    async def stop(self, timeout_seconds: float) -> None:
        """Stop it; killed after the time-out."""
        self._stopping.set()
        if self._keeper is None:
            return
        self._signal(self.stop_signal)
        try:
            await asyncio.wait_for(asyncio.shield(self._keeper), timeout_seconds)
        except TimeoutError:
            self.say(f"{self.name} did not stop in {timeout_seconds:.0f} s and is killed")
            self._signal(signal.SIGKILL)
            await self._keeper

    def kill(self) -> None:
        """End it at once."""
        self._stopping.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self) -> None:
        """Run it again and again; the pause between grows while it does not settle."""
        delay_seconds = FIRST_DELAY_SECONDS
        while not self._stopping.is_set():
            started = time.monotonic()
            how = await self._run()
            if self._stopping.is_set():
                return
            self._ends += 1
            self.restarts += 1
            if time.monotonic() - started > SETTLED_SECONDS:
                delay_seconds = FIRST_DELAY_SECONDS
            self.say(f"{self.name} {how}; started again in {delay_seconds:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay_seconds)
            delay_seconds = min(delay_seconds * 2, LONGEST_DELAY_SECONDS)

    async def _run(self) -> str:
        """Run it once; answers how it ended."""
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.environ,
                start_new_session=True,
            )
        if self._stopping.is_set():
            self._signal(self.stop_signal)
        scratch = self.pid_file.with_suffix(".new")
        scratch.write_text(f"{self._process.pid}\n")
        scratch.replace(self.pid_file)
        watcher = asyncio.create_task(self._tell_when_back()) if self._ready_before else None
        code = await self._process.wait()
        if watcher is not None:
            watcher.cancel()
        self.pid_file.unlink(missing_ok=True)
        return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"

    async def _tell_when_back(self) -> None:
        started = time.monotonic()
        while time.monotonic() - started < READY_TIMEOUT_SECONDS:
            if await self.is_ready():
                self.say(f"{self.name} is ready again after {time.monotonic() - started:.1f} s (process {self.pid})")
                return
            await asyncio.sleep(POLL_SECONDS)


async def run_once(name: str, command: list[str], environ: Mapping[str, str], log: Path, timeout_seconds: float) -> str:
    """Run a program to its end and answer what it wrote to stdout. Raises ChildError when it fails."""
    bound_log(log)
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=environ
        )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout_seconds)
    except TimeoutError as problem:
        raise ChildError(f"{name} is not done after {timeout_seconds:.0f} s\n{tail(log)}") from problem
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode(errors="replace")
    if process.returncode:
        raise ChildError(f"{name} failed with exit code {process.returncode}\n{text[-2000:]}{tail(log)}")
    return text


def bound_log(log: Path) -> None:
    """Put a log that has grown too long aside as `<name>.log.1` and begin it anew, also under a running writer."""
    if log.exists() and log.stat().st_size > LOG_BYTES_AT_MOST:
        shutil.copyfile(log, log.with_name(log.name + ".1"))
        with log.open("r+b") as file:
            file.truncate(0)


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log, indented."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        text = file.read().decode(errors="replace")
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


async def answers(port: int, path: str, host: str = "127.0.0.1", timeout_seconds: float = 2) -> bool:
    """Whether a GET of this path is answered with 200."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in await reader.readline()
    except (OSError, TimeoutError, ValueError):
        return False
    finally:
        if writer is not None:
            writer.close()
