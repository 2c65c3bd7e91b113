"""The environment becomes settings, or a list of all that is wrong with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from chassis.settings import READERS, Settings, SettingsError


def test_defaults_follow_the_port_base_and_the_home(tmp_path: Path) -> None:
    settings = Settings.from_environment({"FOYER_PORT_BASE": "9000", "FOYER_HOME": str(tmp_path), "PATH": "/bin"})
    assert settings.nats_url == "nats://127.0.0.1:9002"
    assert settings.smtp_url == "smtp://127.0.0.1:9005"
    assert settings.public_url == "http://127.0.0.1:9000"
    assert settings.service_address_of("wallet") == f"unix:{tmp_path}/run/wallet.sock"


def test_all_problems_are_told_at_once() -> None:
    environ = {
        "FOYER_HOMES": "x",
        "FOYER_PORT_BASE": "80",
        "FOYER_SECRET": "abcd",
        "FOYER_NATS_URL": "http://somewhere",
        "FOYER_DATABASE_URL": "postgresql://app@db/foyer",
        "FOYER_LOG_LEVEL": "loud",
        "FOYER_DEMO": "perhaps",
    }
    with pytest.raises(SettingsError) as raised:
        Settings.from_environment(environ, needs=("system_database_url",))
    named = [problem.split()[0] for problem in raised.value.problems]
    assert sorted(named) == sorted([*environ, "FOYER_SYSTEM_DATABASE_URL"])


def test_an_empty_value_is_as_if_it_were_absent() -> None:
    assert Settings.from_environment({"FOYER_OTLP_ENDPOINT": "", "FOYER_LOG_LEVEL": " "}).log_level == "info"


def test_the_service_takes_its_place_in_the_template() -> None:
    url = "postgresql://app:p%40ss@db:5432/foyer_{service}"
    settings = Settings.from_environment({"FOYER_DATABASE_URL": url, "FOYER_SECRET": "ab" * 32})
    assert settings.database_url_of("access") == "postgresql://app:p%40ss@db:5432/foyer_access"
    assert settings.secret == bytes.fromhex("ab" * 32)


def test_secrets_do_not_show() -> None:
    shown = repr(
        Settings.from_environment({"FOYER_SECRET": "ab" * 32, "FOYER_DATABASE_URL": "postgresql://a:b@c/{service}"})
    )
    assert "abab" not in shown
    assert "a:b@c" not in shown


def test_every_field_can_be_set() -> None:
    assert {field.name for field in dataclasses.fields(Settings)} == set(READERS)
