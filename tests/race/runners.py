"""What those who race do: each attempt is one thing that a customer, a desk, an administrator or an import might do."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
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

Attempt = tuple[str, bytes, list[str] | None]
"""Its name, the request, and where to remember the id that it makes."""


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
            name, content, keep = self._attempt()
            status, body = await connection.send(content)
            self._count(name, status, body, keep)

    def _count(self, name: str, status: int, body: bytes, keep: list[str] | None) -> None:
        answer: dict[str, Any] = json.loads(body) if body else {}
        if status < 300:
            self.verdict.wins += 1
            self.verdict.by_action[name] += 1
            if keep is not None:
                keep.append(answer["id"])
                del keep[:-MOST_REMEMBERED]
            return
        code = answer.get("code", "")
        if status == 409 and code in CLEAN:
            self.verdict.refusals[code] += 1
        else:
            self.verdict.errors[f"{name}: {status} {code} {answer.get('detail', '')[:120]}"] += 1

    def _attempt(self) -> Attempt:
        """A thing to do."""
        actions: tuple[tuple[Callable[[], Attempt], int], ...] = (
            (self._book_single, 26),
            (self._book_multi, 14),
            (self._book_pair, 4),
            (self._hold, 16),
            (self._confirm, 8),
            (self._renew, 3),
            (self._cancel, 10),
            (self._move, 10),
            (self._series, 1),
            (self._enrol, 5),
            (self._leave, 2),
            (self._wait, 3),
            (self._accept, 3),
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
        return "book", self._post("/v1/bookings", self._body(self.arena.single_id, **named)), self.booked

    def _book_multi(self) -> Attempt:
        return "book multi", self._post("/v1/bookings", self._body(self.arena.multi_id)), self.booked

    def _book_pair(self) -> Attempt:
        body = self._body(self.arena.single_id)
        lines = [{"service_id": body.pop("service_id")}, {"service_id": self.arena.single_id, "together": True}]
        lines[1]["customer_id"] = self.dice.choice([c for c in self.arena.customer_ids if c != body["customer_id"]])
        return "book pair", self._post("/v1/bookings", {**body, "lines": lines}), self.booked

    def _hold(self) -> Attempt:
        service_id = self.dice.choice((self.arena.single_id, self.arena.multi_id))
        return "hold", self._post("/v1/bookings", self._body(service_id, hold=True)), self.held

    def _of(self, ids: list[str], verb: str, body: dict[str, Any] | None = None) -> bytes:
        return self._post(f"/v1/bookings/{self.dice.choice(ids)}:{verb}", body or {})

    def _confirm(self) -> Attempt:
        return ("confirm", self._of(self.held, "confirm"), None) if self.held else self._hold()

    def _renew(self) -> Attempt:
        return ("renew", self._of(self.held, "renew"), None) if self.held else self._hold()

    def _cancel(self) -> Attempt:
        ids = self.booked + self.held
        return ("cancel", self._of(ids, "cancel"), None) if ids else self._book_single()

    def _move(self) -> Attempt:
        ids = self.booked + self.held
        body = {"starts_at": self._time()}
        return ("move", self._of(ids, "reschedule", body), None) if ids else self._book_single()

    def _series(self) -> Attempt:
        body = self._body(self.arena.single_id)
        rule = {"frequency": "daily", "interval": 1, "count": 3}
        on_conflict = self.dice.choice(("refuse", "skip"))
        body |= {"rule": rule, "on_conflict": on_conflict}
        return "series", self._post("/v1/booking-series", body), None

    def _enrol(self) -> Attempt:
        session_id = self.dice.choice(self.arena.session_ids)
        body = {"customer_id": self.dice.choice(self.arena.customer_ids), "seats": self.dice.choice((1, 1, 2))}
        return "enrol", self._post(f"/v1/class-sessions/{session_id}/enrolments", body), self.enrolled

    def _leave(self) -> Attempt:
        return ("leave", self._of(self.enrolled, "cancel"), None) if self.enrolled else self._enrol()

    def _wait(self) -> Attempt:
        body = self._body(self.arena.single_id)
        until = self.arena.first_day + timedelta(days=DAYS)
        window = {"from": body.pop("starts_at"), "to": until.isoformat()}
        body |= {"lines": [{"service_id": body.pop("service_id")}], "windows": [window]}
        return "wait", self._post("/v1/waiting-list", body), self.waiting

    def _accept(self) -> Attempt:
        if not self.waiting:
            return self._wait()
        entry_id = self.dice.choice(self.waiting)
        return "accept", self._post(f"/v1/waiting-list/{entry_id}:accept", {}), None

    def _record(self) -> Attempt:
        body = {
            "branch_id": self.arena.branch_id,
            "service_id": self.arena.single_id,
            "customer_id": self.dice.choice(self.arena.customer_ids),
            "staff_id": self.dice.choice(self.arena.staff_ids),
            "starts_at": (self.arena.first_day - timedelta(days=30)).isoformat(),
            "status": "completed",
        }
        return "import", self._post("/v1/bookings:record", body), None
