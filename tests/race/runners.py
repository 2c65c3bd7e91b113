"""What those who race do: each attempt is one thing that a customer, a desk, an administrator or an import might do."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from bench.load import Connection
from tests.race.arena import DAYS, Arena
from tests.race.referee import Verdict

# What a lost race may be answered with. Anything else is an error of the platform.
CLEAN = frozenset(
    {
        "SLOT_TAKEN",
        "NOT_BOOKABLE",
        "CUSTOMER_BUSY",
        "WRONG_STATE",
        "HOLD_EXPIRED",
        "RENEWED_TOO_OFTEN",
        "SEATS_TAKEN",
        "SERIES_CONFLICT",
        "ALREADY_EXISTS",
        "OFFER_GONE",
        "SEAT_IN_CLASS",
        "NO_OFFER",
    }
)
MOST_REMEMBERED = 400

# What says that something is over: it is not tried again.
OVER = frozenset({"WRONG_STATE", "HOLD_EXPIRED", "SEAT_IN_CLASS"})


@dataclass(frozen=True, slots=True)
class Attempt:
    """A thing to do."""

    name: str
    content: bytes
    keep: list[str] | None = None
    """Where to remember the id that it makes."""
    known: tuple[list[str], str] | None = None
    """Whom it is done to, and where that is remembered."""


@dataclass
class Race:
    """The attempts of all runners together."""

    arena: Arena
    attempts: int
    dice: random.Random
    verdict: Verdict = field(default_factory=Verdict)
    held: list[str] = field(default_factory=list)
    booked: list[str] = field(default_factory=list)
    enrolled: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    series: list[str] = field(default_factory=list)

    async def run(self, connections: int, tell: Callable[[int], None] = lambda _: None) -> Verdict:
        """Run all attempts on some connections; `tell` hears how many were made, now and then."""
        opened = [await Connection.open(self.arena.platform.port_base) for _ in range(connections)]
        try:
            await asyncio.gather(*(self._runner(connection, tell) for connection in opened))
        finally:
            for connection in opened:
                connection.close()
        return self.verdict

    async def _runner(self, connection: Connection, tell: Callable[[int], None]) -> None:
        while self.verdict.attempts < self.attempts:
            self.verdict.attempts += 1
            if self.verdict.attempts % 1000 == 0:
                tell(self.verdict.attempts)
            attempt = self._attempt()
            status, body = await connection.send(attempt.content)
            self._count(attempt, status, body)

    def _count(self, attempt: Attempt, status: int, body: bytes) -> None:
        answer: dict[str, Any] = json.loads(body) if body else {}
        if status < 300:
            self.verdict.wins += 1
            self.verdict.by_action[attempt.name] += 1
            if attempt.keep is not None:
                attempt.keep.append(answer["id"])
                del attempt.keep[:-MOST_REMEMBERED]
            return
        code = answer.get("code", "")
        if attempt.known is not None and code in OVER and attempt.known[1] in attempt.known[0]:
            attempt.known[0].remove(attempt.known[1])
        if status == 409 and code in CLEAN:
            self.verdict.refusals[code] += 1
        else:
            self.verdict.errors[f"{attempt.name}: {status} {code} {answer.get('detail', '')[:120]}"] += 1

    def _attempt(self) -> Attempt:
        """A thing to do."""
        actions: tuple[tuple[Callable[[], Attempt], int], ...] = (
            (self._book_single, 26),
            (self._book_multi, 14),
            (self._book_pair, 4),
            (self._hold, 16),
            (self._confirm, 8),
            (self._renew, 3),
            (self._cancel, 16),
            (self._move, 12),
            (self._series, 1),
            (self._end_series, 1),
            (self._enrol, 5),
            (self._leave, 4),
            (self._wait, 1),
            (self._accept, 2),
            (self._give_up, 1),
            (self._record, 1),
        )
        (chosen,) = self.dice.choices([action for action, _ in actions], [weight for _, weight in actions])
        return chosen()

    # --- what is asked for ---

    def _time(self) -> str:
        minutes = 9 * 60 + 15 * self.dice.randrange(36)
        moment = self.arena.first_day + timedelta(days=self.dice.randrange(DAYS), minutes=minutes)
        return moment.isoformat()

    def _body(self, service_id: str, **more: Any) -> dict[str, Any]:
        return {
            "branch_id": self.arena.branch_id,
            "service_id": service_id,
            "customer_id": self.dice.choice(self.arena.customer_ids),
            "starts_at": self._time(),
            **more,
        }

    def _post(self, path: str, body: dict[str, Any]) -> bytes:
        return self.arena.content("POST", path, body, uuid4().hex)

    def _book_single(self) -> Attempt:
        named = {"staff_id": self.dice.choice(self.arena.staff_ids)} if self.dice.random() < 0.6 else {}
        return Attempt("book", self._post("/v1/bookings", self._body(self.arena.single_id, **named)), self.booked)

    def _book_multi(self) -> Attempt:
        return Attempt("book multi", self._post("/v1/bookings", self._body(self.arena.multi_id)), self.booked)

    def _book_pair(self) -> Attempt:
        body = self._body(self.arena.single_id)
        lines = [{"service_id": body.pop("service_id")}, {"service_id": self.arena.single_id, "together": True}]
        lines[1]["customer_id"] = self.dice.choice([c for c in self.arena.customer_ids if c != body["customer_id"]])
        return Attempt("book pair", self._post("/v1/bookings", {**body, "lines": lines}), self.booked)

    def _hold(self) -> Attempt:
        service_id = self.dice.choice((self.arena.single_id, self.arena.multi_id))
        return Attempt("hold", self._post("/v1/bookings", self._body(service_id, hold=True)), self.held)

    def _of(self, name: str, ids: list[str], verb: str, body: dict[str, Any] | None = None) -> Attempt:
        chosen = self.dice.choice(ids)
        return Attempt(name, self._post(f"/v1/bookings/{chosen}:{verb}", body or {}), None, (ids, chosen))

    def _confirm(self) -> Attempt:
        return self._of("confirm", self.held, "confirm") if self.held else self._hold()

    def _renew(self) -> Attempt:
        return self._of("renew", self.held, "renew") if self.held else self._hold()

    def _cancel(self) -> Attempt:
        ids = self.dice.choice((self.booked, self.booked, self.held))
        return self._of("cancel", ids, "cancel") if ids else self._book_single()

    def _move(self) -> Attempt:
        ids = self.dice.choice((self.booked, self.booked, self.held))
        body = {"starts_at": self._time()}
        return self._of("move", ids, "reschedule", body) if ids else self._book_single()

    def _series(self) -> Attempt:
        rule = {"frequency": "daily", "interval": 1, "count": 3}
        body = self._body(self.arena.single_id, rule=rule, on_conflict=self.dice.choice(("refuse", "skip")))
        return Attempt("series", self._post("/v1/booking-series", body), self.series)

    def _end_series(self) -> Attempt:
        if not self.series:
            return self._series()
        chosen = self.series.pop(self.dice.randrange(len(self.series)))
        return Attempt("end series", self._post(f"/v1/booking-series/{chosen}:cancel", {"scope": "all"}))

    def _enrol(self) -> Attempt:
        session_id = self.dice.choice(self.arena.session_ids)
        body = {"customer_id": self.dice.choice(self.arena.customer_ids), "seats": self.dice.choice((1, 1, 2))}
        return Attempt("enrol", self._post(f"/v1/class-sessions/{session_id}/enrolments", body), self.enrolled)

    def _leave(self) -> Attempt:
        return self._of("leave", self.enrolled, "cancel") if self.enrolled else self._enrol()

    def _wait(self) -> Attempt:
        body = self._body(self.arena.single_id)
        since = datetime.fromisoformat(body.pop("starts_at"))
        window = {"from": since.isoformat(), "to": (since + timedelta(hours=2)).isoformat()}
        body |= {"lines": [{"service_id": body.pop("service_id")}], "windows": [window]}
        return Attempt("wait", self._post("/v1/waiting-list", body), self.waiting)

    def _of_waiting(self, verb: str) -> Attempt:
        if not self.waiting:
            return self._wait()
        chosen = self.dice.choice(self.waiting)
        if verb == "leave":
            self.waiting.remove(chosen)
        return Attempt(verb, self._post(f"/v1/waiting-list/{chosen}:{verb}", {}))

    def _accept(self) -> Attempt:
        return self._of_waiting("accept")

    def _give_up(self) -> Attempt:
        return self._of_waiting(self.dice.choice(("decline", "leave")))

    def _record(self) -> Attempt:
        body = {
            "branch_id": self.arena.branch_id,
            "service_id": self.arena.single_id,
            "customer_id": self.dice.choice(self.arena.customer_ids),
            "staff_id": self.dice.choice(self.arena.staff_ids),
            "starts_at": (self.arena.first_day - timedelta(days=30)).isoformat(),
            "status": "completed",
        }
        return Attempt("import", self._post("/v1/bookings:record", body))
