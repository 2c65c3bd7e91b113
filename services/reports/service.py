"""The reports service: one method per RPC, in the order of the contract."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import asyncpg
from foyer.reports.v1 import reports_pb2 as pb

from chassis.app import Context, Job, Service
from chassis.db import Prepared
from chassis.errors import FieldError, Refusal, invalid
from chassis.money import money
from chassis.unit import Absent, Unit
from services.reports import statements
from services.reports.domain import MONEY_MEASURES, NONE, Period, buckets, read_period
from services.reports.events import fetch_branch, on
from services.reports.models import BUILDING, SERVING
from services.reports.rebuild import rebuild_reports, sweep_reports

PERMISSION = "reports.read"
MOST_POINTS = 10_000
DEFAULT_ROWS = 50
REBUILD = "rebuild-reports"

NAME_KINDS = {pb.DIMENSION_BRANCH: "branch", pb.DIMENSION_SERVICE: "service", pb.DIMENSION_STAFF: "staff"}


@dataclass(frozen=True, slots=True)
class Scope:
    """What a report is read from: days, branches (None: all) and the numbers that serve (None: there are none yet)."""

    period: Period
    branch_ids: list[str] | None
    generation: int | None
    measure: int

    async def rows(self, unit: Unit, statement: Prepared, period: Period, most: int = 1) -> list[asyncpg.Record]:
        """Run a statement over the scope, for a period."""
        if self.generation is None:
            return []
        return await unit.all(
            statement,
            generation=self.generation,
            measure=self.measure,
            first=period.first,
            end=period.end,
            branch_ids=self.branch_ids,
            most=most,
        )

    async def total(self, unit: Unit, period: Period) -> int:
        """Sum over a period."""
        rows = await self.rows(unit, statements.total(self.branch_ids is not None), period)
        return rows[0][0] if rows else 0


class Reports:
    """Series and rankings of measures."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def get_series(self, request: pb.GetSeriesRequest, unit: Unit) -> pb.Series:
        """A measure over time."""
        scope = await _scope(request, unit)
        statement = statements.points(request.interval, request.by, scope.branch_ids is not None)
        rows = await scope.rows(unit, statement, scope.period, MOST_POINTS + 1)
        if len(rows) > MOST_POINTS:
            text = f"would give more than {MOST_POINTS} points: take a longer interval or fewer days"
            zh = f"结果超过 {MOST_POINTS} 个点，请选择更长的间隔或更短的时间范围"
            raise invalid(FieldError("interval", "too_many", text, zh))
        currency = _currency(request.measure, unit)
        if request.by:
            names = await _names(unit, request.by, rows)
            points = [_point(row["bucket"].isoformat(), row["value"], currency, row["key"], names) for row in rows]
        else:
            values = {row["bucket"]: row["value"] for row in rows}
            points = [
                _point(bucket.isoformat(), values.get(bucket, 0), currency)
                for bucket in buckets(scope.period, request.interval)
            ]
        series = pb.Series(
            measure=request.measure,
            interval=request.interval,
            points=points,
            total=sum(row["value"] for row in rows),
            currency=currency,
        )
        if request.compare:
            series.previous_period_total = await scope.total(unit, scope.period.before())
            series.previous_year_total = await scope.total(unit, scope.period.a_year_before())
        return series

    async def get_ranking(self, request: pb.GetRankingRequest, unit: Unit) -> pb.Ranking:
        """Branches, services, staff or sources by a measure, highest first."""
        scope = await _scope(request, unit)
        statement = statements.ranking(request.by, scope.branch_ids is not None)
        rows = await scope.rows(unit, statement, scope.period, request.limit or DEFAULT_ROWS)
        names = await _names(unit, request.by, rows)
        currency = _currency(request.measure, unit)
        return pb.Ranking(
            measure=request.measure,
            by=request.by,
            rows=[
                pb.RankingRow(
                    rank=rank,
                    key=_key(row["key"]),
                    name=names.get(row["key"]),
                    value=row["value"],
                    money=None if currency is None else money(row["value"], currency),
                )
                for rank, row in enumerate(rows, 1)
            ],
            total=rows[0]["total"] if rows else 0,
            currency=currency,
        )

    async def get_reports_status(self, request: pb.GetReportsStatusRequest, unit: Unit) -> pb.ReportsStatus:  # noqa: ARG002
        """How far the reports are."""
        return await _status(unit)

    async def rebuild_reports(self, request: pb.RebuildReportsRequest, unit: Unit) -> pb.ReportsStatus:  # noqa: ARG002
        """Begin to count everything anew; a job does it."""
        await unit.run(statements.ENSURE_SERVING, now=unit.now)
        if not await unit.run(statements.START, now=unit.now):
            raise Refusal("WRONG_STATE", status="rebuilding")
        unit.after_commit(lambda: self.context.wake(REBUILD))
        return await _status(unit)


async def _scope(request: pb.GetSeriesRequest | pb.GetRankingRequest, unit: Unit) -> Scope:
    """What a request wants and may see. Raises Refusal INVALID_REQUEST and PERMISSION_DENIED, and Absent."""
    period, errors = read_period(request.from_date, request.to_date)
    if period is None:
        raise invalid(*errors)
    branch_ids = unit.allowed_branches(PERMISSION)
    if request.HasField("branch_id"):
        unit.check_branch(request.branch_id, PERMISSION)
        if await unit.value(statements.KNOWN, kind="branch", id=request.branch_id) is None:
            raise Absent("branch", request.branch_id, field="branch_id")
        branch_ids = [request.branch_id]
    return Scope(period, branch_ids, await unit.value(statements.SERVING_ID), request.measure)


async def _names(unit: Unit, by: int, rows: Iterable[asyncpg.Record]) -> dict[str, str]:
    """What the keys of rows are called, in the caller's language where there is a name in it."""
    kind = NAME_KINDS.get(pb.Dimension.ValueType(by))
    ids = sorted({row["key"] for row in rows} - {NONE})
    if kind is None or not ids:
        return {}
    found = await unit.all(statements.NAMES, kind=kind, ids=ids)
    english = unit.caller.language == "en"
    return {row["id"]: (row["name_en"] if english else None) or row["name"] for row in found}


def _key(key: str) -> str | None:
    return None if key in ("", NONE) else key


def _point(day: str, value: int, currency: str | None, key: str = "", names: dict[str, str] | None = None) -> pb.Point:
    return pb.Point(
        date=day,
        value=value,
        key=_key(key),
        name=(names or {}).get(key),
        money=None if currency is None else money(value, currency),
    )


def _currency(measure: int, unit: Unit) -> str | None:
    return unit.caller.currency if measure in MONEY_MEASURES else None


async def _status(unit: Unit) -> pb.ReportsStatus:
    rows = {row["status"]: row for row in await unit.all(statements.GENERATIONS)}
    serving, building = rows.get(SERVING), rows.get(BUILDING)
    status = pb.ReportsStatus(rebuilding=building is not None)
    if building is not None:
        status.rebuilt_events = building["counted_events"]
    if serving is not None:
        status.counted_events = serving["counted_events"]
        if serving["newest_event_at"] is not None:
            status.newest_event_at.FromDatetime(serving["newest_event_at"])
        if serving["rebuilt_at"] is not None:
            status.rebuilt_at.FromDatetime(serving["rebuilt_at"])
    return status


SERVICE = Service(
    name="reports",
    servicers=[(pb.DESCRIPTOR.services_by_name["Reports"], Reports)],
    subscriptions=on,
    fetchers={"branch": fetch_branch},
    jobs=[
        Job(REBUILD, rebuild_reports, every_seconds=5),
        Job("sweep-reports", sweep_reports, every_seconds=30),
    ],
)
