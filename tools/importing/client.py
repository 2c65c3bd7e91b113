"""The gateway over HTTP: a write is repeated with its key until there is an answer, and never faster than it allows."""

from __future__ import annotations

import random
import ssl
import threading
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
    """Calls with one API key, from any number of threads: each has a connection of its own. Use it as a context.

    Threads, as a call costs them a third of the CPU that it costs an event loop through httpx.
    """

    def __init__(self, url: str, api_key: str, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """`patience_seconds` is how long a gateway that is away is asked again."""
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}", "Accept-Language": "en"}
        self._patience_seconds = patience_seconds
        self._certificates = ssl.create_default_context()
        self._of_thread = threading.local()
        self._clients: list[httpx.Client] = []
        self._given_up = threading.Event()
        self._resume_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def give_up(self) -> None:
        """Let calls that wait end with Stopped."""
        self._given_up.set()

    def _client(self) -> httpx.Client:
        client: httpx.Client | None = getattr(self._of_thread, "client", None)
        if client is None:
            client = httpx.Client(
                base_url=self.url,
                headers=self._headers,
                limits=httpx.Limits(max_connections=1),
                timeout=ANSWER_TIMEOUT_SECONDS,
                verify=self._certificates,
                trust_env=False,
            )
            self._of_thread.client = client
            self._clients.append(client)
        return client

    def get(self, path: str, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Read. Raises Refused, and Stopped when there is no answer."""
        return self._ask("GET", path, params=parameters)

    def post(self, path: str, body: Mapping[str, Any], idempotency_key: str) -> dict[str, Any]:
        """Write, once however often it is asked. Raises Refused, and Stopped when there is no answer."""
        return self._ask("POST", path, json=body, headers={"Idempotency-Key": idempotency_key})

    def _ask(self, method: str, path: str, **details: Any) -> dict[str, Any]:
        gives_up_at = time.monotonic() + self._patience_seconds
        internal_errors = 0
        for attempt in range(1, 1_000):
            # All calls wait together when one was told to come later.
            self._wait(self._resume_at - time.monotonic())
            try:
                answer = self._client().request(method, path, **details)
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
            self._wait(pause)
        raise Stopped(f"{self.url}: asked too often")

    def _wait(self, seconds: float) -> None:
        if self._given_up.wait(max(seconds, 0.0)):
            raise Stopped("given up")

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
