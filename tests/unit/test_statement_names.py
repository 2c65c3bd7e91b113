"""Statements have a few stable names for metrics; their times are kept; loggers obey settings that come after them."""

from __future__ import annotations

import json
import logging
import time

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY as DEFAULT_REGISTRY

from chassis import logs, metrics
from chassis.db import name_of, prepare, prepare_sql

THINGS = sa.Table("things", sa.MetaData(), sa.Column("id", sa.Text), sa.Column("note", sa.Text))


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("select a from bookings where id = $1 for update of bookings", "select_bookings"),
        ("insert into staff_days (a) values ($1) on conflict (a) do update set a = 1", "insert_staff_days"),
        ('UPDATE "messages" m\n set a = 1 from other', "update_messages"),
        ("delete from rollups where a in (select a from old)", "delete_rollups"),
        ("with new as (insert into entries select 1 from wallets returning a) select a from new", "insert_entries"),
        ("with due as (select a from jobs for no key update skip locked) select a from due", "select_jobs"),
        ("select extract(epoch from t.at) from times t where t.a is distinct from b", "select_times"),
        ("select a from search_things($1)", "select_search_things"),
        ("select pg_advisory_xact_lock($1)", "select_pg_advisory_xact_lock"),
        ("select 1", "select"),
    ],
)
def test_a_statement_is_called_by_verb_and_table(sql: str, name: str) -> None:
    assert name_of(sql) == name


def test_both_ways_to_prepare_name_a_statement() -> None:
    assert prepare(sa.select(THINGS.c.id).where(THINGS.c.note == sa.bindparam("note"))).name == "select_things"
    assert prepare(sa.insert(THINGS).values(id=sa.bindparam("id"))).name == "insert_things"
    assert prepare_sql("select 1 from things").name == "select_things"
    assert prepare_sql("select 1 from things", name="check_things").name == "check_things"


def test_times_are_kept_by_service_and_statement() -> None:
    times = metrics.DatabaseTimes("unit-test")
    times.query("select_things", time.perf_counter() - 0.02)
    times.query("select_things", time.perf_counter())
    times.unit("committed", time.perf_counter())
    labels = {"service": "unit-test", "query": "select_things"}
    assert metrics.REGISTRY.get_sample_value("foyer_query_seconds_count", labels) == 2
    assert 0.02 <= (metrics.REGISTRY.get_sample_value("foyer_query_seconds_sum", labels) or 0) < 1
    labels = {"service": "unit-test", "outcome": "committed"}
    assert metrics.REGISTRY.get_sample_value("foyer_unit_seconds_count", labels) == 1
    assert DEFAULT_REGISTRY.get_sample_value("foyer_unit_seconds_count", labels) is None


def test_a_logger_made_before_the_settings_obeys_them(capsys: pytest.CaptureFixture[str]) -> None:
    log = logs.logger("early")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("wallet", "debug", "json")
        assert logs.tells_debug()
        log.debug("detail")
        logs.configure("wallet", "info", "json")
        assert not logs.tells_debug()
        log.debug("not told")
        log.info("told", count=1)
    finally:
        logs.configure("foyer", "warning", "text")
        root.handlers[:] = handlers
        root.setLevel(level)
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["level"], line["logger"]) for line in told] == [
        ("detail", "debug", "early"),
        ("told", "info", "early"),
    ]
