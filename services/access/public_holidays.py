"""Public holidays as they were published: days off, and the working days that make up for them (调休).

China's are decided anew each year. Those of 2026: General Office of the State Council, 国务院办公厅关于2026年部分节假日
安排的通知 (notice on the arrangement of some holidays in 2026), 4 November 2025. The notice says which days are worked,
not which weekday's plan holds on them: that is for a chain to decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from foyer.access.v1 import access_pb2 as pb

from chassis.errors import FieldError, Refusal


class Holiday(NamedTuple):
    """A holiday; days as YYYY-MM-DD."""

    name: str
    name_en: str
    from_date: str
    until_date: str
    worked_days: tuple[str, ...] = ()


class Published(NamedTuple):
    """The holidays of a country in a year, and who published them."""

    source: str
    holidays: Sequence[Holiday]


PUBLISHED: Mapping[tuple[str, int], Published] = {
    ("CN", 2026): Published(
        "国务院办公厅关于2026年部分节假日安排的通知, 2025-11-04",
        (
            Holiday("元旦", "New Year's Day", "2026-01-01", "2026-01-03", ("2026-01-04",)),
            Holiday("春节", "Spring Festival", "2026-02-15", "2026-02-23", ("2026-02-14", "2026-02-28")),
            Holiday("清明节", "Qingming Festival", "2026-04-04", "2026-04-06"),
            Holiday("劳动节", "Labour Day", "2026-05-01", "2026-05-05", ("2026-05-09",)),
            Holiday("端午节", "Dragon Boat Festival", "2026-06-19", "2026-06-21"),
            Holiday("中秋节", "Mid-Autumn Festival", "2026-09-25", "2026-09-27"),
            Holiday("国庆节", "National Day", "2026-10-01", "2026-10-07", ("2026-09-20", "2026-10-10")),
        ),
    ),
}


def of(country: str, year: int) -> pb.PublicHolidays:
    """The public holidays of a country in a year. Raises Refusal NOT_FOUND where they are not known (yet)."""
    published = PUBLISHED.get((country, year))
    if published is None:
        field = "year" if any(known == country for known, _ in PUBLISHED) else "country"
        error = FieldError(field, "not_found", "these public holidays are not known", "暂无该国家或年份的节假日安排")
        raise Refusal("NOT_FOUND", errors=[error], kind="public holidays")
    return pb.PublicHolidays(
        country=country,
        year=year,
        source=published.source,
        holidays=[pb.PublicHoliday(**holiday._asdict()) for holiday in published.holidays],
    )
