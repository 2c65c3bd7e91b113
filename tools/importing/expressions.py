"""How a field is made from the cells of a row, and how texts become dates, times and amounts. Values in, values out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo

from tools.importing.reading import Cell, Row

PLACE = re.compile(r"{([^{}]+)}")
NO_MINOR_UNIT = frozenset("BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split())
THREE_DIGITS = frozenset("BHD IQD JOD KWD LYD OMR TND".split())
ROUNDINGS = {"half_up": ROUND_HALF_UP, "half_even": ROUND_HALF_EVEN}
LONGEST_NUMBER = 30
TIME_FORMATS = ("%H:%M:%S", "%H:%M")
DATE_FORMATS = ("%Y-%m-%d",)


class ValueProblem(Exception):
    """A row's value cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A column, or a text with {Column} in it; `values` translates what comes out, `otherwise` stands for nothing."""

    column: str | None = None
    text: str | None = None
    values: Mapping[str, str] | None = None
    otherwise: str | None = None

    @property
    def columns(self) -> list[str]:
        """Columns the row must have."""
        own = [self.column] if self.column is not None else PLACE.findall(self.text or "")
        return own + PLACE.findall(self.otherwise or "")

    def cell(self, row: Row) -> Cell:
        """What it makes of a row; an empty text when there is nothing."""
        found = row.cells[self.column] if self.column is not None else _fill(self.text or "", row)
        if self.values is not None and isinstance(found, str):
            found = self.values.get(found, found)
        return _fill(self.otherwise, row) if found == "" and self.otherwise is not None else found

    def read(self, row: Row) -> str:
        """The same as text."""
        return as_text(self.cell(row))


def _fill(text: str, row: Row) -> str:
    """The text with the row's cells in its places."""
    return PLACE.sub(lambda place: as_text(row.cells[place[1]]), text).strip()


def as_text(cell: Cell) -> str:
    """A cell as text: dates and times as ISO 8601 writes them."""
    return cell if isinstance(cell, str) else cell.isoformat()


@dataclass(frozen=True, slots=True)
class Formats:
    """How an export writes dates, times and numbers, and where its clock stands."""

    time_zone: ZoneInfo
    currency: str
    dates: Sequence[str] = DATE_FORMATS
    times: Sequence[str] = TIME_FORMATS
    decimal_point: str = "."
    thousands: str = ","

    def day(self, cell: Cell, what: str) -> date:
        """The day a cell names. Raises ValueProblem."""
        if isinstance(cell, datetime):
            return cell.date()
        if isinstance(cell, date):
            return cell
        text = as_text(cell)
        for pattern in self.dates:
            try:
                return datetime.strptime(text, pattern).date()  # noqa: DTZ007 - a day has no zone
            except ValueError:
                continue
        raise ValueProblem(f"{what}: {text!r} is not a date as {' or '.join(self.dates)}")

    def clock(self, cell: Cell, what: str) -> time:
        """The time of day a cell names. Raises ValueProblem."""
        if isinstance(cell, datetime):
            return cell.time()
        if isinstance(cell, time):
            return cell
        text = as_text(cell)
        for pattern in (*self.times, *TIME_FORMATS):
            try:
                return datetime.strptime(text, pattern).time()  # noqa: DTZ007 - a time of day has no zone
            except ValueError:
                continue
        raise ValueProblem(f"{what}: {text!r} is not a time as {' or '.join(self.times)}")

    def moment(self, day: date, at: time, what: str) -> datetime:
        """A local day and time as a moment, the earlier one where clocks go back. Raises ValueProblem for a gap."""
        local = datetime.combine(day, at, self.time_zone)
        moment = local.astimezone(UTC)
        if moment.astimezone(self.time_zone).replace(tzinfo=None) != local.replace(tzinfo=None):
            raise ValueProblem(f"{what}: clocks went forward, there was no {at:%H:%M} on {day}")
        return moment

    def decimal(self, cell: Cell, what: str) -> Decimal:
        """The number a cell holds, exactly. Brackets or a minus mean less than 0. Raises ValueProblem."""
        text = as_text(cell)
        kept = "".join(character for character in text if unicodedata.category(character) not in ("Sc", "Zs"))
        if kept.startswith("(") and kept.endswith(")"):
            kept = "-" + kept[1:-1]
        found = re.fullmatch(self._number, kept)
        if found is None or len(kept) > LONGEST_NUMBER:
            raise ValueProblem(f"{what}: {text!r} is not a number")
        whole = found[1].replace(self.thousands, "") if self.thousands else found[1]
        return Decimal(whole + (f".{found[2]}" if found[2] else ""))

    @property
    def _number(self) -> str:
        """Pattern of a number: thousands are taken for such only in front of three digits each."""
        thousands = f"|[0-9]{{1,3}}(?:{re.escape(self.thousands)}[0-9]{{3}})+" if self.thousands else ""
        return rf"([+-]?(?:[0-9]+{thousands}))(?:{re.escape(self.decimal_point)}([0-9]+))?"

    @property
    def zero(self) -> Decimal:
        """Nothing."""
        return Decimal(0)

    def has_more_digits(self, amount: Decimal) -> bool:
        """Whether an amount has digits beyond the currency's minor unit."""
        scaled = amount.scaleb(minor_digits(self.currency))
        return scaled != scaled.to_integral_value()

    def minor_units(self, amount: Decimal, what: str, rounding: str | None = None) -> int:
        """An amount in minor units. Raises ValueProblem when it has more digits than those and must not be rounded."""
        scaled = amount.scaleb(minor_digits(self.currency))
        whole = scaled.quantize(Decimal(1), ROUNDINGS[rounding] if rounding else ROUND_HALF_EVEN)
        if whole != scaled and rounding is None:
            raise ValueProblem(f"{what}: {amount} has more digits than {self.currency} has")
        return int(whole)


def minor_digits(currency: str) -> int:
    """Digits after the point that a currency has (ISO 4217)."""
    if currency in NO_MINOR_UNIT:
        return 0
    return 3 if currency in THREE_DIGITS else 2


def rfc3339(moment: datetime) -> str:
    """A moment as the API writes it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def same_name(text: str) -> str:
    """What two spellings of a name have in common: neither case nor the number of blanks counts."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
