"""The plan of the demo chain."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from tools import demo_plan as plan
from tools import demo_shop as shop

TODAY = date(2026, 3, 20)  # London changes its clocks nine days later
YEAR = [TODAY + timedelta(days=number) for number in range(366)]


def visits(today: date = TODAY) -> list[plan.Visit]:
    return plan.visits(today, shop.reserved(today))


def made() -> shop.Ids:
    """Ids that say what they are of."""
    return shop.Ids(
        branches=[f"branch {n}" for n in range(len(plan.BRANCHES))],
        types={str(kind["code"]): f"type {kind['code']}" for kind in shop.RESOURCE_TYPES},
        staff=[f"staff {n}" for n in range(len(plan.STAFF))],
        services={service.code: f"service {service.code}" for service in plan.SERVICES},
        customers=[f"customer {n}" for n in range(len(plan.customers()))],
        stock={str(item["code"]): f"stock {item['code']}" for item in shop.STOCK},
        dress="dress",
        package="package",
    )


def test_the_plan_is_the_same_every_time() -> None:
    assert visits() == visits()
    ids = [f"b{n}" for n in range(3)]
    staff = [f"s{n}" for n in range(9)]
    assert plan.customer_body(3, ids, staff, TODAY) == plan.customer_body(3, ids, staff, TODAY)
    assert shop.occasions(TODAY) == shop.occasions(TODAY)
    assert shop.booking_bodies(TODAY, made()) == shop.booking_bodies(TODAY, made())


def test_nobody_is_in_two_places_at_once() -> None:
    taken: dict[int, list[tuple[datetime, datetime]]] = {}
    customers: dict[tuple[int, date], int] = {}
    for each in shop.reserved(TODAY):
        for number in each.staff:
            taken.setdefault(number, []).append((each.starts_at, each.ends_at))
        customers |= {(number, each.starts_at.date()): 1 for number in each.customers}
    for visit in visits():
        service, person = plan.SERVICES[visit.service], plan.STAFF[visit.staff]
        assert service.skill in person.skills
        assert service.people == 1 or visit.status
        assert service.people > 0
        ends_at = visit.starts_at + timedelta(minutes=service.duration_minutes + service.buffer_after_minutes)
        for start, end in taken.setdefault(visit.staff, []):
            assert ends_at <= start or end <= visit.starts_at
        taken[visit.staff].append((visit.starts_at, ends_at))
        _within_shift(visit.staff, visit.starts_at, ends_at)
        assert plan.home_of(visit.customer) == person.branch
        place = (visit.customer, visit.starts_at.date())
        assert place not in customers
        customers[place] = 1


def _within_shift(staff: int, starts_at: datetime, ends_at: datetime) -> None:
    person = plan.STAFF[staff]
    first = plan.moment(starts_at.date(), time(person.hours[0]), person.branch)
    last = plan.moment(starts_at.date(), time(person.hours[1]), person.branch)
    assert first <= starts_at
    assert ends_at <= last
    assert starts_at.weekday() not in person.days_off


def test_what_is_planned_by_hand_fits_on_every_day_of_a_year() -> None:
    for today in YEAR:
        taken: dict[int, list[tuple[datetime, datetime]]] = {}
        customers: set[tuple[int, date]] = set()
        closed = plan.closed_day(today)
        for occasion in shop.occasions(today).values():
            for starts_at in occasion.starts:
                ends_at = starts_at + timedelta(minutes=occasion.minutes)
                day = starts_at.date()
                assert today < day
                assert day not in (closed, closed + timedelta(days=6))
                for staff in occasion.staff:
                    _within_shift(staff, starts_at, ends_at)
                    assert all(ends_at <= start or end <= starts_at for start, end in taken.setdefault(staff, []))
                    taken[staff].append((starts_at, ends_at))
                for customer in occasion.customers:
                    assert (customer, day) not in customers
                    assert plan.home_of(customer) == plan.STAFF[occasion.staff[0]].branch
                    customers.add((customer, day))


def test_the_closed_day_is_a_monday_that_a_sunday_makes_up_for() -> None:
    for today in YEAR:
        closed = plan.closed_day(today)
        assert closed.weekday() == 0
        assert 0 < (closed - today).days - plan.FUTURE_DAYS <= 7
        swapped = plan.branch_body(0, today)["swapped_days"]
        assert [date.fromisoformat(day["day"]).weekday() for day in swapped] == [6]
        assert "holidays" not in plan.branch_body(2, today)


def test_what_expires_lasts_for_all_that_is_planned() -> None:
    days = [
        date.fromisoformat(each["expires_on"])
        for number in range(len(plan.STAFF))
        for each in plan.staff_body(number, "b", TODAY)["qualifications"]
        if "expires_on" in each
    ]
    assert len(days) == 1
    assert max(visit.starts_at.date() for visit in visits()) < days[0] < TODAY + timedelta(days=30)


def test_services_take_what_there_is() -> None:
    ids = made()
    bodies = {service.code: shop.service_body(number, ids) for number, service in enumerate(plan.SERVICES)}
    for body in bodies.values():
        takes = body.get("plan", {})
        assert sum(part["duration_minutes"] for part in takes.get("segments", ())) in (0, body["duration_minutes"])
        assert {need["resource_type_id"] for need in takes.get("resources", ())} <= set(ids.types.values())
    assert len(bodies["BRIDAL"]["plan"]["roles"]) == 2
    assert any("therapist" not in part.get("uses", ["therapist"]) for part in bodies["SPA"]["plan"]["segments"])
    assert bodies["OIL"]["add_on"]["service_ids"] == ["service MASSAGE", "service SPA"]


def test_two_wait_for_a_time_that_somebody_has() -> None:
    booked = shop.booking_bodies(TODAY, made())["full"]
    waiting = shop.waiting_bodies(TODAY, made())
    assert [body["windows"][0]["from"] for body in waiting] == [booked["starts_at"]] * 2
    assert len({body["customer_id"] for body in waiting} | {booked["customer_id"]}) == 3
    able = [person for person in plan.STAFF if person.branch == shop.HOME and "massage" in person.skills]
    assert len(able) == 1


def test_there_is_past_today_and_future() -> None:
    planned = visits()
    morning = datetime(2026, 3, 20, tzinfo=UTC)
    past = [visit for visit in planned if visit.status]
    today = [visit for visit in planned if not visit.status and visit.starts_at.date() == TODAY]
    future = [visit for visit in planned if not visit.status and visit.starts_at.date() > TODAY]
    assert len(past) + len(today) + len(future) == len(planned)
    assert all(visit.starts_at < morning for visit in past)
    assert {visit.status for visit in past} == {"completed", "no_show", "cancelled"}
    assert len(past) > 200
    assert len(today) > 3
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
