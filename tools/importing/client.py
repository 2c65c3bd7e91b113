"""The gateway over HTTP: a write is repeated with its key until there is an answer, and never faster than it allows."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any, Self

import httpx

ANSWER_TIMEOUT_SECONDS = 20.0
PATIENCE_SECONDS = 90.0
"""How long a gateway that is away, or too busy, is asked again before an import stops."""
MOST_INTERNAL_ERRORS = 3
LONGEST_PAUSE_SECONDS = 5.0
FATAL = frozenset({401, 403})
AGAIN = frozenset({429, 502, 503, 504})


class Refused(Exception):
    """The gateway answered no. `code` is the refusal's name."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code


class Stopped(Exception):
    """Going on makes no sense; the text says why and what to do."""


class Gateway:
    """Calls with one API key. Use it as an asynchronous context."""

    def __init__(
        self, url: str, api_key: str, *, parallel: int = 1, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """`parallel` connections at most are kept open."""
        limits = httpx.Limits(max_connections=parallel, max_keepalive_connections=parallel)
        headers = {"Authorization": f"Bearer {api_key}", "Accept-Language": "en"}
        self.url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=self.url, headers=headers, limits=limits, timeout=ANSWER_TIMEOUT_SECONDS, trust_env=False
        )
        self._patience_seconds = patience_seconds
        self._resume_at = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, path: str, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Read. Raises Refused, and Stopped when there is no answer."""
        return await self._ask("GET", path, params=parameters)

    async def post(self, path: str, body: Mapping[str, Any], idempotency_key: str) -> dict[str, Any]:
        """Write, once however often it is asked. Raises Refused, and Stopped when there is no answer."""
        return await self._ask("POST", path, json=body, headers={"Idempotency-Key": idempotency_key})

    async def _ask(self, method: str, path: str, **details: Any) -> dict[str, Any]:
        gives_up_at = time.monotonic() + self._patience_seconds
        internal_errors = 0
        for attempt in range(1, 1_000):
            await self._wait_for_turn()
            try:
                answer = await self._http.request(method, path, **details)
            except httpx.TransportError as problem:
                said, pause = f"does not answer ({problem!r})", _pause_seconds(attempt)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as problem:
                raise Stopped(f"{self.url}: {problem}") from problem
            else:
                if answer.is_success:
                    return _object(answer)
                refused = _refused(answer)
                if answer.status_code in FATAL:
                    raise Stopped(f"{method} {path}: {refused}")
                internal_errors += answer.status_code == 500
                if answer.status_code not in AGAIN and not (
                    answer.status_code == 500 and internal_errors < MOST_INTERNAL_ERRORS
                ):
                    raise refused
                said, pause = str(refused), _pause_seconds(attempt)
                if answer.status_code == 429:
                    pause = self._hold_back(answer)
            if time.monotonic() + pause > gives_up_at:
                raise Stopped(
                    f"{self.url} {said} for {self._patience_seconds:.0f} s; run the same command again to go on"
                )
            await asyncio.sleep(pause)
        raise Stopped(f"{self.url}: asked too often")

    async def _wait_for_turn(self) -> None:
        """All calls wait together when one was told to come later."""
        wait = self._resume_at - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)

    def _hold_back(self, answer: httpx.Response) -> float:
        try:
            pause = min(float(answer.headers.get("retry-after", "1")), LONGEST_PAUSE_SECONDS)
        except ValueError:
            pause = 1.0
        self._resume_at = max(self._resume_at, time.monotonic() + pause)
        return pause


def _pause_seconds(attempt: int) -> float:
    """A little longer each time, and not for all at the same moment."""
    return min(0.1 * 2.0 ** min(attempt, 10), LONGEST_PAUSE_SECONDS) * (0.5 + random.random() / 2)  # noqa: S311


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        content = answer.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise Stopped(f"{answer.url}: the answer is no JSON object; is this the gateway?")
    return content


def _refused(answer: httpx.Response) -> Refused:
    """What a problem document says, in one line."""
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return Refused(answer.status_code, "", f"answered {answer.status_code}")
    code = str(problem.get("code", ""))
    fields = "; ".join(f"{error.get('field')}: {error.get('message')}" for error in problem.get("errors", []))
    text = f"{code}: {fields or problem.get('detail') or problem.get('title')}"
    if answer.status_code >= 500 and problem.get("trace_id"):
        text += f" (trace {problem['trace_id']})"
    return Refused(answer.status_code, code, text)
