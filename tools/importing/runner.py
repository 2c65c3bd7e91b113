"""A plan → requests: section after section, many at a time, each thing made once."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from tools.importing.client import Gateway, Refused, Stopped
from tools.importing.journal import Journal
from tools.importing.planning import SECTIONS, Plan, Reference, Request
from tools.importing.reading import BadRow

PARALLEL = 16
MOST_REFUSED = 1_000
PAGE_SIZE = 200
MOST_PAGES = 500
LISTS = {"branches": ("/v1/branches", "name"), "services": ("/v1/services", "code"), "staff": ("/v1/staff", "code")}


@dataclass(slots=True)
class Outcome:
    """What became of a plan: how many things of each section were made now, or were there before, and refused rows."""

    made: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    refused: list[BadRow] = field(default_factory=list)


def read_chain(gateway: Gateway, plan: Plan) -> dict[str, Any]:
    """The chain the API key belongs to. Raises Stopped when its money is another one than the mapping's."""
    try:
        chain = gateway.get("/v1/chain")
    except Refused as problem:
        raise Stopped(f"{gateway.url}: {problem}") from problem
    if chain.get("currency") != plan.mapping.currency:
        raise Stopped(
            f"the chain {chain.get('name')!r} has {chain.get('currency')}, the mapping {plan.mapping.currency}"
        )
    return chain


class Runner:
    """Makes what a plan holds. `told` is called with the section whenever something is settled."""

    def __init__(
        self, plan: Plan, gateway: Gateway, journal: Journal, told: Callable[[str], None], parallel: int = PARALLEL
    ) -> None:
        self.outcome = Outcome()
        self._plan = plan
        self._gateway = gateway
        self._journal = journal
        self._told = told
        self._parallel = parallel
        self._refused: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()
        self._stopping = False

    def run(self) -> Outcome:
        """Make everything that is not there yet. Raises Stopped; what was made until then is in the journal."""
        for section in SECTIONS:
            requests = self._plan.requests[section]
            missing = [request for request in requests if (section, request.key) not in self._journal.ids]
            for _ in range(len(requests) - len(missing)):
                self.outcome.found[section] += 1
                self._told(section)
            if missing and section in LISTS:
                missing = self._without_existing(section, missing)
            self._make_all(missing)
        return self.outcome

    def _make_all(self, requests: list[Request]) -> None:
        if not requests:
            return
        left = iter(requests)

        def work() -> None:
            while (request := self._next(left)) is not None:
                self._make(request)

        workers = min(self._parallel, len(requests))
        with ThreadPoolExecutor(workers, "import") as pool:
            try:
                for done in as_completed([pool.submit(work) for _ in range(workers)]):
                    done.result()
            except BaseException:
                # What is under way is finished and noted, nothing new begins.
                self._stopping = True
                self._gateway.give_up()
                raise

    def _next(self, left: Iterator[Request]) -> Request | None:
        with self._lock:
            return None if self._stopping else next(left, None)

    def _make(self, request: Request) -> None:
        section = request.section
        body, missing = self._resolve(request.body)
        if missing is not None:
            self._refuse(request, missing)
            return
        try:
            answer = self._gateway.post(request.path, body, _idempotency_key(request.key, body))
            made_id = str(answer["id"])
        except Refused as refused:
            existing = self._existing_customer(request, refused)
            if existing is None:
                self._refuse(request, str(refused))
                return
            self._note_found(section, request.key, existing)
            return
        with self._lock:
            self._journal.add(section, request.key, made_id)
            self.outcome.made[section] += 1
        self._told(section)

    def _existing_customer(self, request: Request, refused: Refused) -> str | None:
        """The id of a customer who is there already under this code."""
        if request.section != "customers" or refused.code != "ALREADY_EXISTS":
            return None
        answer = self._gateway.get("/v1/customers", {"external_id": request.key})
        found = answer.get("customers", [])
        return str(found[0]["id"]) if found else None

    def _without_existing(self, section: str, requests: list[Request]) -> list[Request]:
        """The requests whose things the chain does not have; the others are noted with the ids they have."""
        existing = self._existing(section)
        missing = []
        for request in requests:
            if request.key in existing:
                self._note_found(section, request.key, existing[request.key])
            else:
                missing.append(request)
        return missing

    def _existing(self, section: str) -> dict[str, str]:
        path, name = LISTS[section]
        found: dict[str, str] = {}
        token = ""
        for _ in range(MOST_PAGES):
            parameters = {"page_size": PAGE_SIZE, **({"page_token": token} if token else {})}
            try:
                page = self._gateway.get(path, parameters)
            except Refused as problem:
                raise Stopped(f"{path}: {problem}") from problem
            for thing in page.get(section, []):
                if thing.get(name):
                    found.setdefault(thing[name], thing["id"])
            token = page.get("next_page_token", "")
            if not token:
                return found
        raise Stopped(f"{path}: more than {MOST_PAGES * PAGE_SIZE} entries")

    def _resolve(self, body: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
        """The body with ids for references, and what is wrong when one of them was not made."""
        problem: str | None = None

        def value_of(value: Any) -> Any:
            nonlocal problem
            if isinstance(value, list):
                return [value_of(part) for part in value]
            if not isinstance(value, Reference):
                return value
            found = self._journal.ids.get((value.section, value.key))
            if found is None:
                why = self._refused.get((value.section, value.key), "was not made")
                problem = f"{value.section} {value.key!r}: {why}"
            return found

        return {name: value_of(value) for name, value in body.items()}, problem

    def _refuse(self, request: Request, reason: str) -> None:
        row = request.row
        with self._lock:
            self._refused[request.section, request.key] = f"was refused ({reason})"[:500]
            self.outcome.refused.append(BadRow(row.file, row.line, reason, row.cells))
        self._told(request.section)
        if len(self.outcome.refused) > MOST_REFUSED:
            raise Stopped(f"more than {MOST_REFUSED} rows were refused, the last one: {row.file}:{row.line} {reason}")

    def _note_found(self, section: str, key: str, found_id: str) -> None:
        with self._lock:
            self._journal.add(section, key, found_id)
            self.outcome.found[section] += 1
        self._told(section)


def _idempotency_key(key: str, body: dict[str, Any]) -> str:
    """The same for the same row and the same request, so that a repeat is answered and not made twice."""
    content = json.dumps([key, body], sort_keys=True, ensure_ascii=False)
    return f"import-{hashlib.sha256(content.encode()).hexdigest()}"
