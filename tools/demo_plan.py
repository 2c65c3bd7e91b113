"""What the demo chain consists of, worked out from a day and a seed alone: the same today as on a second run.

Ids are not known here: branches, staff, services and customers are named by their place in the lists.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

CURRENCY = "CNY"
PAST_DAYS = 24
FUTURE_DAYS = 16
WEEK = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
OPENS, CLOSES = "10:00", "21:00"

CHAIN = {"name": "Foyer Demo 芳庭造型", "time_zone": "Asia/Shanghai", "currency": CURRENCY, "language": "zh"}
OTHER_CHAIN = {"name": "Other 邻家工作室", "time_zone": "Asia/Shanghai", "currency": CURRENCY, "language": "zh"}


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who works: branch by number, first and second day off (0 is Monday), first and last hour."""

    name: str
    title: str
    branch: int
    skills: tuple[str, ...]
    days_off: tuple[int, int]
    hours: tuple[int, int]
    grade: int = 1
    skill_grades: tuple[tuple[str, int], ...] = ()
    expiring_skill: str = ""


@dataclass(frozen=True, slots=True)
class Treatment:
    """A service of the catalogue; the price is in minor units.

    `people` is how many do it, and 0 for what is not booked by itself: an add-on, or a class.
    """

    code: str
    name: str
    name_en: str
    category: str
    duration_minutes: int
    price_amount: int
    skill: str
    buffer_after_minutes: int = 0
    people: int = 1


@dataclass(frozen=True, slots=True)
class Visit:
    """A booking: who comes when, for what, with whom, and for a past one how it ended."""

    number: int
    staff: int
    service: int
    customer: int
    starts_at: datetime
    source: str
    status: str = ""
    booked_at: datetime | None = None
    cancelled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Reserved:
    """Time of people that is planned elsewhere: no visit is planned into it, for them or for these customers."""

    staff: tuple[int, ...]
    customers: tuple[int, ...]
    starts_at: datetime
    ends_at: datetime


BRANCHES: tuple[dict[str, Any], ...] = (
    {
        "name": "上海静安店",
        "address": "上海市静安区南京西路 1266 号",
        "phone": "021-62880001",
        "time_zone": "Asia/Shanghai",
    },
    {
        "name": "杭州西湖店",
        "address": "杭州市西湖区龙井路 18 号",
        "phone": "0571-87960002",
        "time_zone": "Asia/Shanghai",
    },
    {
        "name": "London Marylebone",
        "address": "24 Marylebone High Street, London W1U",
        "phone": "+44 20 7946 0003",
        "time_zone": "Europe/London",
    },
)

STAFF = (
    Person("林晓", "首席发型师", 0, ("hair", "colour"), (0, 1), (10, 19), 3, (("colour", 3),)),
    Person("周敏", "养护师", 0, ("hair", "care", "massage"), (1, 2), (11, 20), 2, (("massage", 3),)),
    Person("陈浩", "化妆师", 0, ("makeup", "nails", "hair"), (2, 3), (12, 21), 1, (("makeup", 2),), "makeup"),
    Person("沈悦", "发型总监", 1, ("hair", "colour"), (1, 2), (10, 19), 3, (("colour", 3),)),
    Person("陆一鸣", "理疗师", 1, ("care", "massage", "hair"), (3, 4), (11, 20), 2, (("massage", 2),)),
    Person("顾佳", "美甲师", 1, ("makeup", "nails", "hair"), (0, 3), (12, 21)),
    Person("Emma Clarke", "Senior stylist", 2, ("hair", "colour"), (0, 6), (10, 18), 2, (("colour", 2),)),
    Person("Oliver Wright", "Therapist", 2, ("care", "massage", "hair"), (1, 6), (10, 19), 2, (("massage", 2),)),
    Person("Aisha Khan", "Make-up artist", 2, ("makeup", "nails", "hair"), (2, 6), (11, 20)),
)

SERVICES = (
    Treatment("CUT", "精致剪发", "Haircut", "美发", 60, 16800, "hair"),
    Treatment("WASH", "洗吹造型", "Wash and blow-dry", "美发", 30, 6800, "hair"),
    Treatment("COLOUR", "染发", "Colour", "染烫", 120, 58000, "colour", 10),
    Treatment("CARE", "头皮养护", "Scalp care", "养护", 60, 29800, "care"),
    Treatment("MASSAGE", "肩颈按摩", "Neck and shoulder massage", "养护", 60, 26800, "massage", 10),
    Treatment("MAKEUP", "日常彩妆", "Day make-up", "化妆", 45, 28800, "makeup"),
    Treatment("BRIDAL", "新娘造型", "Bridal styling", "化妆", 120, 98000, "makeup", 15, people=2),
    Treatment("NAILS", "美甲", "Manicure", "美甲", 45, 15800, "nails"),
    Treatment("SPA", "热石水疗", "Hot stone spa", "养护", 90, 49800, "massage", 15),
    Treatment("OIL", "精油升级", "Aroma oil", "养护", 15, 6800, "massage", people=0),
    Treatment("CLASS", "彩妆小课", "Make-up class", "课程", 90, 19800, "makeup", people=0),
)

CHINESE = (
    "王小明 李思琪 张伟 刘洋 陈静怡 杨帆 赵敏 黄子轩 周杰 吴欣 徐丽娜 孙浩然 胡可 朱琳 高翔 林志玲 何雨桐 郭涛"
    " 马跃 罗佳 梁宇 宋雨欣 郑凯 谢婷 韩梅梅 唐诗雅 冯程 董洁"
).split()
ENGLISH = (
    "Charlotte Hughes,George Palmer,Amelia Scott,Harry Bennett,Sophia Turner,James O'Neill,Isla Campbell,Jack Murphy,"
    "Grace Williams,Daniel Cohen,Priya Patel,Lucas Martin"
).split(",")
SOURCES = ("wechat", "walk_in", "referral", "dianping", "website")
LEVELS = ("", "", "", "silver", "gold")


def moment(day: date, at: time, branch: int) -> datetime:
    """A branch's local time as a moment."""
    zone = ZoneInfo(BRANCHES[branch]["time_zone"])
    return datetime.combine(day, at, zone).astimezone(UTC)


def text_of(at: datetime) -> str:
    """A moment as the API takes it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def closed_day(today: date) -> date:
    """A Monday after all ordinary visits on which the branches in China stay closed: everything is counted."""
    first = today + timedelta(days=FUTURE_DAYS + 1)
    return first + timedelta(days=-first.weekday() % 7)


def branch_body(number: int, today: date) -> dict[str, Any]:
    """The request that opens a branch. The Sunday after the closed Monday is worked as a Monday (调休)."""
    hours = [{"weekday": day, "start_time": OPENS, "end_time": CLOSES} for day in WEEK]
    body = {**BRANCHES[number], "opening_hours": hours}
    if BRANCHES[number]["time_zone"] == "Asia/Shanghai":
        closed = closed_day(today)
        body["holidays"] = [closed.isoformat()]
        body["swapped_days"] = [{"day": (closed + timedelta(days=6)).isoformat(), "follows": WEEK[0]}]
    return body


def staff_body(number: int, branch_id: str, today: date) -> dict[str, Any]:
    """The request that takes up a staff member, with what they can do and until when."""
    person = STAFF[number]
    qualifications: list[dict[str, Any]] = [{"skill": skill, "grade": grade} for skill, grade in person.skill_grades]
    for qualification in qualifications:
        if qualification["skill"] == person.expiring_skill:
            qualification["expires_on"] = (today + timedelta(days=FUTURE_DAYS + 9)).isoformat()
    return {
        "grade": person.grade,
        "qualifications": qualifications,
        "name": person.name,
        "code": f"S{number + 1:02d}",
        "title": person.title,
        "branch_ids": [branch_id],
        "skills": list(person.skills),
    }


def shifts_body(number: int, branch_id: str, today: date) -> dict[str, Any]:
    """The request that sets somebody's weekly shifts, from before the first booking on."""
    person = STAFF[number]
    start, end = (f"{hour:02d}:00" for hour in person.hours)
    intervals = [
        {"weekday": day, "start_time": start, "end_time": end}
        for index, day in enumerate(WEEK)
        if index not in person.days_off
    ]
    first_day = today - timedelta(days=PAST_DAYS + 7)
    return {"branch_id": branch_id, "from_date": first_day.isoformat(), "intervals": intervals}


def service_body(number: int) -> dict[str, Any]:
    """The request that puts a service into the catalogue."""
    service = SERVICES[number]
    return {
        "code": service.code,
        "name": service.name,
        "name_en": service.name_en,
        "category": service.category,
        "duration_minutes": service.duration_minutes,
        "buffer_after_minutes": service.buffer_after_minutes,
        "price": money(service.price_amount),
        "required_skills": [service.skill],
    }


def money(amount: int) -> dict[str, Any]:
    """An amount of the demo chain's money."""
    return {"amount": amount, "currency": CURRENCY}


def customers() -> list[str]:
    """Names of the customers, the Chinese ones first."""
    return [*CHINESE, *ENGLISH]


def home_of(customer: int) -> int:
    """Branch that a customer belongs to."""
    return 2 if customer >= len(CHINESE) else customer % 2


def customer_body(number: int, branch_ids: Sequence[str], staff_ids: Sequence[str], today: date) -> dict[str, Any]:
    """The request that takes up a customer."""
    rng = random.Random(f"customer {number}")  # noqa: S311 - a plan, not a secret
    name, home = customers()[number], home_of(number)
    english = number >= len(CHINESE)
    phone = f"+44 20 7946 {rng.randrange(100, 999):04d}" if english else f"13{rng.randrange(10**9):09d}"
    since = moment(today - timedelta(days=rng.randrange(PAST_DAYS + 11, 400)), time(rng.randrange(10, 20)), home)
    body: dict[str, Any] = {
        "name": name,
        "phone": phone,
        "source": rng.choice(SOURCES),
        "home_branch_id": branch_ids[home],
        "owner_staff_id": staff_ids[home * 3 + number % 3],
        "language": "en" if english else "zh",
        "customer_since": text_of(since),
        "external_id": f"demo-{number + 1:03d}",
    }
    if english:
        body["email"] = name.lower().replace(" ", ".").replace("'", "") + "@example.com"
    elif number % 2:
        body["email"] = f"guest{number + 1:02d}@example.com"
        body["identities"] = [{"kind": "wechat", "value": f"wx_demo_{number + 1:02d}"}]
    if level := rng.choice(LEVELS):
        body["level"] = level
    return body


def visits(today: date, reserved: Sequence[Reserved] = ()) -> list[Visit]:
    """All bookings, past and future: nobody is in two places at once, and everybody can do what they are booked for.

    What was planned before, `reserved`, is left alone. Of today's visits only those still to come can be booked.
    """
    rng = random.Random("visits")  # noqa: S311 - a plan, not a secret
    found: list[Visit] = []
    busy = {(customer, each.starts_at.date()) for each in reserved for customer in each.customers}
    for offset in range(-PAST_DAYS, FUTURE_DAYS + 1):
        day = today + timedelta(days=offset)
        for staff, person in enumerate(STAFF):
            if day.weekday() in person.days_off:
                continue
            hour, last = person.hours
            # Two and a half hours hold the longest service with what is kept free after it.
            starts = [time(hour), time(hour + 3), time(hour + 6)]
            for at in rng.sample(starts, rng.choice((1, 2, 2, 3)) if offset < 0 else rng.choice((0, 1, 1, 2))):
                customer = _free_customer(rng, person.branch, day, busy)
                starts_at = moment(day, at, person.branch)
                if at.hour + 3 > last or customer is None or _is_reserved(reserved, staff, starts_at):
                    continue
                services = _services_of(person, in_past=offset < 0)
                ended = _ending(rng, starts_at) if offset < 0 else {}
                found.append(
                    Visit(len(found), staff, rng.choice(services), customer, starts_at, rng.choice(SOURCES), **ended)
                )
    return found


def _is_reserved(reserved: Sequence[Reserved], staff: int, starts_at: datetime) -> bool:
    """Whether the longest visit from then on would meet what was planned before."""
    ends_at = starts_at + timedelta(hours=3)
    return any(staff in each.staff and each.starts_at < ends_at and starts_at < each.ends_at for each in reserved)


def _services_of(person: Person, *, in_past: bool) -> list[int]:
    """What somebody can be booked for. What is to come is for one person: it takes nobody else's time."""
    kinds = (1, 2) if in_past else (1,)
    return [
        number for number, service in enumerate(SERVICES) if service.skill in person.skills and service.people in kinds
    ]


def _free_customer(rng: random.Random, branch: int, day: date, busy: set[tuple[int, date]]) -> int | None:
    """Somebody of the branch who does not come that day yet."""
    free = [number for number in range(len(customers())) if home_of(number) == branch and (number, day) not in busy]
    if not free:
        return None
    customer = rng.choice(free)
    busy.add((customer, day))
    return customer


def _ending(rng: random.Random, starts_at: datetime) -> dict[str, Any]:
    """How a past visit ended: mostly well."""
    booked_at = starts_at - timedelta(hours=rng.randrange(80, 240))
    chance = rng.random()
    if chance < 0.8:
        return {"status": "completed", "booked_at": booked_at}
    if chance < 0.88:
        return {"status": "no_show", "booked_at": booked_at}
    notice = timedelta(hours=rng.randrange(2, 72))
    return {"status": "cancelled", "booked_at": booked_at, "cancelled_at": starts_at - notice}


def visit_body(
    visit: Visit,
    branch_ids: Sequence[str],
    staff_ids: Sequence[str],
    service_ids: Sequence[str],
    customer_ids: Sequence[str],
) -> dict[str, Any]:
    """The request that makes a booking, or records a past one."""
    body = {
        "branch_id": branch_ids[STAFF[visit.staff].branch],
        "service_id": service_ids[visit.service],
        "customer_id": customer_ids[visit.customer],
        "staff_id": staff_ids[visit.staff],
        "starts_at": text_of(visit.starts_at),
        "source": visit.source,
    }
    if visit.status:
        body |= {"status": visit.status, "external_id": f"demo-{visit.number:04d}"}
        for name, at in (("booked_at", visit.booked_at), ("cancelled_at", visit.cancelled_at)):
            if at is not None:
                body[name] = text_of(at)
    return body
