"""A kept process is started again, tells how it ended, and is stopped for good."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import spawn
from tools.children import Child, ChildError, bound_log, run_once

SLEEPER = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"


def child(folder: Path, code: str, said: list[str]) -> Child:
    mark = folder / "started"

    async def is_ready() -> bool:
        return mark.exists()

    def command() -> list[str]:
        mark.unlink(missing_ok=True)
        return spawn.wrap([sys.executable, "-S", "-c", code, str(mark)], signal.SIGTERM)

    return Child("it", command, os.environ, folder / "it.log", folder / "it.pid", is_ready, said.append, folder=folder)


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.02)


async def test_a_killed_process_comes_back_with_a_new_pid(tmp_path: Path) -> None:
    said: list[str] = []
    kept = child(tmp_path, SLEEPER, said)
    kept.start()
    try:
        await kept.wait_ready(10)
        first = int((tmp_path / "it.pid").read_text())
        os.kill(first, signal.SIGKILL)
        await until(lambda: any("ready again" in line for line in said))
        assert kept.pid != first
        assert said[0].startswith("it was ended by SIGKILL; started again in 0.2 s")
        assert kept.restarts == 1
    finally:
        await kept.stop(5)
    assert kept.pid is None
    assert not (tmp_path / "it.pid").exists()


async def test_one_that_never_gets_ready_is_told_with_its_log(tmp_path: Path) -> None:
    kept = child(tmp_path, "raise SystemExit('no database')", [])
    kept.start()
    with pytest.raises(ChildError, match="no database"):
        await kept.wait_ready(10)
    await kept.stop(5)


async def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    said: list[str] = []
    kept = child(tmp_path, f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}", said)
    kept.start()
    await kept.wait_ready(10)
    await kept.stop(0.3)
    assert kept.pid is None
    assert any("is killed" in line for line in said)


async def test_a_program_run_once_tells_what_went_wrong(tmp_path: Path) -> None:
    log = tmp_path / "once.log"
    assert await run_once("it", [sys.executable, "-c", "print(7)"], os.environ, log, 10) == "7\n"
    with pytest.raises(ChildError, match="exit code 3"):
        await run_once("it", [sys.executable, "-c", "raise SystemExit(3)"], os.environ, log, 10)
    with pytest.raises(ChildError, match="not done after"):
        await run_once("it", [sys.executable, "-c", "import time; time.sleep(60)"], os.environ, log, 0.3)


def test_a_log_grown_too_long_is_put_aside_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.children.LOG_BYTES_AT_MOST", 10)
    log = tmp_path / "it.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"0123456789abc")
        bound_log(log)
        writer.write(b"def")
    assert log.read_bytes() == b"def"
    assert (tmp_path / "it.log.1").read_bytes() == b"0123456789abc"
