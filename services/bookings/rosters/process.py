"""Starts the solver as a process, listens to it, and sees to it that it ends."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import orjson

from services.bookings.rosters.problem import Problem, Shift, dump, load_plan

GRACE_SECONDS = 15.0
"""To start, to read the problem, and to find that the time is over, on a machine that is busy."""
HEARTBEAT_SECONDS = 3.0
"""A sign of life at least this often, whether or not there is anything new."""
MOST_LINE_BYTES = 32 * 1024 * 1024
MOST_ERROR_BYTES = 2000


class SolverFailed(Exception):
    """The process ended without an answer; the text says how."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the solver found."""

    plan: dict[tuple[str, int], Shift]
    points: float | None
    bound: float | None
    seconds: float
    is_proven: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is."""

    seconds: float
    best: float | None
    bound: float | None


async def solve(
    problem: Problem, seconds: float, report: Callable[[Progress], Awaitable[None]], command: tuple[str, ...] = ()
) -> Answer:
    """Have a problem solved by a process of its own; `report` is awaited with every sign of progress.

    The process is ended when its time is long over and when the caller is cancelled. Raises SolverFailed; what
    `report` raises ends the process too.
    """
    arguments = command or (sys.executable, "-m", "services.bookings.rosters.solver")
    process = await asyncio.create_subprocess_exec(
        *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=MOST_LINE_BYTES, env=_environment()
    )
    try:
        async with asyncio.timeout(seconds + GRACE_SECONDS):
            return await _converse(process, problem, seconds, report)
    except TimeoutError:
        raise SolverFailed("it did not answer in time") from None
    finally:
        await _end(process)


def _environment() -> dict[str, str]:
    """What the process may know: no addresses, no secrets."""
    kept = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ}


async def _converse(
    process: Process, problem: Problem, seconds: float, report: Callable[[Progress], Awaitable[None]]
) -> Answer:
    assert process.stdin is not None
    assert process.stdout is not None
    # A tenth of a second for a large roster: others are answered meanwhile.
    text = await asyncio.to_thread(dump, problem)
    question: dict[str, Any] = {"problem": text, "seconds": seconds}
    # A process that ended already says why below. Its input stays open: closed, it tells that nobody listens any more.
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(orjson.dumps(question) + b"\n")
        await process.stdin.drain()
    began = time.monotonic()
    progress = Progress(0.0, None, None)
    while True:
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                line = await process.stdout.readline()
        except TimeoutError:
            await report(replace(progress, seconds=time.monotonic() - began))
            continue
        if not line:
            break
        said = orjson.loads(line)
        if "plan" in said:
            return Answer(load_plan(said["plan"]), said["points"], said["bound"], said["seconds"], said["is_proven"])
        progress = Progress(said["seconds"], said["best"], said["bound"])
        await report(progress)
    assert process.stderr is not None
    errors = (await process.stderr.read())[-MOST_ERROR_BYTES:].decode(errors="replace").strip()
    code = await process.wait()
    raise SolverFailed(f"it ended with {code}: {errors.splitlines()[-1] if errors else 'no reason given'}")


async def _end(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    # Shielded: a process that nobody waits for stays in the process table.
    await asyncio.shield(process.wait())
    if process.stdin is not None:
        process.stdin.close()
