from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.common.v1.common_pb2 import Money

from chassis.errors import Refusal, problem, register
from services.bookings import domain

NOW = datetime(2026, 5, 1, 10, tzinfo=UTC)
STATES = ("held", "confirmed", "checked_in", "in_service", "completed", "cancelled", "no_show", "expired")
ALLOWED = {
    ("confirm", "held"): "confirmed",
    ("cancel", "held"): "cancelled",
    ("cancel", "confirmed"): "cancelled",
    ("reschedule", "held"): "held",
    ("reschedule", "confirmed"): "confirmed",
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
    late = (step, status) == ("confirm", "expired")
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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"branch_active": False}, "branch_closed_down"),
        ({"service_active": False}, "service_inactive"),
        ({"offered": False}, "service_elsewhere"),
        ({"staff_active": False}, "staff_left"),
        ({"staff_here": False}, "staff_elsewhere"),
        ({"staff_able": False}, "staff_unable"),
        ({"staff_named": False, "staff_able": False}, None),
    ],
)
def test_why_nothing_can_be_booked(changes: dict[str, bool], reason: str | None) -> None:
    names = (
        "branch_active",
        "service_active",
        "offered",
        "staff_named",
        "staff_active",
        "staff_here",
        "staff_able",
    )
    assert domain.standing_reason(domain.Standing(**{**dict.fromkeys(names, True), **changes})) == reason


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
