"""The plan of the demo chain."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from tools import demo_plan as plan

TODAY = date(2026, 3, 20)  # London changes its clocks nine days later


def test_the_plan_is_the_same_every_time() -> None:
    assert plan.visits(TODAY) == plan.visits(TODAY)
    ids = [f"b{n}" for n in range(3)]
    staff = [f"s{n}" for n in range(9)]
    assert plan.customer_body(3, ids, staff, TODAY) == plan.customer_body(3, ids, staff, TODAY)


def test_nobody_is_in_two_places_at_once() -> None:
    taken: dict[int, list[tuple[datetime, datetime]]] = {}
    for visit in plan.visits(TODAY):
        service, person = plan.SERVICES[visit.service], plan.STAFF[visit.staff]
        assert service.skill in person.skills
        ends_at = visit.starts_at + timedelta(minutes=service.duration_minutes + service.buffer_after_minutes)
        for start, end in taken.setdefault(visit.staff, []):
            assert ends_at <= start or end <= visit.starts_at
        taken[visit.staff].append((visit.starts_at, ends_at))
        first = plan.moment(visit.starts_at.date(), time(person.hours[0]), person.branch)
        last = plan.moment(visit.starts_at.date(), time(person.hours[1]), person.branch)
        assert first <= visit.starts_at
        assert ends_at <= last
        assert visit.starts_at.weekday() not in person.days_off
        assert plan.home_of(visit.customer) == person.branch


def test_there_is_past_and_future() -> None:
    visits = plan.visits(TODAY)
    noon = datetime(2026, 3, 20, 12, tzinfo=UTC)
    past = [visit for visit in visits if visit.status]
    future = [visit for visit in visits if not visit.status]
    assert all(visit.starts_at < noon - timedelta(hours=12) for visit in past)
    assert all(visit.starts_at > noon for visit in future)
    assert {visit.status for visit in past} == {"completed", "no_show", "cancelled"}
    assert len(past) > 200
    assert len(future) > 60
    for visit in past:
        assert visit.booked_at is not None
        assert visit.booked_at < (visit.cancelled_at or visit.starts_at) <= visit.starts_at
        assert (visit.cancelled_at is not None) == (visit.status == "cancelled")


def test_customers_are_chinese_and_english() -> None:
    ids, staff = ["a", "b", "c"], [str(n) for n in range(9)]
    bodies = [plan.customer_body(n, ids, staff, TODAY) for n in range(len(plan.customers()))]
    assert len(bodies) == 40
    assert {body["language"] for body in bodies} == {"zh", "en"}
    assert len({body["name"] for body in bodies}) == 40
    assert 15 < sum("email" in body for body in bodies) < 40
