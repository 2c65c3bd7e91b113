"""Passwords: Argon2id in a bounded pool of threads, so that sign-ins cannot take the machine from everything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from chassis.errors import Refusal

MEMORY_KIB = 19 * 1024
ITERATIONS = 2
PARALLELISM = 1
AT_ONCE = 2
MOST_WAITING = 32

T = TypeVar("T")


class Passwords:
    """Hashes and verifies passwords, two at once. Work is done within a `turn`, of which a bounded number may wait."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=ITERATIONS, memory_cost=MEMORY_KIB, parallelism=PARALLELISM)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="argon2")
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._inside = 0
        # Verified when there is no account, so that the answer takes as long as for one that is there.
        self._nobodys = self._hasher.hash("nobody's password")

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn. Raises Refusal UNAVAILABLE when too many wait already."""
        if self._inside >= AT_ONCE + MOST_WAITING:
            raise Refusal("UNAVAILABLE")
        self._inside += 1
        try:
            async with self._turns:
                yield
        finally:
            self._inside -= 1

    async def hash(self, password: str) -> str:
        """The hash of a new password, taking a turn. Raises Refusal UNAVAILABLE."""
        async with self.turn():
            return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether it is the password; None for an account that is not there. To be called within a turn."""
        return (
            await self._run(lambda: self._matches(password_hash or self._nobodys, password))
            and password_hash is not None
        )

    async def renew(self, password_hash: str, password: str) -> str | None:
        """A new hash where the old one was made with other parameters, else None. To be called within a turn."""
        if not self._hasher.check_needs_rehash(password_hash):
            return None
        return await self._run(lambda: self._hasher.hash(password))

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        """Do it in a thread. Who gives up waits until the thread is done all the same: a turn means a free thread."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait({future})
            raise
