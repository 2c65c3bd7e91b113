"""The runner against a stand-in gateway over real HTTP: once each, taken up again, refusals told, outages sat out."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from tests.unit.test_importing_planning import FILES, MAPPING, write
from tools.foyer import app
from tools.importing.client import Gateway, Refused, Stopped
from tools.importing.journal import Journal, JournalError

CHAIN = "0190c0de-0000-7000-8000-00000000c4a1"
NOUNS = {"/v1/branches": "branches", "/v1/services": "services", "/v1/staff": "staff", "/v1/customers": "customers"}


class StandIn:
    """A gateway of one chain. `answers` holds, by path, what is said instead of the usual, first things first."""

    def __init__(self) -> None:
        self.made: dict[str, list[dict[str, Any]]] = {}
        self.by_key: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, list[tuple[int, dict[str, Any], dict[str, str]]]] = {}
        self.posts = 0
        self.currency = "CAD"
        self._lock = threading.Lock()

    def get(self, path: str, query: dict[str, list[str]]) -> tuple[int, dict[str, Any], dict[str, str]]:
        with self._lock:
            if path == "/v1/chain":
                return 200, {"id": CHAIN, "name": "Shop", "currency": self.currency}, {}
            if path == "/v1/wallet-books":
                return 200, {"balanced": not self.posts, "account_count": 3, "wrong_account_ids": ["a1"]}, {}
            if path.endswith("/dead-letters"):
                letters = [{"id": f"{path.split('/')[3]}-1", "type": "booking.confirmed", "attempts": 5}]
                return 200, {"dead_letters": letters if "wallet" in path else []}, {}
            things = self.made.get(path, [])
            if "external_id" in query:
                things = [thing for thing in things if thing["external_id"] == query["external_id"][0]]
            first = int(query.get("page_token", ["0"])[0])
            more = {"next_page_token": str(first + 2)} if len(things) > first + 2 else {}
            return 200, {NOUNS[path]: things[first : first + 2], **more}, {}

    def post(self, path: str, key: str, body: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
        with self._lock:
            self.posts += 1
            if self.answers.get(path):
                return self.answers[path].pop(0)
            if path.endswith(":replay"):
                return 200, {"id": path.rsplit("/", 1)[-1], "reason": "still wrong"}, {}
            if key in self.by_key:
                return 201, self.by_key[key], {}
            external = body.get("external_id")
            if path == "/v1/customers" and any(c["external_id"] == external for c in self.made.get(path, [])):
                return 409, {"code": "ALREADY_EXISTS", "detail": "There is already one."}, {}
            thing = {**body, "id": f"{path}/{len(self.made.get(path, []))}"}
            self.made.setdefault(path, []).append(thing)
            self.by_key[key] = thing
            return 201, thing, {}


@pytest.fixture
def stand_in() -> Iterator[tuple[StandIn, str]]:
    platform = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            self._answer(*platform.get(parts.path, parse_qs(parts.query)))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert self.headers["authorization"] == "Bearer foyer_test"
            self._answer(*platform.post(self.path, self.headers["idempotency-key"], body))

        def _answer(self, status: int, content: dict[str, Any], headers: dict[str, str]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield platform, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(tmp_path: Path, url: str, *more: str) -> tuple[int, dict[str, Any]]:
    mapping = tmp_path / "mapping.yaml"
    if not mapping.exists():
        write(tmp_path, MAPPING)
    command = ["import", str(tmp_path), "--mapping", str(mapping), "--gateway", url, "--json"]
    command += ["--resume-file", str(tmp_path / "journal"), "--refused-file", str(tmp_path / "refused.csv"), *more]
    result = CliRunner().invoke(app, command, env={"FOYERCLI_API_KEY": "foyer_test"})
    return result.exit_code, json.loads(result.stdout) if result.stdout else {"error": result.stderr}


def test_everything_is_made_once_however_often_it_is_run(tmp_path: Path, stand_in: tuple[StandIn, str]) -> None:
    platform, url = stand_in
    code, summary = run(tmp_path, url)
    assert code == 1
    made = {name: section["made"] for name, section in summary["sections"].items()}
    assert made == {"branches": 1, "services": 5, "staff": 2, "customers": 6, "bookings": 8, "payments": 5}
    assert summary["money"] == {
        "currency": "CAD",
        "sales": "182.80",
        "refunds": "-82.00",
        "net": "100.80",
        "tax": "13.10",
    }
    booking = platform.made["/v1/bookings:record"][0]
    assert booking["branch_id"] == "/v1/branches/0"
    assert booking["customer_id"].startswith("/v1/customers/")
    posts = platform.posts
    code, again = run(tmp_path, url)
    assert (code, platform.posts) == (1, posts)
    assert {name: section["found"] for name, section in again["sections"].items()} == made
    assert again["refused"] == summary["refused"]
    refused = (tmp_path / "refused.csv").read_text().splitlines()
    assert refused[0] == "file,line,reason,row"
    assert refused[2].startswith('cancellations.csv,4,"days_ahead: says 3, by its dates it is 2"')
    assert len(refused) == 6


def test_without_the_journal_what_is_there_is_found(tmp_path: Path, stand_in: tuple[StandIn, str]) -> None:
    platform, url = stand_in
    run(tmp_path, url)
    counts = {path: len(things) for path, things in platform.made.items()}
    (tmp_path / "journal").unlink()
    platform.by_key.clear()
    # The real service knows a second record by its external id; here only the chain's own lists are looked at.
    _, summary = run(tmp_path, url)
    found = {name: summary["sections"][name]["found"] for name in ("branches", "services", "staff", "customers")}
    assert found == {"branches": 1, "services": 5, "staff": 2, "customers": 6}
    assert {path: len(platform.made[path]) for path in NOUNS} == {path: counts[path] for path in NOUNS}


def test_taken_up_where_it_was_cut_off(tmp_path: Path, stand_in: tuple[StandIn, str]) -> None:
    platform, url = stand_in
    run(tmp_path, url)
    journal = tmp_path / "journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:15]) + lines[15][:10])
    posts = platform.posts
    _, summary = run(tmp_path, url)
    sections = summary["sections"].values()
    # The line that was cut off stood for something made: asked for again with its key it is answered, not made twice.
    assert (sum(section["found"] for section in sections), platform.posts - posts) == (14, 27 - 14)
    assert len(platform.made["/v1/payments"]) == 5


def test_a_refusal_is_told_with_its_row_and_what_depends_on_it(tmp_path: Path, stand_in: tuple[StandIn, str]) -> None:
    platform, url = stand_in
    problem = {"code": "INVALID_REQUEST", "errors": [{"field": "name", "message": "is too short"}]}
    platform.answers["/v1/customers"] = [(422, problem, {})]
    _, summary = run(tmp_path, url, "--parallel", "1")
    told = "INVALID_REQUEST: name: is too short"
    found = [(bad["file"], bad["line"], bad["reason"]) for bad in summary["refused"] if told in bad["reason"]]
    later = f"customers 'ANN': was refused ({told})"
    assert found == [
        ("bookings.csv", 2, told),
        ("bookings.csv", 2, later),
        ("receipts.csv", 2, later),
        ("receipts.csv", 5, later),
        ("receipts.csv", 9, later),
    ]


def test_busy_and_away_for_a_moment(tmp_path: Path, stand_in: tuple[StandIn, str]) -> None:
    platform, url = stand_in
    platform.answers["/v1/payments"] = [
        (429, {"code": "RATE_LIMITED", "detail": "slower"}, {"retry-after": "1"}),
        (503, {"code": "UNAVAILABLE", "detail": "away"}, {}),
        (500, {"code": "INTERNAL", "detail": "oh", "trace_id": "t1"}, {}),
    ]
    _, summary = run(tmp_path, url)
    assert summary["sections"]["payments"]["made"] == 5


def test_what_stops_an_import(tmp_path: Path, stand_in: tuple[StandIn, str]) -> None:
    platform, url = stand_in
    platform.answers["/v1/payments"] = [(403, {"code": "PERMISSION_DENIED", "detail": "needs payments.write"}, {})]
    code, told = run(tmp_path, url)
    assert code == 2
    assert "Stopped: POST /v1/payments: PERMISSION_DENIED: needs payments.write" in told["error"]
    platform.currency = "EUR"
    code, told = run(tmp_path, url)
    assert (code, "has EUR, the mapping CAD" in told["error"]) == (2, True)


def test_a_dry_run_asks_nobody(tmp_path: Path) -> None:
    code, summary = run(tmp_path, "http://127.0.0.1:9", "--dry-run")
    assert (code, summary["dry_run"], len(summary["refused"])) == (1, True, 5)
    assert not (tmp_path / "journal").exists()


def test_a_clean_import_ends_with_0_and_people_can_read_it(tmp_path: Path, stand_in: tuple[StandIn, str]) -> None:
    (tmp_path / "refused.csv").write_text("of a run before")
    mapping = {**MAPPING, "bookings": [], "cancellations": [], "payments": [], "no_shows": []}
    path = write(tmp_path, mapping)
    (tmp_path / "key").write_text("foyer_test\n")
    command = ["import", str(tmp_path), "--mapping", str(path), "--gateway", stand_in[1]]
    command += ["--resume-file", str(tmp_path / "journal"), "--refused-file", str(tmp_path / "refused.csv")]
    result = CliRunner().invoke(app, [*command, "--api-key-file", str(tmp_path / "key")])
    assert result.exit_code == 0
    assert "Refused: 0 rows" in result.stdout
    assert not (tmp_path / "refused.csv").exists()


def test_mistakes_in_the_mapping_end_with_2(tmp_path: Path) -> None:
    path = write(tmp_path, {**MAPPING, "colour": "red"}, FILES)
    result = CliRunner().invoke(app, ["import", str(tmp_path), "--mapping", str(path), "--dry-run"])
    assert result.exit_code == 2
    assert "colour: is not known here" in result.stderr


def test_an_api_key_is_needed(tmp_path: Path) -> None:
    path = write(tmp_path, MAPPING)
    result = CliRunner().invoke(app, ["import", str(tmp_path), "--mapping", str(path)], env={"FOYERCLI_API_KEY": ""})
    assert (result.exit_code, "An API key is needed" in result.stderr) == (2, True)


def test_a_gateway_that_stays_away(stand_in: tuple[StandIn, str]) -> None:
    away = r"does not answer .*; run the same command again to go on"
    with (
        Gateway("http://127.0.0.1:9", "foyer_test", patience_seconds=0.3) as gateway,
        pytest.raises(Stopped, match=away),
    ):
        gateway.get("/v1/chain")
    stand_in[0].answers["/v1/customers"] = [(500, {"code": "INTERNAL", "detail": "oh", "trace_id": "t1"}, {})] * 3
    with Gateway(stand_in[1], "foyer_test") as gateway, pytest.raises(Refused, match=r"INTERNAL: oh \(trace t1\)"):
        gateway.post("/v1/customers", {}, "key")


def test_journals(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, CHAIN, "shop") as journal:
        journal.add("customers", "ANN", "1")
        with pytest.raises(JournalError, match="another import is using it"):
            Journal(path, CHAIN, "shop")
    with Journal(path, CHAIN, "shop") as journal:
        assert journal.ids == {("customers", "ANN"): "1"}
    with pytest.raises(JournalError, match="belongs to another import"):
        Journal(path, "another chain", "shop")
    path.write_text("not a journal\n")
    with pytest.raises(JournalError, match="is not a journal"):
        Journal(path, CHAIN, "shop")


def test_wallet_and_dead_letters(stand_in: tuple[StandIn, str]) -> None:
    def call(*command: str) -> Any:
        return CliRunner().invoke(app, [*command, "--gateway", stand_in[1], "--api-key", "foyer_test"])

    assert call("wallet", "verify").exit_code == 0
    listed = json.loads(call("dead-letters", "list", "--json").stdout)
    assert [letter["service"] for letter in listed] == ["wallet"]
    replayed = call("dead-letters", "replay", "--service", "wallet", "--all")
    assert (replayed.exit_code, "wallet-1 failed again: still wrong" in replayed.stdout) == (1, True)
    assert call("dead-letters", "replay", "--service", "wallet").exit_code == 2
    assert call("dead-letters", "list", "--service", "nothing").exit_code == 2
    assert call("wallet", "verify").exit_code == 1


def test_a_chain_is_only_made_where_the_platforms_secret_is(tmp_path: Path) -> None:
    command = ["chain", "create", "--name", "Shop", "--owner-name", "Ann", "--owner-email", "ann@shop.example"]
    result = CliRunner().invoke(app, command, env={"FOYER_HOME": str(tmp_path), "FOYER_SECRET": ""})
    assert (result.exit_code, "FOYER_SECRET is missing" in result.stderr) == (2, True)
    assert not list(tmp_path.iterdir())
