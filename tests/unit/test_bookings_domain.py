from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import catalogue_pb2
from foyer.common.v1.common_pb2 import Money

from chassis.errors import Refusal, problem, register
from services.bookings import assignment, calendar, domain, plan
from services.bookings.board import Board
from tests.unit.bookings_reference import Somebody, Treatment, Wish, World
from tests.unit.bookings_worlds import board_of, times_of

NOW = datetime(2026, 5, 1, 10, tzinfo=UTC)
STATES = ("held", "confirmed", "checked_in", "in_service", "completed", "cancelled", "no_show", "expired")
ALLOWED = {
    ("confirm", "held"): "confirmed",
    ("renew", "held"): "held",
    ("cancel", "held"): "cancelled",
    ("cancel", "confirmed"): "cancelled",
    ("reschedule", "held"): "held",
    ("reschedule", "confirmed"): "confirmed",
    ("reassign", "held"): "held",
    ("reassign", "confirmed"): "confirmed",
    ("reassign", "checked_in"): "checked_in",
    ("extend", "confirmed"): "confirmed",
    ("extend", "checked_in"): "checked_in",
    ("extend", "in_service"): "in_service",
    ("check_in", "confirmed"): "checked_in",
    ("start", "confirmed"): "in_service",
    ("start", "checked_in"): "in_service",
    ("complete", "confirmed"): "completed",
    ("complete", "checked_in"): "completed",
    ("complete", "in_service"): "completed",
    ("mark_no_show", "confirmed"): "no_show",
}


@pytest.mark.parametrize("step", domain.STEPS)
@pytest.mark.parametrize("status", STATES)
def test_steps_of_every_state(step: str, status: str) -> None:
    expected = ALLOWED.get((step, status))
    if expected is not None:
        assert domain.next_status(step, status) == expected
        return
    with pytest.raises(Refusal) as refused:
        domain.next_status(step, status)
    late = step in ("confirm", "renew") and status == "expired"
    assert refused.value.code == ("HOLD_EXPIRED" if late else "WRONG_STATE")


def test_a_hold_expires_by_itself() -> None:
    assert domain.effective_status("held", NOW, NOW) == "expired"
    assert domain.effective_status("held", NOW + timedelta(microseconds=1), NOW) == "held"
    assert domain.effective_status("confirmed", None, NOW) == "confirmed"


@pytest.mark.parametrize(("ahead", "minutes"), [(90, 90), (0, 0), (-90, -90)])
def test_notice_is_told_in_minutes(ahead: int, minutes: int) -> None:
    assert domain.notice_minutes(NOW, NOW + timedelta(minutes=ahead)) == minutes


def test_every_reason_is_told_in_both_languages() -> None:
    register(pb.DESCRIPTOR)
    for reason, (english, chinese) in domain.REASONS.items():
        refusal = domain.not_bookable(reason, [])
        assert english in problem(refusal, "en")[1]["detail"]
        assert chinese in problem(refusal, "zh")[1]["detail"]
        assert problem(refusal)[1]["nearest"] == []


MASK = "mask"


def board_with(changes: dict[str, Any]) -> Board:
    """A branch with a service, an add-on that goes with it, and a person who does it; with something changed."""
    person = Somebody("p0", here=changes.get("staff_here", True))
    if changes.get("staff_able", True):
        person.skills["cut"] = (1, None)
    treatment = Treatment("t0", 60, 0, 0, skills=["cut"])
    world = World("UTC", NOW.date(), None, [], {}, [person], [], [Wish(treatment)])
    board = board_of(world)
    service = board.services["t0"]
    rules = catalogue_pb2.AddOnRules(only_with=True, service_ids=changes.get("goes_with", ["t0"]))
    mask = replace(service, id=MASK, required_skills=(), add_on=rules, active=changes.get("add_on_active", True))
    service = replace(service, active=changes.get("service_active", True), offered_here=changes.get("offered", True))
    service.offer.channels.extend(changes.get("channels", []))
    board.services = {"t0": service, MASK: mask, "plain": replace(service, id="plain")}
    board.active = changes.get("branch_active", True)
    board.people = {"p0": replace(board.people["p0"], active=changes.get("staff_active", True))}
    board.policy.channels.add(channel="app", any_staff_only=changes.get("any_staff_only", False))
    return board


@pytest.mark.parametrize(
    ("changes", "asked", "reason"),
    [
        ({}, {}, None),
        ({"branch_active": False}, {}, "branch_closed_down"),
        ({"service_active": False}, {}, "service_inactive"),
        ({"offered": False}, {}, "service_elsewhere"),
        ({"staff_active": False}, {}, "staff_left"),
        ({"staff_here": False}, {}, "staff_elsewhere"),
        ({}, {"staff_id": "nobody"}, "staff_elsewhere"),
        ({"staff_able": False}, {}, "staff_unable"),
        ({"staff_able": False}, {"staff_id": None}, None),
        ({}, {"add_on_ids": (MASK,)}, None),
        ({"add_on_active": False}, {"add_on_ids": (MASK,)}, "service_inactive"),
        ({}, {"service_id": MASK, "staff_id": None}, "add_on_alone"),
        ({"goes_with": ["other"]}, {"add_on_ids": (MASK,)}, "add_on_elsewhere"),
        ({"goes_with": []}, {"add_on_ids": (MASK,)}, None),
        ({}, {"add_on_ids": ("plain",)}, "add_on_elsewhere"),
        ({"channels": ["desk"]}, {}, "channel_closed"),
        ({"channels": ["app"]}, {}, None),
        ({"any_staff_only": True}, {}, "any_staff_only"),
        ({"any_staff_only": True}, {"staff_id": None}, None),
        # What stands first in the order of reasons is told.
        ({"branch_active": False, "service_active": False, "staff_here": False}, {}, "branch_closed_down"),
        ({"service_active": False, "offered": False, "staff_active": False}, {}, "service_inactive"),
    ],
)
def test_why_nothing_can_be_booked(changes: dict[str, Any], asked: dict[str, Any], reason: str | None) -> None:
    line = plan.Line(**{"service_id": "t0", "staff_id": "p0", **asked})
    compiled = plan.compile_plans(board_with(changes), plan.Question("branch", (line,), source="app"))
    assert compiled.reason == reason
    assert bool(compiled.plans) == (reason is None)
    assert reason is None or reason in domain.REASONS


def test_what_nobody_knows_is_not_found() -> None:
    board = board_with({})
    for line, field in (
        (plan.Line("nothing", field="lines[2]."), "lines[2].service_id"),
        (plan.Line("t0", add_on_ids=(MASK, "nothing")), "add_on_ids[1]"),
    ):
        with pytest.raises(Refusal) as refused:
            plan.compile_plans(board, plan.Question("branch", (line,)))
        assert (refused.value.code, refused.value.errors[0].field) == ("NOT_FOUND", field)


def test_who_is_least_busy_comes_first_then_who_joined_first() -> None:
    people = [Somebody(name, weeks=[(date(2000, 1, 1), date(2999, 1, 1), [])]) for name in ("c", "b", "a", "d")]
    world = World("UTC", NOW.date(), None, [], {}, people, [], [Wish(Treatment("t0", 60, 0, 0))])
    first = calendar.last_step(NOW)
    for person, busy in zip(people, [(0, 6), (0, 3), (2, 5), (-300, -200)], strict=True):
        person.busy = [(first + busy[0], first + busy[1])]
    found = times_of(world, range(first - 400, first + 400))
    ids = ["c", "d", "b", "a"]
    in_order = assignment.spread(ids, found.question, attempt=1)
    scores = assignment.by_load(found, in_order, first - found.window.first_step)
    assert list(scores.items()) == [("d", 0.0), ("a", -15.0), ("b", -15.0), ("c", -30.0)]
    # Who met somebody there looks in another order, and finds all of them.
    orders = {tuple(assignment.spread(ids, found.question, attempt)) for attempt in range(2, 9)}
    assert len(orders) > 1
    assert all(sorted(order) == sorted(ids) for order in orders)


def test_fields_that_need_attention() -> None:
    assert [error.field for error in domain.step_errors([("a", 10), ("b", 7), ("c", 0)])] == ["b"]
    errors = domain.money_errors("price", Money(amount=-1, currency="EUR"), "CNY")
    assert [error.field for error in errors] == ["price.amount", "price.currency"]
    assert [error.field for error in domain.repeated_errors("ids", ["a", "b", "a"])] == ["ids[2]"]


@pytest.mark.parametrize("text", ["2026-02-30", "1969-12-31", "3000-01-01"])
def test_days_that_make_no_sense(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        domain.parse_date("from_date", text)
    assert refused.value.errors[0].field == "from_date"
