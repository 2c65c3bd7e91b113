"""What customers are told about, by which words, and when it is tried again. Values in, values out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from foyer.bookings.v1 import assignments_pb2, bookings_pb2, people_pb2, waiting_list_pb2
from foyer.wallet.v1 import wallet_pb2
from google.protobuf.message import Message

HISTORY = timedelta(hours=24)
"""What happened longer ago than this when it was written is a record from before: nobody is told of it now."""

LANGUAGES = ("zh", "en")
DEFAULT_LANGUAGE = "zh"
LONGEST_VALUE = 500
"""Characters of one variable; the rest is cut off."""

RETRY_AFTER = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
)
"""How long to wait after the first, second, ... attempt that failed."""

MOST_ATTEMPTS = len(RETRY_AFTER) + 1


def is_history(written_at: datetime, occurred_at: datetime) -> bool:
    """Whether an event tells of something from before, as an import does."""
    return written_at - occurred_at > HISTORY


def retry_at(attempts: int, now: datetime) -> datetime | None:
    """When a message is tried again after `attempts` that failed; None: it is given up."""
    return None if attempts >= MOST_ATTEMPTS else now + RETRY_AFTER[max(attempts, 1) - 1]


# --- events → what is told ---


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a customer is told: to whom, where it happened, with whom, and its facts as JSON values."""

    customer_id: str
    branch_id: str | None
    staff_id: str | None
    facts: dict[str, Any]


def _time(moment: Any) -> str:
    text: str = moment.ToDatetime(UTC).isoformat()
    return text


def _money(value: Any) -> dict[str, Any]:
    return {"amount": value.amount, "currency": value.currency}


def _booking(event: Any) -> Notice:
    booking = event.booking
    facts = {
        "id": booking.id,
        "version": booking.version,
        "services": " + ".join(line.service_name for line in booking.lines) or booking.service_name,
        "service_name": booking.service_name,
        "starts_at": _time(booking.starts_at),
        "ends_at": _time(booking.ends_at),
        "time_zone": booking.time_zone,
        "price": _money(booking.price),
    }
    return Notice(booking.customer_id, booking.branch_id or None, booking.staff_id or None, {"booking": facts})


def _booking_rescheduled(event: bookings_pb2.BookingRescheduled) -> Notice | None:
    """A held time that moved was never promised: nobody is told."""
    if event.booking.status == bookings_pb2.BOOKING_STATUS_HELD:
        return None
    notice = _booking(event)
    notice.facts["booking"]["previous_starts_at"] = _time(event.previous_starts_at)
    return notice


def _booking_reassigned(event: people_pb2.BookingReassigned) -> Notice | None:
    """Of somebody who only helps nobody is told, nor of a time that was never promised."""
    is_held = event.booking.status == bookings_pb2.BOOKING_STATUS_HELD
    return None if is_held or event.staff_id != event.booking.staff_id else _booking(event)


def _waiting_list_offered(event: waiting_list_pb2.WaitingListOffered) -> Notice:
    notice = _booking(event)
    notice.facts["booking"]["offer_ends_at"] = _time(event.expires_at)
    return notice


def _booking_cancelled(event: bookings_pb2.BookingCancelled) -> Notice | None:
    """A hold that was let go was never promised: nobody is told."""
    if event.was_held:
        return None
    notice = _booking(event)
    notice.facts["booking"]["cancel_reason"] = event.booking.cancel_reason
    return notice


def _wallet(event: Any, facts: dict[str, Any]) -> Notice:
    facts["wallet"] = {"available": _money(event.available)}
    return Notice(event.customer_id, event.branch_id or None, None, facts)


def _top_up_credited(event: wallet_pb2.TopUpCredited) -> Notice:
    return _wallet(event, {"top_up": {"amount": _money(event.amount), "gift": _money(event.gift)}})


def _wallet_charged(event: wallet_pb2.WalletCharged) -> Notice:
    return _wallet(event, {"charge": {"amount": _money(event.amount), "reason": event.reason}})


def _charge_refunded(event: wallet_pb2.ChargeRefunded) -> Notice:
    return _wallet(event, {"refund": {"amount": _money(event.amount)}})


NOTICES: Mapping[type[Message], Callable[[Any], Notice | None]] = {
    bookings_pb2.BookingConfirmed: _booking,
    bookings_pb2.BookingRescheduled: _booking_rescheduled,
    people_pb2.BookingReassigned: _booking_reassigned,
    bookings_pb2.BookingCancelled: _booking_cancelled,
    assignments_pb2.BookingExtended: _booking,
    waiting_list_pb2.WaitingListOffered: _waiting_list_offered,
    bookings_pb2.BookingMissed: _booking,
    bookings_pb2.BookingCompleted: _booking,
    wallet_pb2.TopUpCredited: _top_up_credited,
    wallet_pb2.WalletCharged: _wallet_charged,
    wallet_pb2.ChargeRefunded: _charge_refunded,
}


def notice_of(event: Message) -> Notice | None:
    """What a customer is told of an event; None: nothing."""
    return NOTICES[type(event)](event)


def addresses_of(email: str | None) -> dict[str, str | None]:
    """The channels a customer is reached by, each with the address there (None where it needs none)."""
    in_app: dict[str, str | None] = {"in_app": None}
    return {"email": email, **in_app} if email else in_app


# --- variables ---

_EVERYWHERE = ("customer.name", "chain.name", "branch.name", "branch.address", "branch.phone")
_BOOKING = (
    *_EVERYWHERE,
    "staff.name",
    "booking.service_name",
    "booking.date",
    "booking.time",
    "booking.end_time",
    "booking.price",
)

VARIABLES: Mapping[str, tuple[str, ...]] = {
    "booking.confirmed": _BOOKING,
    "booking.rescheduled": (*_BOOKING, "booking.previous_date", "booking.previous_time"),
    "booking.reassigned": _BOOKING,
    "booking.cancelled": (*_BOOKING, "booking.cancel_reason"),
    "booking.extended": _BOOKING,
    "waiting_list.offered": (*_BOOKING, "booking.offer_date", "booking.offer_time"),
    "booking.missed": _BOOKING,
    "booking.completed": _BOOKING,
    "top_up.credited": (*_EVERYWHERE, "top_up.amount", "top_up.gift", "wallet.available"),
    "wallet.charged": (*_EVERYWHERE, "charge.amount", "charge.reason", "wallet.available"),
    "charge.refunded": (*_EVERYWHERE, "refund.amount", "wallet.available"),
}
"""Event → the variables its templates may use. Nothing else of an event can reach a text."""


def variables_of(event_type: str, facts: Mapping[str, Any], language: str) -> dict[str, dict[str, str]]:
    """The variables of an event as texts in a language: {"booking": {"date": ...}}. What the facts lack is empty."""
    values: dict[str, dict[str, str]] = {}
    for path in VARIABLES[event_type]:
        noun, _, name = path.partition(".")
        values.setdefault(noun, {})[name] = _text(facts.get(noun, {}), name, language)[:LONGEST_VALUE]
    return values


_MOMENTS = {"date": "starts_at", "time": "starts_at", "end_time": "ends_at"} | {
    "previous_date": "previous_starts_at",
    "previous_time": "previous_starts_at",
    "offer_date": "offer_ends_at",
    "offer_time": "offer_ends_at",
}


def _text(facts: Mapping[str, Any], name: str, language: str) -> str:
    source = facts.get(_MOMENTS.get(name, name))
    if source in (None, ""):
        return ""
    if isinstance(source, dict):
        # No gift is nothing to tell; a wallet that is empty is.
        return (
            ""
            if name == "gift" and not source["amount"]
            else money_text(source["amount"], source["currency"], language)
        )
    if name in _MOMENTS:
        moment = datetime.fromisoformat(source).astimezone(ZoneInfo(facts.get("time_zone") or "UTC"))
        return date_text(moment, language) if name.endswith("date") else f"{moment:%H:%M}"
    return _one_line(str(source))


def _one_line(text: str) -> str:
    """Text without line breaks and control characters: what somebody typed must not look like our own lines."""
    return re.sub(r"[\s\x00-\x1f\x7f\u2028\u2029]+", " ", text).strip()


_WEEKDAYS_ZH = "一二三四五六日"
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def date_text(moment: datetime, language: str) -> str:
    """A day as people write it: 2025年3月1日（周六）, Saturday, 1 March 2025."""
    if language == "zh":
        return f"{moment.year}年{moment.month}月{moment.day}日（周{_WEEKDAYS_ZH[moment.weekday()]}）"
    return f"{_WEEKDAYS[moment.weekday()]}, {moment.day} {_MONTHS[moment.month - 1]} {moment.year}"


_DIGITS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF"), 0),
    **dict.fromkeys(("UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
}
"""Decimal digits of the currencies that do not have two (ISO 4217)."""


def money_text(amount: int, currency: str, language: str) -> str:
    """Minor units as people write them: ¥1,230.00, CAD 12.50."""
    digits = _DIGITS.get(currency, 2)
    whole, rest = divmod(abs(amount), 10**digits)
    number = f"{whole:,}" + (f".{rest:0{digits}}" if digits else "")
    symbol = "¥" if currency == "CNY" and language == "zh" else f"{currency} "
    return f"{'-' if amount < 0 else ''}{symbol}{number}"


def sample_facts(event_type: str, language: str) -> dict[str, Any]:
    """Made-up facts of an event, to show a template without real data."""
    zh = language == "zh"
    currency = "CNY" if zh else "CAD"
    starts_at = datetime(2025, 3, 1, 14, 30, tzinfo=UTC)
    facts: dict[str, Any] = {
        "customer": {"name": "李雷" if zh else "Alex Lee"},
        "chain": {"name": "晨曦美学" if zh else "Dawn Studio"},
        "branch": {
            "name": "静安店" if zh else "Downtown",
            "address": "南京西路 1 号" if zh else "1 Main Street",
            "phone": "021-5550-0100" if zh else "+1 555 0100",
        },
        "staff": {"name": "王芳" if zh else "Robin"},
        "booking": {
            "service_name": "剪发" if zh else "Haircut",
            "starts_at": starts_at.isoformat(),
            "ends_at": (starts_at + timedelta(minutes=45)).isoformat(),
            "previous_starts_at": (starts_at - timedelta(days=1)).isoformat(),
            "offer_ends_at": (starts_at - timedelta(hours=20)).isoformat(),
            "time_zone": "UTC",
            "price": {"amount": 12800, "currency": currency},
            "cancel_reason": "临时有事" if zh else "something came up",
        },
        "top_up": {"amount": {"amount": 100000, "currency": currency}, "gift": {"amount": 10000, "currency": currency}},
        "charge": {"amount": {"amount": 12800, "currency": currency}, "reason": "剪发" if zh else "Haircut"},
        "refund": {"amount": {"amount": 12800, "currency": currency}},
        "wallet": {"available": {"amount": 97200, "currency": currency}},
    }
    nouns = {path.partition(".")[0] for path in VARIABLES[event_type]}
    return {noun: facts[noun] for noun in sorted(nouns)}


# --- what is not for everybody ---

_ADDRESS = re.compile(r"[^\s<>@,;:\"()\[\]]+@[^\s<>@,;:\"()\[\]]+")


def mask_address(address: str) -> str:
    """An e-mail address with its local part hidden: a***@example.com."""
    local, at, domain = address.rpartition("@")
    return f"{local[:1]}***{at}{domain}" if at else "***"


def mask_addresses(text: str) -> str:
    """A text with every e-mail address in it masked: mail servers repeat them in what they answer."""
    return _ADDRESS.sub(lambda found: mask_address(found[0]), text)
