"""From what is asked for to what it needs: services of a visit become needs with patterns of time.

A plan is compiled once for each thing that is asked for, and kept with the board it was compiled from. There are
several where people who could lead take different times: one for each length.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC

from foyer.bookings.v1 import bookings_pb2 as pb
from foyer.bookings.v1 import catalogue_pb2, policies_pb2

from chassis.errors import FieldError, Refusal, not_found
from services.bookings import calendar
from services.bookings.availability import Need, Pattern
from services.bookings.board import Board, Offered, Person
from services.bookings.calendar import STEP_MINUTES

STAFF = "staff"
MOST_VARIANTS = 64
MOST_PLANS = 2000
MOST_NEEDS = 40


@dataclass(frozen=True, slots=True)
class Line:
    """One service that is asked for."""

    service_id: str
    customer_id: str | None = None
    staff_id: str | None = None
    choices: tuple[tuple[str, str], ...] = ()
    """What is wanted for other needs: name of the need, and who or what."""
    add_on_ids: tuple[str, ...] = ()
    together: bool = False
    guest_name: str | None = None
    field: str = ""
    """How the request names the line, such as `lines[0].`."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for at a branch: services in order, for a customer or nobody yet, through a channel or none."""

    branch_id: str
    lines: tuple[Line, ...]
    customer_id: str | None = None
    source: str | None = None
    overlap_allowed: bool = False
    closed: str | None = None
    """Why it cannot be had whatever the time, where what was asked for is no longer sold here."""

    @property
    def customer_ids(self) -> list[str]:
        """Everybody it is for."""
        mine = [self.customer_id, *(line.customer_id for line in self.lines)]
        return list(dict.fromkeys(identifier for identifier in mine if identifier is not None))


@dataclass(frozen=True, slots=True)
class PlannedLine:
    """One service in a plan, with its place in the visit."""

    line: Line
    service: Offered
    add_ons: tuple[Offered, ...]
    first: int
    last: int
    """First step and the step after the last, from the start of the visit; buffers not included."""
    lead: str | None
    """Key of the need that leads it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a visit needs, and when."""

    lines: tuple[PlannedLine, ...]
    needs: tuple[Need, ...]
    duration: int
    """Steps from the start of the first service to the end of the last."""
    lead: int | None = field(default=None)
    """Position of the need that leads the visit: the first one of the first line that wants people."""

    @property
    def reach(self) -> tuple[int, int]:
        """The steps it touches, from the start of the visit, buffers included."""
        firsts = [need.pattern[0][0] for need in self.needs]
        lasts = [need.pattern[-1][1] for need in self.needs]
        return min([0, *firsts]), max([self.duration, *lasts])


@dataclass(frozen=True, slots=True)
class Compiled:
    """The plans for a question, or why there is none whatever the time."""

    plans: tuple[Plan, ...]
    reason: str | None = None

    @property
    def ids(self) -> list[str]:
        """Everybody and everything whose busy time decides."""
        pools = (need.pool for plan in self.plans for need in plan.needs)
        return list(dict.fromkeys(itertools.chain.from_iterable(pools)))


def compile_plans(board: Board, question: Question) -> Compiled:
    """The plans for a question. Raises Refusal NOT_FOUND for an unknown service, INVALID_REQUEST for a wrong choice.

    That a person or customer exists at all is for the caller to check: the board knows those of its branch only.
    """
    anybody = replace(
        question,
        customer_id=None,
        overlap_allowed=False,
        lines=tuple(replace(line, customer_id=None, guest_name=None) for line in question.lines),
    )
    known: Compiled | None = board.plans.get(anybody)
    if known is None:
        known = _compile(board, anybody)
        if len(board.plans) >= MOST_PLANS:
            board.plans.clear()
        board.plans[anybody] = known
    return replace(known, plans=tuple(_for_customers(plan, question) for plan in known.plans))


def _for_customers(plan: Plan, question: Question) -> Plan:
    """A plan for certain people: whose time it takes as well."""
    lines = tuple(replace(planned, line=line) for planned, line in zip(plan.lines, question.lines, strict=True))
    own = () if question.overlap_allowed else _customers(question, lines)
    return replace(plan, lines=lines, needs=(*plan.needs, *own))


def _compile(board: Board, question: Question) -> Compiled:
    if question.closed is not None:
        return Compiled((), question.closed)
    if not board.active:
        for line in question.lines:
            _service(board, line.service_id, f"{line.field}service_id")
        return Compiled((), "branch_closed_down")
    variants = []
    for index, line in enumerate(question.lines):
        service = _service(board, line.service_id, f"{line.field}service_id")
        add_ons = tuple(
            _service(board, identifier, f"{line.field}add_on_ids[{position}]")
            for position, identifier in enumerate(line.add_on_ids)
        )
        reason = standing_reason(board, question, line, service, add_ons)
        if reason is not None:
            return Compiled((), reason)
        variants.append(_variants(board, index, line, service, add_ons))
    combinations = list(itertools.islice(itertools.product(*variants), MOST_VARIANTS + 1))
    if len(combinations) > MOST_VARIANTS:
        message = "people who could do this take too many different times: choose some of them"
        raise Refusal("INVALID_REQUEST", errors=[FieldError("lines", "range", message, "人员时长组合过多，请指定员工")])
    plans = tuple(_join(combination) for combination in combinations)
    if plans and len(plans[0].needs) > MOST_NEEDS:
        message = f"need more than {MOST_NEEDS} people and things together"
        raise Refusal("INVALID_REQUEST", errors=[FieldError("lines", "range", message, "一次预约的需求过多")])
    return Compiled(plans)


def _service(board: Board, identifier: str, name: str) -> Offered:
    service = board.services.get(identifier)
    if service is None:
        raise not_found("service", name)
    return service


def standing_reason(
    board: Board, question: Question, line: Line, service: Offered, add_ons: Sequence[Offered]
) -> str | None:
    """Why a line cannot be booked whatever the time; None when it can."""
    if any(not each.active for each in (service, *add_ons)):
        return "service_inactive"
    if any(not each.offered_here for each in (service, *add_ons)):
        return "service_elsewhere"
    if service.add_on is not None and service.add_on.only_with:
        return "add_on_alone"
    for add_on in add_ons:
        allowed = add_on.add_on.service_ids if add_on.add_on is not None else ()
        if add_on.add_on is None or (allowed and service.id not in allowed):
            return "add_on_elsewhere"
    return _channel_reason(board, question, line, (service, *add_ons)) or staff_reason(board, line, service)


def _channel_reason(board: Board, question: Question, line: Line, services: Sequence[Offered]) -> str | None:
    source = question.source
    if source is None:
        return None
    if any(each.offer.channels and source not in each.offer.channels for each in services):
        return "channel_closed"
    rule = channel_rule(board, source)
    return "any_staff_only" if rule is not None and rule.any_staff_only and line.staff_id is not None else None


def channel_rule(board: Board, source: str | None) -> policies_pb2.ChannelRule | None:
    """The rule of a channel, if the chain has one for it."""
    return next((rule for rule in board.policy.channels if rule.channel == source), None)


def staff_reason(board: Board, line: Line, service: Offered) -> str | None:
    """Why whom a line names cannot lead it, whatever the time; None when they can."""
    if line.staff_id is None:
        return None
    person = board.people.get(line.staff_id)
    if person is None:
        return "staff_elsewhere"
    if not person.active:
        return "staff_left"
    if not person.here:
        return "staff_elsewhere"
    roles = roles_of(service)
    if not roles or not person.is_able(_skills(service, roles[0], leads=True), roles[0].min_grade):
        return "staff_unable"
    return None


# --- what a service needs ---

DEFAULT_ROLE = catalogue_pb2.Role(name=STAFF, count=1)


def roles_of(service: Offered) -> Sequence[catalogue_pb2.Role]:
    """The people a service needs, who leads first: one, where its plan says nothing."""
    if not service.plan.roles and not service.plan.resources:
        return [DEFAULT_ROLE]
    return service.plan.roles


def _skills(service: Offered, role: catalogue_pb2.Role, *, leads: bool) -> tuple[str, ...]:
    own = service.required_skills if leads else ()
    return tuple(dict.fromkeys((*own, *role.skills)))


def _variants(
    board: Board, index: int, line: Line, service: Offered, add_ons: Sequence[Offered]
) -> list[tuple[PlannedLine, list[Need]]]:
    """The line as if it began at step 0, once for each length that those who could lead it take."""
    more = sum(add_on.duration_minutes for add_on in add_ons)
    roles = roles_of(service)
    if not roles:
        return [_lay(board, index, line, service, add_ons, service.duration_minutes + more, None)]
    lead = roles[0]
    wanted = [identifier for name, identifier in line.choices if name == lead.name]
    if line.staff_id is not None:
        wanted.append(line.staff_id)
    able = _able(board, service, lead, leads=True)
    by_length: dict[int, list[Person]] = {}
    for person in able:
        terms = person.terms.get(service.id)
        own = terms is not None and terms.HasField("duration_minutes") and len(service.plan.segments) <= 1
        length = terms.duration_minutes if own and terms is not None else service.duration_minutes
        by_length.setdefault(length, []).append(person)
    if wanted:
        by_length = {
            length: people for length, people in by_length.items() if any(person.id in wanted for person in people)
        }
    if not by_length:
        by_length = {service.duration_minutes: []}
    return [
        _lay(board, index, line, service, add_ons, length + more, {person.id for person in people})
        for length, people in sorted(by_length.items())
    ]


def _able(board: Board, service: Offered, role: catalogue_pb2.Role, *, leads: bool) -> list[Person]:
    skills = _skills(service, role, leads=leads)
    return [
        person
        for person in board.people.values()
        if person.active and person.here and person.is_able(skills, role.min_grade)
    ]


def leaders(board: Board, service_id: str) -> list[Person]:
    """Everybody at the branch who could lead a service, whenever they are free."""
    service = board.services.get(service_id)
    roles = roles_of(service) if service is not None else ()
    return _able(board, service, roles[0], leads=True) if service is not None and roles else []


def _lay(
    board: Board,
    index: int,
    line: Line,
    service: Offered,
    add_ons: Sequence[Offered],
    minutes: int,
    leaders: set[str] | None,
) -> tuple[PlannedLine, list[Need]]:
    segments = _segments(service, minutes)
    length = segments[-1][1]
    choices: dict[str, list[str]] = {}
    for name, identifier in line.choices:
        choices.setdefault(name, []).append(identifier)
    needs = []
    roles = roles_of(service)
    for position, role in enumerate(roles):
        leads = position == 0
        chosen = choices.pop(role.name, [])
        if leads and line.staff_id is not None:
            chosen = [line.staff_id, *(each for each in chosen if each != line.staff_id)]  # who is asked for leads
        pool = [person.id for person in _able(board, service, role, leads=leads)]
        if leads and leaders is not None:
            pool = [identifier for identifier in pool if identifier in leaders]
        before, after = service.buffer_before_minutes, service.buffer_after_minutes
        pattern = _pattern(segments, role.name, before, after)
        skills = _skills(service, role, leads=leads)
        needs += _need(line, f"{index}.{role.name}", STAFF, pool, role.count, pattern, chosen, skills)
    for need in service.plan.resources:
        before = need.buffer_before_minutes if need.HasField("buffer_before_minutes") else service.buffer_before_minutes
        after = need.buffer_after_minutes if need.HasField("buffer_after_minutes") else service.buffer_after_minutes
        pool = [thing.id for thing in board.things.values() if thing.active and thing.type_id == need.resource_type_id]
        pattern = _pattern(segments, need.name, before, after)
        chosen = choices.pop(need.name, [])
        needs += _need(line, f"{index}.{need.name}", "resource", pool, need.count, pattern, chosen)
    if choices:
        raise _wrong_choice(line, next(iter(choices)), "is not a need of this service", "该服务没有此项需求")
    lead = f"{index}.{roles[0].name}" if roles else None
    return PlannedLine(line, service, tuple(add_ons), 0, length, lead), needs


def _need(
    line: Line,
    key: str,
    kind: str,
    pool: list[str],
    count: int,
    pattern: Pattern,
    chosen: Sequence[str],
    skills: tuple[str, ...] = (),
) -> list[Need]:
    if not pattern:
        return []
    count = count or 1
    if len(chosen) > count:
        name = key.partition(".")[2]
        raise _wrong_choice(line, name, f"is wanted from {count} at most", f"最多指定 {count} 个")
    return [Need(key, kind, tuple(pool), count, pattern, tuple(chosen), skills)]


def _wrong_choice(line: Line, name: str, message: str, message_zh: str) -> Refusal:
    index = next((n for n, (need, _) in enumerate(line.choices) if need == name), 0)
    return Refusal(
        "INVALID_REQUEST", errors=[FieldError(f"{line.field}choices[{index}].need", "unknown", message, message_zh)]
    )


def _segments(service: Offered, minutes: int) -> list[tuple[int, int, frozenset[str] | None]]:
    """First and last step of each part, and what is busy with it (None: everything)."""
    parts = list(service.plan.segments)
    if not parts:
        return [(0, minutes // STEP_MINUTES, None)]
    lengths = [part.duration_minutes for part in parts]
    lengths[-1] += minutes - sum(lengths)
    found = []
    cursor = 0
    for part, length in zip(parts, lengths, strict=True):
        last = cursor + length // STEP_MINUTES
        uses = frozenset(part.uses) if part.uses or part.idle else None
        found.append((cursor, last, uses))
        cursor = last
    return found


def _pattern(
    segments: Iterable[tuple[int, int, frozenset[str] | None]], name: str, before_minutes: int, after_minutes: int
) -> Pattern:
    """When a need is busy: the parts that use it, with a buffer before the first and after the last."""
    found: list[tuple[int, int]] = []
    for first, last, uses in segments:
        if uses is not None and name not in uses:
            continue
        if found and found[-1][1] == first:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    if found:
        found[0] = (found[0][0] - before_minutes // STEP_MINUTES, found[0][1])
        found[-1] = (found[-1][0], found[-1][1] + after_minutes // STEP_MINUTES)
    return tuple(found)


# --- a visit of several ---


def _join(parts: Sequence[tuple[PlannedLine, list[Need]]]) -> Plan:
    lines: list[PlannedLine] = []
    needs: list[Need] = []
    offset = end = 0
    for position, (line, own) in enumerate(parts):
        if position and not line.line.together:
            # Who follows begins when all before are done, with the buffers of both in between.
            last = max(each.last + each.service.buffer_after_minutes // STEP_MINUTES for each in lines)
            offset = last + line.service.buffer_before_minutes // STEP_MINUTES
        lines.append(replace(line, first=line.first + offset, last=line.last + offset))
        needs += [replace(need, pattern=_shift(need.pattern, offset)) for need in own]
        end = max(end, line.last + offset)
    lead = next((n for n, need in enumerate(needs) if need.kind == STAFF and need.key == lines[0].lead), None)
    return Plan(tuple(lines), tuple(needs), end, lead)


def _customers(question: Question, lines: Sequence[PlannedLine]) -> list[Need]:
    """The time of everybody it is done to: nobody can be in two places."""
    stretches: dict[str, list[tuple[int, int]]] = {}
    for line in lines:
        customer = line.line.customer_id
        if customer is None and line.line.guest_name is None:
            customer = question.customer_id
        if customer is not None:
            stretches.setdefault(customer, []).append((line.first, line.last))
    return [
        Need(f"0.customer-{number}", "customer", (customer,), 1, merged(own), (customer,))
        for number, (customer, own) in enumerate(stretches.items())
    ]


def merged(stretches: Iterable[tuple[int, int]]) -> Pattern:
    """Stretches in order, those that touch or overlap as one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(stretches):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def _shift(pattern: Pattern, by: int) -> Pattern:
    return tuple((first + by, last + by) for first, last in pattern)


# --- what was sold ---


def of_booking(board: Board, question: Question, lines: Sequence[pb.BookingLine]) -> Plan:
    """The plan of a booking as it was sold: its lengths are those of then, whatever the catalogue says now.

    Whom the lines of the question (one for each that was sold) name leads them. A need of a role or type that the
    catalogue no longer has can be served by those who were given to it.
    """
    start = calendar.last_step(lines[0].starts_at.ToDatetime(tzinfo=UTC))
    planned = []
    needs = []
    for index, line in enumerate(lines):
        service = _service(board, line.service_id, "service_id")
        by_name: dict[str, list[pb.Assignment]] = {}
        for assignment in line.assignments:
            by_name.setdefault(assignment.need, []).append(assignment)
        lead = next((assignment.need for assignment in line.assignments if assignment.is_staff), None)
        for name, assignments in by_name.items():
            key = f"{index}.{name}"
            pattern = tuple(
                (_step(stretch.starts_at) - start, _step(stretch.ends_at) - start) for stretch in assignments[0].taken
            )
            ids = tuple(assignment.id for assignment in assignments)
            pool, skills = _pool_now(board, service, name, ids)
            kind = STAFF if assignments[0].is_staff else "resource"
            wanted = question.lines[index].staff_id if name == lead else None
            chosen = _still_chosen(assignments, pool, wanted)
            needs.append(Need(key, kind, pool, len(ids), pattern, chosen, skills))
        first, last = _step(line.starts_at) - start, _step(line.ends_at) - start
        key_of_lead = f"{index}.{lead}" if lead is not None else None
        planned.append(PlannedLine(question.lines[index], service, (), first, last, key_of_lead))
    leading = next((n for n, need in enumerate(needs) if need.key == planned[0].lead), None)
    own = [] if question.overlap_allowed else _customers(question, planned)
    needs += own
    return Plan(tuple(planned), tuple(needs), max(line.last for line in planned), leading)


def _still_chosen(assignments: Sequence[pb.Assignment], pool: Sequence[str], wanted: str | None) -> tuple[str, ...]:
    """Whom or what the customer asked for and can still have; `wanted` takes the place of who led before."""
    kept = [assigned.id for assigned in assignments if assigned.chosen and assigned.id in pool]
    if wanted is None:
        return tuple(kept)
    return (wanted, *(each for each in kept if each not in (wanted, assignments[0].id)))


def _pool_now(
    board: Board, service: Offered, name: str, ids: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    for position, role in enumerate(roles_of(service)):
        if role.name == name:
            people = _able(board, service, role, leads=position == 0)
            return tuple(person.id for person in people), _skills(service, role, leads=position == 0)
    for need in service.plan.resources:
        if need.name == name:
            things = board.things.values()
            return tuple(t.id for t in things if t.active and t.type_id == need.resource_type_id), ()
    return ids, ()


def _step(moment: pb.Stretch | object) -> int:
    seconds: int = moment.seconds  # type: ignore[union-attr]
    return seconds // calendar.STEP_SECONDS
