"""What the demo chain shows beyond ordinary visits: rooms and things, rules, stock, and bookings of every kind.

It follows from a day alone. People and customers are named by their place in the lists of `demo_plan`; what a request
needs of ids is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any

from tools import demo_plan as plan

HOME = 0
"""The branch at which most of it is."""
LONDON = 2
RESOURCE_TYPES = (
    {"code": "ROOM", "name": "护理房", "name_en": "Treatment room", "kind": "room"},
    {"code": "STATION", "name": "染发位", "name_en": "Colour station", "kind": "equipment"},
    {"code": "DRESS", "name": "婚纱", "name_en": "Wedding dress", "kind": "lent"},
)
UNITS = {"ROOM": 2, "STATION": 2, "DRESS": 3}
"""How many of each type a branch has."""
STOCK = (
    {"code": "OIL", "name": "按摩精油", "unit": "ml", "quantity": 1200, "low_at": 300},
    {"code": "DYE", "name": "染膏", "unit": "支", "quantity": 4, "low_at": 6},
)
ENOUGH_DYE = 40
"""There is little of it at the first branch only."""
WEEKEND = [{"name": "周末", "weekdays": ["saturday", "sunday"], "percent": 120}]
PRICE_RULES = {
    "CUT": [{"name": "首席发型师", "min_grade": 3, "percent": 130}],
    "MASSAGE": WEEKEND,
    "SPA": WEEKEND,
}
POLICY: dict[str, Any] = {
    "channels": {
        "rules": [{"channel": "dianping", "lead_minutes": 120, "horizon_days": 30, "slot_step_minutes": 30}],
    },
    "change": {
        "cancellation": [{"notice_minutes": 1440}, {"notice_minutes": 240, "fee": {"percent": 30}}],
        "late_fee": {"percent": 50},
        "no_show_fee": {"percent": 100},
        "rescheduling": [{"notice_minutes": 240}],
        "late_rescheduling_fee": {"percent": 10},
        "most_changes": 3,
        "change_notice_minutes": 120,
    },
}
"""Hold, lead and grid are left as they come with the product: what is shown elsewhere relies on them."""
SHIFT_TEMPLATES = (
    {"name": "早班", "start_time": "10:00", "end_time": "18:00", "unpaid_break_minutes": 60},
    {"name": "晚班", "start_time": "13:00", "end_time": "21:00", "unpaid_break_minutes": 60},
)
CONTRACT = {"min_week_minutes": 1680, "max_week_minutes": 2400, "max_week_days": 5}
DEMAND = {
    "rules": [
        {"start_time": "10:00", "end_time": "21:00", "wanted": 1},
        {"weekdays": ["saturday", "sunday"], "start_time": "13:00", "end_time": "18:00", "wanted": 2},
    ]
}
WALK_INS: tuple[dict[str, Any], ...] = ({"name": "赵女士"}, {"customer": 22}, {"name": "Mr Lee"})
BORROWER = 20
AWAY = 1
LESSON_SEATS = 6
WEEKS = 4


@dataclass(slots=True)
class Ids:
    """What the platform called what was made so far."""

    branches: list[str]
    types: Mapping[str, str]
    staff: list[str] = field(default_factory=list)
    services: dict[str, str] = field(default_factory=dict)
    customers: list[str] = field(default_factory=list)
    stock: dict[str, str] = field(default_factory=dict)
    dress: str = ""
    package: str = ""


@dataclass(frozen=True, slots=True)
class Occasion:
    """A booking that is planned by hand: who works, who comes, and when; a series has several starts."""

    staff: tuple[int, ...]
    customers: tuple[int, ...]
    starts: tuple[datetime, ...]
    minutes: int


def first_day(today: date, after_days: int, *staff: int, but: tuple[int, ...] = ()) -> date:
    """The first day at least so many days ahead on which all of them work, and that is no such weekday."""
    away = {weekday for number in staff for weekday in plan.STAFF[number].days_off} | set(but)
    day = today + timedelta(days=after_days)
    while day.weekday() in away:
        day += timedelta(days=1)
    return day


def occasions(today: date) -> dict[str, Occasion]:
    """All of them by name. Times of day are such that no two of them want the same person, whatever the days are."""

    def once(after_days: int, hour: int, minutes: int, staff: tuple[int, ...], *customers: int) -> Occasion:
        branch = plan.STAFF[staff[0]].branch
        at = plan.moment(first_day(today, after_days, *staff), time(hour), branch)
        return Occasion(staff, customers, (at,), minutes)

    # On Sundays and Mondays it would meet the closed day, or the one that makes up for it.
    weekly = first_day(today, 2, 0, but=(0, 6))
    weeks = tuple(plan.moment(weekly + timedelta(weeks=week), time(17), HOME) for week in range(WEEKS))
    return {
        "bridal": once(4, 14, 135, (2, 0), 0),
        "lesson": once(7, 17, 90, (2,), 2, 4, 6),
        "weekly": Occasion((0,), (8,), weeks, 60),
        "package": once(3, 11, 120, (0, 1), 10),
        "spa": once(2, 17, 120, (1,), 12),
        "full": once(5, 15, 70, (1,), 14, 16, 18),
        "pair": once(3, 12, 60, (6, 7), 28),
    }


def reserved(today: date) -> list[plan.Reserved]:
    """What ordinary visits must leave alone."""
    found = [
        plan.Reserved(each.staff, each.customers, starts_at, starts_at + timedelta(minutes=each.minutes))
        for each in occasions(today).values()
        for starts_at in each.starts
    ]
    noon = plan.moment(today, time(12), HOME)
    waiting = tuple(walk_in["customer"] for walk_in in WALK_INS if "customer" in walk_in)
    return [*found, plan.Reserved((), waiting, noon, noon)]


# --- what there is ----------------------------------------------------------------------------------------------------


def units_body(branch: int, code: str, ids: Ids) -> dict[str, Any]:
    """The request that puts all units of a type into a branch."""
    names = {str(kind["code"]): kind["name" if branch != LONDON else "name_en"] for kind in RESOURCE_TYPES}
    place = {"branch_id": ids.branches[branch], "resource_type_id": ids.types[code]}
    return {**place, "name": names[code], "code": code, "count": UNITS[code]}


def stock_body(branch: int, number: int, ids: Ids) -> dict[str, Any]:
    """The request that keeps stock of something at a branch."""
    item = STOCK[number]
    enough = {"quantity": ENOUGH_DYE} if item["code"] == "DYE" and branch != HOME else {}
    return {**item, **enough, "branch_id": ids.branches[branch]}


def service_body(number: int, ids: Ids) -> dict[str, Any]:
    """The request that puts a service into the catalogue, with what it takes and when it costs something else."""
    service = plan.SERVICES[number]
    body = plan.service_body(number)
    if service.code in PRICE_RULES:
        body["price_rules"] = {"rules": PRICE_RULES[service.code]}
    if service.code == "OIL":
        body["add_on"] = {"only_with": True, "service_ids": [ids.services["MASSAGE"], ids.services["SPA"]]}
        body["required_skills"] = []
    takes = _plans(ids).get(service.code)
    return {**body, **({"plan": takes} if takes else {})}


def _plans(ids: Ids) -> dict[str, dict[str, Any]]:
    """Services that take more than one person: rooms and things, two people, processing in which people are free."""
    room = {"name": "room", "resource_type_id": ids.types["ROOM"]}
    station = {"name": "station", "resource_type_id": ids.types["STATION"]}
    oil = [{"stock_item_id": ids.stock["OIL"], "quantity": 20}]
    return {
        "COLOUR": {
            "roles": [{"name": "stylist"}],
            "resources": [station],
            "segments": [
                {"name": "上色", "duration_minutes": 45},
                {"name": "等待显色", "duration_minutes": 40, "uses": ["station"]},
                {"name": "冲洗造型", "duration_minutes": 35},
            ],
            "materials": [{"stock_item_id": ids.stock["DYE"], "quantity": 1}],
        },
        "MASSAGE": {"roles": [{"name": "therapist"}], "resources": [room], "materials": oil},
        "SPA": {
            "roles": [{"name": "therapist", "skills": ["massage"], "min_grade": 2}],
            "resources": [room],
            "segments": [
                {"name": "热石浴", "duration_minutes": 20, "uses": ["room"]},
                {"name": "推拿", "duration_minutes": 50},
                {"name": "静休", "duration_minutes": 20, "uses": ["room"]},
            ],
            "materials": oil,
        },
        "BRIDAL": {
            "roles": [{"name": "artist"}, {"name": "stylist", "skills": ["hair"]}],
            "resources": [
                # A dress that was worn is cleaned: it is back the next day.
                {"name": "dress", "resource_type_id": ids.types["DRESS"], "buffer_after_minutes": 1440},
            ],
            "segments": [
                {"name": "妆发", "duration_minutes": 60, "uses": ["artist", "stylist"]},
                {"name": "试纱", "duration_minutes": 60, "uses": ["artist", "dress"]},
            ],
        },
    }


def package_body(ids: Ids) -> dict[str, Any]:
    """The request that puts the package into the catalogue."""
    product = {"name": "护发精油", "code": "HAIR-OIL", "quantity": 1, "unit_price": plan.money(12800)}
    services = [{"service_id": ids.services[code]} for code in ("CUT", "CARE")]
    named = {"code": "REFRESH", "name": "焕新组合", "name_en": "Refresh"}
    return {**named, "services": services, "products": [product], "price": plan.money(48000)}


# --- what is going on -------------------------------------------------------------------------------------------------


def leave_body(today: date, ids: Ids) -> dict[str, Any]:
    """A request for leave that nobody has decided on."""
    first = first_day(today, 9, AWAY)
    period = {"from_date": first.isoformat(), "until_date": (first + timedelta(days=1)).isoformat()}
    return {"staff_id": ids.staff[AWAY], "kind": "annual", **period, "reason": "回家看望父母"}


def loan_body(today: date, ids: Ids) -> dict[str, Any]:
    """A dress that a customer has for three days."""
    due = plan.moment(today + timedelta(days=3), time(18), HOME)
    return {"resource_id": ids.dress, "customer_id": ids.customers[BORROWER], "ends_at": plan.text_of(due)}


def walk_in_body(number: int, ids: Ids) -> dict[str, Any]:
    """Somebody who came without a booking."""
    who = WALK_INS[number]
    named = {"customer_id": ids.customers[who["customer"]]} if "customer" in who else who
    return {"branch_id": ids.branches[HOME], "lines": [{"service_id": ids.services["CUT"]}], **named}


def lesson_body(today: date, ids: Ids) -> dict[str, Any]:
    """A class next week."""
    lesson = occasions(today)["lesson"]
    return {
        "branch_id": ids.branches[HOME],
        "service_id": ids.services["CLASS"],
        "staff_id": ids.staff[lesson.staff[0]],
        "starts_at": plan.text_of(lesson.starts[0]),
        "seats": LESSON_SEATS,
    }


def series_body(today: date, ids: Ids) -> dict[str, Any]:
    """The same customer with the same person at the same time, every week."""
    rule = {"frequency": "weekly", "count": WEEKS}
    return {**_visit("weekly", today, ids), "service_id": ids.services["CUT"], "rule": rule, "on_conflict": "skip"}


def waiting_bodies(today: date, ids: Ids) -> list[dict[str, Any]]:
    """Two who would like the time that somebody has."""
    full = occasions(today)["full"]
    ends_at = full.starts[0] + timedelta(hours=1)
    window = {"from": plan.text_of(full.starts[0]), "to": plan.text_of(ends_at)}
    asked = {"branch_id": ids.branches[HOME], "lines": [{"service_id": ids.services["MASSAGE"]}], "windows": [window]}
    return [{**asked, "customer_id": ids.customers[number]} for number in full.customers[1:]]


def booking_bodies(today: date, ids: Ids) -> dict[str, dict[str, Any]]:
    """Bookings of every kind: two people and a dress, an add-on, a package, a time that others wait for, a pair."""
    pair = occasions(today)["pair"]
    hair = {"service_id": ids.services["CUT"]}
    lines = [
        {**hair, "staff_id": ids.staff[pair.staff[0]]},
        {**hair, "staff_id": ids.staff[pair.staff[1]], "together": True, "guest_name": "Kate Hughes"},
    ]
    stylist = {"need": "stylist", "id": ids.staff[occasions(today)["bridal"].staff[1]]}
    bodies: dict[str, dict[str, Any]] = {
        "bridal": {"service_id": ids.services["BRIDAL"], "choices": [stylist]},
        "package": {"package_id": ids.package},
        "spa": {"service_id": ids.services["SPA"], "add_on_ids": [ids.services["OIL"]]},
        "full": {"service_id": ids.services["MASSAGE"]},
    }
    found = {name: {**_visit(name, today, ids), **body} for name, body in bodies.items()}
    together = _visit("pair", today, ids)
    del together["staff_id"]
    return {**found, "pair": {**together, "lines": lines}}


def _visit(name: str, today: date, ids: Ids) -> dict[str, Any]:
    """Where, who, with whom and when."""
    occasion = occasions(today)[name]
    return {
        "branch_id": ids.branches[plan.STAFF[occasion.staff[0]].branch],
        "customer_id": ids.customers[occasion.customers[0]],
        "staff_id": ids.staff[occasion.staff[0]],
        "starts_at": plan.text_of(occasion.starts[0]),
        "source": "wechat",
    }
