"""Bookings against a plain model, by a Hypothesis state machine: what is accepted, what is refused, what is free."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import catalogue_pb2, resources_pb2
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from chassis.errors import Refusal
from services.bookings.jobs import expire_holds
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp
from tools.servers import Servers

T = TypeVar("T")
OPENS, CLOSES = 10 * 60, 18 * 60
HOLD_MINUTES = 10
STAFF, ABLE, ROOMS, CUSTOMERS = 3, 2, 2, 4
STEP_COUNT, EXAMPLES = 80, 8
CALLS, LONG_CALLS, MOST_TURNS = 300, 10_000, 200

Stretch = tuple[int, int]


@dataclass(frozen=True)
class Kind:
    """A service as the model knows it: minutes from the start at which each need is busy."""

    duration: int
    lead: tuple[Stretch, ...]
    able: int
    room: tuple[Stretch, ...] = ()


SHORT = Kind(30, ((0, 35),), STAFF)
GAPPED = Kind(60, ((0, 20), (40, 60)), ABLE, ((0, 60),))
KINDS = (SHORT, GAPPED)


@dataclass
class Booked:
    """A booking of the model: whose time it has, in minutes after midnight of the day."""

    id: str
    kind: Kind
    customer: int
    start: int
    taken: dict[str, list[Stretch]]
    expires_at: datetime | None


@dataclass
class Model:
    """All that is booked, in lists."""

    people: list[str]
    rooms: list[str]
    bookings: dict[str, Booked] = field(default_factory=dict)

    def expire(self, now: datetime) -> None:
        over = [b.id for b in self.bookings.values() if b.expires_at is not None and b.expires_at <= now]
        for identifier in over:
            del self.bookings[identifier]

    def is_free(self, who: str, start: int, pattern: tuple[Stretch, ...], besides: str = "") -> bool:
        for first, last in pattern:
            for booked in self.bookings.values():
                if booked.id != besides and any(
                    since < start + last and start + first < until for since, until in booked.taken.get(who, ())
                ):
                    return False
        return True

    def leaders(self, kind: Kind, start: int, besides: str = "") -> list[str]:
        first, last = min(s for s, _ in kind.lead), max(e for _, e in kind.lead)
        if start + first < OPENS or start + last > CLOSES:
            return []
        return [person for person in self.people[: kind.able] if self.is_free(person, start, kind.lead, besides)]

    def has_room(self, kind: Kind, start: int, besides: str = "") -> bool:
        return not kind.room or any(self.is_free(room, start, kind.room, besides) for room in self.rooms)

    def can(self, kind: Kind, customer: int | None, start: int, person: str | None = None, besides: str = "") -> bool:
        leaders = self.leaders(kind, start, besides)
        there = person in leaders if person is not None else bool(leaders)
        span = ((0, kind.duration),)
        is_free = customer is None or self.is_free(f"customer-{customer}", start, span, besides)
        return there and self.has_room(kind, start, besides) and is_free


class Machine(RuleBasedStateMachine):
    """Customers and a front desk, doing things in any order."""

    loop: asyncio.AbstractEventLoop
    shop_of: Any
    calls = 0

    @initialize()
    def open(self) -> None:
        self.shop: Shop
        self.services: list[str]
        self.shop, self.services, rooms = self.run(self.shop_of())
        self.model = Model(self.shop.staff, rooms)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def call(self, method: str, request: Any) -> Any:
        """The answer, or the refusal."""
        Machine.calls += 1

        async def made() -> Any:
            try:
                return await self.shop.call(method, request)
            except Refusal as refusal:
                return refusal

        return self.run(made())

    def know(self, booking: pb.Booking, kind: Kind, customer: int) -> None:
        """Write into the model what a booking was given, which must have been free."""
        start = minutes_of(booking.starts_at)
        taken: dict[str, list[Stretch]] = {f"customer-{customer}": [(start, start + kind.duration)]}
        for assigned in booking.lines[0].assignments:
            pattern = kind.lead if assigned.is_staff else kind.room
            stretches = [(minutes_of(each.starts_at), minutes_of(each.ends_at)) for each in assigned.taken]
            assert stretches == [(start + first, start + last) for first, last in pattern]
            assert self.model.is_free(assigned.id, start, pattern, booking.id), "given twice"
            taken[assigned.id] = stretches
        held = booking.status == pb.BOOKING_STATUS_HELD
        expires_at = booking.expires_at.ToDatetime(tzinfo=UTC) if held else None
        self.model.bookings[booking.id] = Booked(booking.id, kind, customer, start, taken, expires_at)

    # --- what people do ---

    @rule(
        kind=st.integers(0, 1),
        customer=st.integers(0, CUSTOMERS - 1),
        start=st.integers(OPENS // 15 - 2, CLOSES // 15),
        person=st.none() | st.integers(0, STAFF - 1),
        hold=st.booleans(),
    )
    def book(self, kind: int, customer: int, start: int, person: int | None, *, hold: bool) -> None:
        wanted = KINDS[kind]
        self.model.expire(self.shop.clock.now())
        who = self.model.people[person] if person is not None else None
        possible = self.model.can(wanted, customer, start * 15, who)
        request = self.shop.request(
            at(1, 0, start * 15),
            person,
            service_id=self.services[kind],
            customer_id=self.shop.crowd[customer],
            hold=hold,
        )
        answer = self.call("CreateBooking", request)
        if isinstance(answer, Refusal):
            assert answer.code in {"SLOT_TAKEN", "NOT_BOOKABLE", "CUSTOMER_BUSY"}
            assert not possible, f"{answer.code} though it is free"
        else:
            assert possible, "accepted though it is taken"
            self.know(answer, wanted, customer)

    def _some(self, number: int) -> Booked:
        known = sorted(self.model.bookings)
        return self.model.bookings[known[number % len(known)]]

    @precondition(lambda self: self.model.bookings)
    @rule(number=st.integers(0, 99))
    def cancel(self, number: int) -> None:
        booked = self._some(number)
        answer = self.call("CancelBooking", pb.CancelBookingRequest(id=booked.id))
        over = booked.expires_at is not None and booked.expires_at <= self.shop.clock.now()
        assert isinstance(answer, Refusal) == over
        del self.model.bookings[booked.id]

    @precondition(lambda self: self.model.bookings)
    @rule(number=st.integers(0, 99))
    def confirm(self, number: int) -> None:
        booked = self._some(number)
        answer = self.call("ConfirmBooking", pb.ConfirmBookingRequest(id=booked.id))
        if booked.expires_at is None:
            assert answer.code == "WRONG_STATE"
        elif booked.expires_at <= self.shop.clock.now():
            assert answer.code == "HOLD_EXPIRED"
            del self.model.bookings[booked.id]
        else:
            assert answer.status == pb.BOOKING_STATUS_CONFIRMED
            booked.expires_at = None

    @precondition(lambda self: self.model.bookings)
    @rule(number=st.integers(0, 99), start=st.integers(OPENS // 15, CLOSES // 15), person=st.none() | st.integers(0, 2))
    def move(self, number: int, start: int, person: int | None) -> None:
        now = self.shop.clock.now()
        booked = self._some(number)
        over = booked.expires_at is not None and booked.expires_at <= now
        self.model.expire(now)
        same = next(who for who in booked.taken if who in self.model.people)
        who = self.model.people[person] if person is not None else same
        possible = not over and self.model.can(booked.kind, booked.customer, start * 15, who, booked.id)
        request = pb.RescheduleBookingRequest(id=booked.id, starts_at=stamp(at(1, 0, start * 15)), staff_id=who)
        answer = self.call("RescheduleBooking", request)
        if isinstance(answer, Refusal):
            assert not possible, f"{answer.code} though it is free"
        else:
            assert possible, "moved though it is taken"
            del self.model.bookings[booked.id]
            self.know(answer, booked.kind, booked.customer)

    @rule(minutes=st.sampled_from((3, 7, 11)))
    def wait(self, minutes: int) -> None:
        if self.shop.clock.now() < at(0, 22):
            self.shop.clock.advance(timedelta(minutes=minutes))

    @rule()
    def tidy(self) -> None:
        self.run(expire_holds(self.shop.platform["bookings"].context))
        self.model.expire(self.shop.clock.now())

    # --- what must hold ---

    @rule(kind=st.integers(0, 1))
    def compare(self, kind: int) -> None:
        """What is offered is what the model says is free, for everybody who could do it."""
        self.model.expire(self.shop.clock.now())
        slots = self.run(self.shop.offers(at(1, 0), at(1, 24), service_id=self.services[kind]))
        offered = {minutes_of(slot.starts_at): set(slot.staff_ids) for slot in slots}
        wanted = KINDS[kind]
        expected = {
            start: set(leaders)
            for start in range(0, 24 * 60, 15)
            if self.model.has_room(wanted, start) and (leaders := self.model.leaders(wanted, start))
        }
        assert offered == expected
        assert self.run(self.shop.check_time()) >= len(self.model.bookings)


def minutes_of(message: Any) -> int:
    """Minutes after midnight in Shanghai of the day that is fought for."""
    moment: datetime = message.ToDatetime(tzinfo=UTC)
    return int((moment - at(1, 0)) / timedelta(minutes=1))


async def open_model_shop(platform: Any, clock: Any) -> tuple[Shop, list[str], list[str]]:
    """A shop as the model has it."""
    clock.advance(NOW - clock.now())
    shop = await Shop(platform, clock).open(0, name="Short", duration_minutes=SHORT.duration, buffer_after_minutes=5)
    shop.staff += [await shop.new_staff(skills=["able"]) for _ in range(ABLE)]
    shop.staff += [await shop.new_staff() for _ in range(STAFF - ABLE)]
    kind = await shop.call(
        "CreateResourceType",
        resources_pb2.CreateResourceTypeRequest(name="Room", kind=resources_pb2.RESOURCE_KIND_ROOM),
    )
    made = await shop.call(
        "CreateResources",
        resources_pb2.CreateResourcesRequest(branch_id=shop.branch, resource_type_id=kind.id, name="Room", count=ROOMS),
    )
    plan = catalogue_pb2.ServicePlan(
        roles=[catalogue_pb2.Role(name="lead", skills=["able"])],
        resources=[catalogue_pb2.ResourceNeed(name="room", resource_type_id=kind.id)],
        segments=[
            catalogue_pb2.Segment(duration_minutes=20),
            catalogue_pb2.Segment(duration_minutes=20, uses=["room"]),
            catalogue_pb2.Segment(duration_minutes=20),
        ],
    )
    gapped = await shop.new_service(name="Gapped", duration_minutes=GAPPED.duration, plan=plan)
    return shop, [shop.service, gapped], [unit.id for unit in made.resources]


@pytest.fixture
def machine(servers: Servers) -> Iterator[type[Machine]]:
    """The machine, with a platform on a loop of its own: Hypothesis is not asynchronous."""
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()
    platform, clock = loop.run_until_complete(stack.enter_async_context(bookings_alone(servers, "model")))
    Machine.loop = loop
    Machine.shop_of = staticmethod(lambda: open_model_shop(platform, clock))
    Machine.calls = 0
    yield Machine
    loop.run_until_complete(stack.aclose())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.mark.timeout(1200)
def test_bookings_do_what_a_plain_model_does(machine: type[Machine], long_run: bool) -> None:
    """Some hundred calls; 10,000 in the long run."""
    wanted = LONG_CALLS if long_run else CALLS
    for turn in range(MOST_TURNS):
        if machine.calls >= wanted:
            break
        chosen = settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEP_COUNT,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(seed(turn)(machine), settings=chosen)
    assert machine.calls >= wanted
