"""`make up` refuses in words what cannot work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg

from tools.home import ROLES, Home
from tools.running import free_port_base
from tools.servers import Servers


def up(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("FOYER_")}
    command = [sys.executable, "-m", "tools.up"]
    return subprocess.run(command, env={**outside, **environ}, capture_output=True, text=True, timeout=60, check=False)


def test_a_taken_port_is_named_with_the_setting_that_moves_it(tmp_path: Path) -> None:
    base = free_port_base()
    with socket.create_server(("127.0.0.1", base + 1)):
        answer = up({"FOYER_HOME": str(tmp_path), "FOYER_PORT_BASE": str(base)})
    assert answer.returncode == 1
    assert f"port {base + 1} (PostgreSQL)" in answer.stdout
    assert "FOYER_PORT_BASE" in answer.stdout


def test_a_home_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.make()
    with home.lock():
        home.demo.write_text("{}")
        answer = up({"FOYER_HOME": str(tmp_path), "FOYER_PORT_BASE": str(free_port_base())})
    assert answer.returncode == 1
    assert f"process {os.getpid()}" in answer.stdout
    assert home.demo.exists()


def test_wrong_settings_are_all_listed(tmp_path: Path) -> None:
    answer = up({"FOYER_HOME": str(tmp_path), "FOYER_PORT_BASE": "x", "FOYER_COLOUR": "red"})
    assert answer.returncode == 2
    assert "FOYER_PORT_BASE" in answer.stderr
    assert "FOYER_COLOUR is not a setting" in answer.stderr


def test_an_own_postgres_that_is_not_there_is_named(tmp_path: Path) -> None:
    base = free_port_base()
    admin = f"postgresql://nobody:x@127.0.0.1:{base + 40}/postgres"
    answer = up({"FOYER_HOME": str(tmp_path), "FOYER_PORT_BASE": str(base), "FOYER_POSTGRES_ADMIN_URL": admin})
    assert answer.returncode == 1
    assert f"cannot reach PostgreSQL at 127.0.0.1:{base + 40}" in answer.stdout


async def test_the_roles_have_no_rights_beyond_their_tables(servers: Servers) -> None:
    powers = "rolsuper or rolbypassrls or rolcreatedb or rolcreaterole or rolreplication"
    connection = await asyncpg.connect(servers.postgres.admin_url)
    try:
        found = await connection.fetch(f"select rolname, {powers} as powers from pg_roles where rolname ~ '^foyer_'")
        assert {row["rolname"]: row["powers"] for row in found} == dict.fromkeys(ROLES, False)
        owned = "select count(*) from pg_database where datdba in ('foyer_app'::regrole, 'foyer_system'::regrole)"
        assert await connection.fetchval(owned) == 0
    finally:
        await connection.close()
