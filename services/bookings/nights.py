"""The day a branch is in: where it is open past midnight, the night belongs to the day it begins."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from services.bookings import calendar
from services.bookings.board import Board

A_DAY = timedelta(days=1)


def today(board: Board, moment: datetime) -> date:
    """The day a branch is in at a moment: yesterday's while it has been open since then."""
    day = calendar.local_today(moment, board.time_zone)
    return day - A_DAY if calendar.last_step(moment) < _end(board, day - A_DAY) else day


def span(board: Board, day: date) -> tuple[int, int]:
    """First step, and the step after the last (since 1970), of a day at a branch with its night."""
    return _end(board, day - A_DAY), _end(board, day)


def _end(board: Board, day: date) -> int:
    """The local midnight after a day, or the end of what is open over it."""
    number = (day - calendar.EPOCH).days
    ((_, _, midnight),) = calendar.local_days(board.time_zone, day, day)
    if board.opening_hours is None or day.isoformat() in board.holidays.split(","):
        return midnight
    weekday = dict(board.swapped).get(number, day.isoweekday())
    nights = [
        last
        for first, last in calendar.intervals_of_day(board.opening_hours, board.time_zone, number, weekday)
        if first < midnight
    ]
    return max([midnight, *nights])
