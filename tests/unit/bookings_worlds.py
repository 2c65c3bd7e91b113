"""Branches with people, rooms and wishes, made up by Hypothesis: as a reference sees them, and as the service does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from foyer.bookings.v1 import catalogue_pb2 as catalogue
from foyer.bookings.v1 import policies_pb2 as policies
from hypothesis import strategies as st

from services.bookings import board, calendar, plan, times
from services.bookings.availability import Window
from services.bookings.board import Board, Offered, Person, Thing
from tests.unit.bookings_reference import Hours, Somebody, Something, Treatment, Wanted, Wish, World

STEP = 300
# Zones with the days on which their clocks change, or an ordinary one.
DAYS = {
    "Asia/Shanghai": (date(2026, 6, 10),),
    "Asia/Kathmandu": (date(2026, 6, 10),),
    "Australia/Adelaide": (date(2026, 4, 5), date(2026, 10, 4)),
    "Australia/Lord_Howe": (date(2026, 4, 5), date(2026, 10, 4)),  # half an hour
    "America/New_York": (date(2026, 3, 8), date(2026, 11, 1)),
    "America/St_Johns": (date(2026, 3, 8), date(2026, 11, 1)),
    "Africa/Cairo": (date(2026, 4, 24), date(2026, 10, 29)),  # at midnight
    "Pacific/Apia": (date(2011, 12, 30), date(2026, 6, 10)),  # a day that never was
}
SKILLS = ("cut", "dye")
ADD_ON = "add-on"
FAR = date(2999, 1, 1)


def clock_text(step: int) -> str:
    return f"{step // 12 % 24:02d}:{step % 12 * 5:02d}"


clock = st.integers(0, 287).map(clock_text)
hours = st.tuples(st.integers(1, 7), clock, st.one_of(clock, st.just("24:00")))
# Shifts of 5 to 24 hours, many over midnight.
shift = st.tuples(st.integers(0, 287), st.integers(60, 288)).map(
    lambda pair: (clock_text(pair[0]), clock_text(pair[0] + pair[1]))
)
every_day = shift.map(lambda pair: [(weekday, *pair) for weekday in range(1, 8)])
week = st.one_of(every_day, every_day, every_day, st.lists(hours, max_size=6))


@dataclass
class Draw:
    """What is drawn around one day."""

    draw: st.DrawFn
    day: date

    def days(self) -> date:
        return self.day + timedelta(days=self.draw(st.integers(-1, 2)))

    def stretches(self, most: int = 2) -> list[tuple[int, int]]:
        """Some hours around the day, in steps since 1970."""
        base = int(datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC).timestamp()) // STEP
        pairs = self.draw(st.lists(st.tuples(st.integers(-150, 430), st.integers(1, 60)), max_size=most))
        return [(base + first, base + first + length) for first, length in pairs]

    def person(self, number: int, treatments: Iterable[Treatment]) -> Somebody:
        draw = self.draw
        person = Somebody(f"p{number}", here=draw(st.integers(0, 9)) > 0)
        some: set[str] = draw(st.sets(st.sampled_from(SKILLS)))
        for skill in SKILLS if draw(st.booleans()) else sorted(some):
            person.skills[skill] = (draw(st.integers(1, 3)), self.days() if draw(st.integers(0, 3)) == 3 else None)
        changes = self.days()
        if draw(st.booleans()):
            person.weeks = [(date(2000, 1, 1), FAR, draw(week))]
        else:
            person.weeks = [(date(2000, 1, 1), changes - timedelta(days=1), draw(week)), (changes, FAR, draw(week))]
        if draw(st.integers(0, 3)) == 3:
            day = self.days()
            person.dated[day] = [(day.isoweekday(), *draw(every_day)[0][1:])] if draw(st.booleans()) else []
        person.away, person.busy = self.stretches(1), self.stretches(2)
        for treatment in treatments:
            if len(treatment.parts) <= 1 and draw(st.sampled_from((True, False, False))):
                person.lengths[treatment.id] = draw(st.sampled_from((30, 45)))
        return person

    def treatment(self, number: int) -> Treatment:
        draw = self.draw
        buffer = st.sampled_from((0, 0, 5, 15))
        found = Treatment(f"t{number}", 30, draw(buffer), draw(buffer))
        found.skills = sorted(draw(st.sets(st.sampled_from(SKILLS), max_size=1)))
        names: list[str] = draw(st.lists(st.sampled_from(("a", "b", "room", "tool")), max_size=3, unique=True))
        for name in names:
            need = Wanted(name, draw(st.sampled_from((1, 1, 2))))
            if name in ("a", "b"):
                need.skills = sorted(draw(st.sets(st.sampled_from(SKILLS), max_size=1)))
                need.min_grade = draw(st.sampled_from((0, 0, 0, 2)))
            else:
                need.type = name
                if draw(st.booleans()):
                    need.before, need.after = draw(buffer), draw(st.sampled_from((0, 30, 720)))
            found.needs.append(need)
        if draw(st.booleans()) and names:
            some = st.lists(st.sampled_from(names), unique=True)
            for _ in range(draw(st.integers(1, 3))):
                minutes = draw(st.sampled_from((10, 20, 40)))
                busy: list[str] = draw(some)
                found.parts.append((minutes, None if draw(st.booleans()) else busy))
            # The catalogue refuses needs that nothing uses.
            idle = [name for name in names if not any(uses is None or name in uses for _, uses in found.parts)]
            if idle:
                found.parts.append((10, idle))
            found.minutes = sum(minutes for minutes, _ in found.parts)
        # Roles come before rooms in a plan.
        found.needs.sort(key=lambda need: need.type is not None)
        return found

    def wish(self, world: World, treatments: list[Treatment], number: int) -> Wish:
        draw = self.draw
        wish = Wish(draw(st.sampled_from(treatments)), together=number > 0 and draw(st.booleans()))
        needs = wish.treatment.needs or [Wanted("staff", 1)]
        has_people = any(need.type is None for need in needs)
        if has_people and draw(st.integers(0, 4)) == 4:
            wish.staff_id = draw(st.sampled_from([person.id for person in world.people]))
        for need in needs:
            if need.type is not None and draw(st.sampled_from((True, False, False))):
                wish.choices.append((need.name, draw(st.sampled_from([thing.id for thing in world.things]))))
        wish.customer = draw(st.sampled_from((None, None, "c1", "c2")))
        wish.more = draw(st.sampled_from((0, 0, 15)))
        wish.guest = wish.customer is None and draw(st.booleans())
        return wish


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A branch around a day, with a visit of one to three services."""
    zone = draw(st.sampled_from(sorted(DAYS)))
    day = draw(st.sampled_from(DAYS[zone])) + timedelta(days=draw(st.integers(-1, 1)))
    around = Draw(draw, day)
    treatments = [around.treatment(number) for number in range(draw(st.integers(1, 2)))]
    world = World(
        zone=zone,
        day=day,
        opening=draw(st.one_of(st.none(), st.none(), week.filter(bool))),
        holidays=[around.days()] if draw(st.integers(0, 4)) == 4 else [],
        swapped={around.days(): draw(st.integers(1, 7))} if draw(st.sampled_from((True, False, False))) else {},
        people=[around.person(number, treatments) for number in range(draw(st.integers(2, 5)))],
        things=[
            Something(f"{kind}{number}", kind, around.stretches(1), around.stretches(1))
            for kind in ("room", "tool")
            for number in range(draw(st.integers(1, 3)))
        ],
        wishes=[],
        customer=draw(st.sampled_from((None, "c0"))),
        customers_busy={name: around.stretches(1) for name in ("c0", "c1", "c2")},
    )
    world.wishes = [around.wish(world, treatments, number) for number in range(draw(st.sampled_from((1, 1, 2, 3))))]
    return world


# --- the same as the service has it ---


def text_of(week: Iterable[Hours]) -> str:
    return calendar.format_week(list(week))


def offered(treatment: Treatment) -> Offered:
    """A treatment as a service of the catalogue."""
    found = catalogue.ServicePlan()
    for need in treatment.needs:
        if need.type is None:
            found.roles.add(name=need.name, skills=need.skills, min_grade=need.min_grade, count=need.count)
        else:
            found.resources.add(
                name=need.name,
                resource_type_id=need.type,
                count=need.count,
                buffer_before_minutes=need.before,
                buffer_after_minutes=need.after,
            )
    for minutes, uses in treatment.parts:
        found.segments.add(duration_minutes=minutes, uses=uses or [], idle=uses is not None)
    values = dict.fromkeys(Offered.__dataclass_fields__)
    values |= {
        "id": treatment.id,
        "duration_minutes": treatment.minutes,
        "buffer_before_minutes": treatment.before,
        "buffer_after_minutes": treatment.after,
        "required_skills": tuple(treatment.skills),
        "offered_here": True,
        "active": True,
        "plan": found,
        "offer": catalogue.OfferRules(),
    }
    return Offered(**values)  # type: ignore[arg-type]


def person_of(person: Somebody) -> Person:
    terms = {}
    for service, minutes in person.lengths.items():
        terms[service] = catalogue.StaffTerms(service_id=service, duration_minutes=minutes)
    return Person(
        id=person.id,
        name=person.id,
        grade=0,
        active=True,
        here=person.here,
        skills={
            skill: (grade, board.FOREVER_DAY if until is None else calendar.days_of(until.isoformat()))
            for skill, (grade, until) in person.skills.items()
        },
        terms=terms,
        periods=tuple(
            (calendar.days_of(first.isoformat()), calendar.days_of(last.isoformat()), text_of(week))
            for first, last, week in person.weeks
        ),
        dated=tuple(sorted((calendar.days_of(day.isoformat()), text_of(week)) for day, week in person.dated.items())),
        away=tuple(sorted(person.away)),
    )


def board_of(world: World) -> Board:
    """A world's branch as the service keeps it, with an add-on of 15 minutes."""
    mask = replace(offered(Treatment(ADD_ON, 15, 0, 0)), add_on=catalogue.AddOnRules(only_with=True))
    return Board(
        versions=(1, 1),
        day=0,
        branch_id="branch",
        time_zone=world.zone,
        active=True,
        opening_hours=None if world.opening is None else text_of(world.opening),
        holidays=",".join(sorted(day.isoformat() for day in world.holidays)),
        swapped=tuple((calendar.days_of(day.isoformat()), weekday) for day, weekday in sorted(world.swapped.items())),
        services={wish.treatment.id: offered(wish.treatment) for wish in world.wishes} | {ADD_ON: mask},
        people={person.id: person_of(person) for person in world.people},
        things={t.id: Thing(t.id, t.id, t.type, True, tuple(sorted(t.blocked))) for t in world.things},
        type_names={},
        policy=policies.BookingPolicy(slot_step_minutes=15, horizon_days=400),
    )


def question_of(world: World) -> plan.Question:
    lines = tuple(
        plan.Line(
            wish.treatment.id,
            wish.customer,
            wish.staff_id,
            tuple(wish.choices),
            (ADD_ON,) if wish.more else (),
            together=wish.together,
            guest_name="guest" if wish.guest else None,
        )
        for wish in world.wishes
    )
    return plan.Question("branch", lines, world.customer)


def times_of(world: World, starts: range) -> times.Times:
    """What the service would have read for starts of a stretch of steps since 1970."""
    kept, question = board_of(world), question_of(world)
    compiled = plan.compile_plans(kept, question)
    first, last = calendar.moment_of(starts.start), calendar.moment_of(starts.stop)
    longest = max((each.duration for each in compiled.plans), default=0)
    window = times.window_of(kept, compiled, first, last + timedelta(seconds=STEP * longest))
    taken = {person.id: person.busy for person in world.people} | {thing.id: thing.busy for thing in world.things}
    taken |= world.customers_busy
    return times.Times(kept, question, compiled, window, {one: bits(window, each) for one, each in taken.items()})


def bits(window: Window, stretches: Iterable[tuple[int, int]]) -> int:
    found = 0
    for first, last in stretches:
        found |= window.span(first, last)
    return found
