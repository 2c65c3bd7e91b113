"""The main job on real input: a hair salon's exports of 2018, imported through the gateway and counted by the reports.

What is expected is worked out here from the files alone, with Decimal, by other code than the import's.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from tools.running import Running

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = Path(os.environ.get("HAIR_SALON_FOLDER") or ROOT.parent / "shared" / "data" / "hair-salon-2018")
MAPPING = ROOT / "tests" / "real" / "hair-salon-2018.mapping.yaml"
TORONTO = ZoneInfo("America/Toronto")
PERIOD = {"from": "2018-03-01", "to": "2019-03-01"}
COUNTED_SECONDS = 120.0
IMPORT_SECONDS = 400.0
CUT_OFF_AFTER_LINES = 1_500

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the exports are not here: {FOLDER} (HAIR_SALON_FOLDER)"),
    pytest.mark.timeout(600),
]

Row = dict[str, str]


def rows(name: str) -> list[Row]:
    with (FOLDER / name).open(newline="") as file:
        return list(csv.DictReader(file))


def month(text: str) -> str:
    return f"{text[6:10]}-{text[:2]}-01"


def cents(amount: Decimal) -> int:
    return int((amount * 100).quantize(Decimal(1), ROUND_HALF_UP))


def exact_cents(amount: Decimal) -> int:
    assert amount * 100 == int(amount * 100)
    return int(amount * 100)


@dataclass
class Salon:
    """The salon's chain after the import, and the files it was made from."""

    api: httpx.Client
    summary: dict[str, Any]
    repeated: dict[str, Any]
    seconds: float
    bookings: list[Row] = field(default_factory=lambda: rows("bookings.csv"))
    cancellations: list[Row] = field(default_factory=lambda: rows("cancellations.csv"))
    no_shows: list[Row] = field(default_factory=lambda: rows("no_shows.csv"))
    receipts: list[Row] = field(default_factory=lambda: rows("receipts.csv"))
    services: list[Row] = field(default_factory=lambda: rows("services.csv"))

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        answer = self.api.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def all(self, path: str, noun: str, **parameters: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        token: dict[str, str] = {}
        for _ in range(100):
            page = self.get(path, page_size=200, **parameters, **token)
            found += page[noun]
            if not page.get("next_page_token"):
                return found
            token = {"page_token": page["next_page_token"]}
        raise AssertionError(f"{path} has more pages than expected")

    def months(self, measure: str) -> dict[str, int]:
        series = self.get("/v1/reports/series", measure=measure, interval="month", **PERIOD)
        found = {point["date"]: point["value"] for point in series["points"] if point["value"]}
        assert sum(found.values()) == series["total"]
        return found

    def ranking(self, measure: str, by: str) -> dict[str | None, int]:
        ranking = self.get("/v1/reports/ranking", measure=measure, by=by, limit=200, **PERIOD)
        found = {row.get("name"): row["value"] for row in ranking["rows"]}
        assert len(found) == len(ranking["rows"])
        assert sum(found.values()) == ranking["total"]
        return found

    def codes(self, path: str, noun: str, name: str) -> dict[str, str]:
        return {thing["id"]: thing[name] for thing in self.all(path, noun)}


def foyer(environ: dict[str, str], *command: str) -> subprocess.Popen[str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("FOYER")}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "tools.foyer", *command],
        env={**outside, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    try:
        said, problems = process.communicate(timeout=IMPORT_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, (process.returncode, said[-2000:], problems[-2000:])
    content: dict[str, Any] = json.loads(said)
    return content


def cut_off(process: subprocess.Popen[str], journal: Path) -> None:
    """Kill an import in the middle of its work."""
    try:
        for _ in range(int(IMPORT_SECONDS / 0.05)):
            if journal.exists() and journal.read_bytes().count(b"\n") > CUT_OFF_AFTER_LINES:
                break
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def salon(platform: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Salon]:
    """A new chain in Canadian dollars, with everything of the folder in it."""
    folder = tmp_path_factory.mktemp("salon")
    place = {"FOYER_HOME": str(platform.home.path), "FOYER_PORT_BASE": str(platform.port_base)}
    details = [
        "--name",
        "Hair salon",
        "--owner-name",
        "Owner",
        "--owner-email",
        f"owner-{time.time_ns()}@salon.example",
    ]
    details += ["--currency", "CAD", "--time-zone", "America/Toronto", "--language", "en"]
    key = finish(foyer(place, "chain", "create", *details))["api_key"]
    journal = folder / "journal"
    command = ["import", str(FOLDER), "--mapping", str(MAPPING), "--gateway", platform.gateway, "--json"]
    command += ["--resume-file", str(journal), "--refused-file", str(folder / "refused.csv")]
    environ = {"FOYERCLI_API_KEY": key}
    began = time.monotonic()
    cut_off(foyer(environ, *command), journal)
    summary = finish(foyer(environ, *command))
    seconds = time.monotonic() - began
    repeated = finish(foyer(environ, *command))
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=platform.gateway, headers=headers, timeout=30, trust_env=False) as api:
        made = Salon(api, summary, repeated, seconds)
        wait_until_counted(made)
        yield made


def wait_until_counted(salon: Salon) -> None:
    """Wait for the reports: every booking and receipt counted, or nothing new for a while."""
    kept, missed, cancelled = len(salon.bookings), len(salon.no_shows), len(salon.cancellations)
    wanted = {"completed": kept - missed, "no_shows": missed, "cancelled": cancelled, "bookings": kept + cancelled}
    wanted["revenue"] = exact_cents(sum((Decimal(row["Amount"]) for row in salon.receipts), Decimal(0)))
    deadline = time.monotonic() + COUNTED_SECONDS
    while any(sum(salon.months(measure).values()) != value for measure, value in wanted.items()):
        if time.monotonic() > deadline:
            return  # the tests tell what is missing
        time.sleep(0.2)


def test_every_row_is_taken_and_what_is_odd_is_explained(salon: Salon) -> None:
    assert salon.summary["refused"] == []
    planned = {name: section["planned"] for name, section in salon.summary["sections"].items()}
    codes = {row["Code"] for row in [*salon.bookings, *salon.cancellations, *salon.no_shows]}
    codes |= {row["Client"] for row in salon.receipts}
    customers = len(codes - {"", "WALK_IN"}) + 1  # one stands for the client who is not named
    assert planned == {
        "branches": 1,
        "services": 33,
        "staff": 7,
        "customers": customers,
        "bookings": 1906 + 243,
        "payments": 1934,
    }
    odd = Counter((remark["file"], remark["text"].partition(";")[0]) for remark in salon.summary["remarks"])
    unrounded = sum((Decimal(row["GST"]) + Decimal(row["PST"])) * 100 % 1 != 0 for row in salon.receipts)
    later = sum((row["Date"][6:], row["Date"][:5]) > ("2018", "07/29") for row in salon.bookings)
    assert odd == {
        ("bookings.csv", "names no client"): 1,
        ("bookings.csv", "lies after 2018-07-29: how it ended is not known"): later,
        ("cancellations.csv", "does not say how many days ahead it was cancelled"): 2,
        ("cancellations.csv", "says the same as line 16"): 1,
        ("cancellations.csv", "says the same as line 19"): 1,
        ("cancellations.csv", "was cancelled 37 days after the day it was booked for"): 1,
        ("receipts.csv", "has a tax of more digits than its currency"): unrounded,
        ("receipts.csv", "says the same as line 24"): 1,
    }


def test_it_was_taken_up_again_and_a_repeat_makes_nothing(salon: Salon, record_property: Callable[..., None]) -> None:
    record_property("import_seconds", round(salon.seconds, 1))
    before = sum(section["found"] for section in salon.summary["sections"].values())
    assert before >= CUT_OFF_AFTER_LINES - 1
    assert all(section["made"] == 0 for section in salon.repeated["sections"].values())
    assert salon.repeated["refused"] == []


def test_revenue_to_the_cent(salon: Salon) -> None:
    amounts = [Decimal(row["Amount"]) for row in salon.receipts]
    assert (sum(amounts), sum(amount for amount in amounts if amount < 0)) == (
        Decimal("115809.03"),
        Decimal("-3520.40"),
    )
    by_month: Counter[str] = Counter()
    for row in salon.receipts:
        by_month[month(row["Date"])] += exact_cents(Decimal(row["Amount"]))
    assert salon.months("revenue") == by_month
    assert by_month == {
        "2018-03-01": 326000,
        "2018-04-01": 1738845,
        "2018-05-01": 3447264,
        "2018-06-01": 3211299,
        "2018-07-01": 2857495,
    }


def test_revenue_per_staff_member_and_service(salon: Salon) -> None:
    names = {row["Desc"] for row in salon.services} - {""}
    staff: Counter[str] = Counter()
    services: Counter[str | None] = Counter()
    for row in salon.receipts:
        amount = exact_cents(Decimal(row["Amount"]))
        staff[row["Staff"]] += amount
        services[row["Description"] if row["Description"] in names else None] += amount
    assert salon.ranking("revenue", "staff") == staff
    assert salon.ranking("revenue", "service") == services


def test_refunds_and_taxes_row_by_row(salon: Salon) -> None:
    customers = salon.codes("/v1/customers", "customers", "external_id")
    staff = salon.codes("/v1/staff", "staff", "code")
    services = salon.codes("/v1/services", "services", "name")
    names = {row["Desc"] for row in salon.services} - {""}
    expected: Counter[tuple[Any, ...]] = Counter()
    for row in salon.receipts:
        amount, tax = Decimal(row["Amount"]), cents(abs(Decimal(row["GST"]) + Decimal(row["PST"])))
        client = row["Client"] if row["Client"] != "WALK_IN" else None
        service = row["Description"] if row["Description"] in names else None
        day = f"{row['Date'][6:]}-{row['Date'][:2]}-{row['Date'][3:5]}"
        kind = "refund" if amount < 0 else "sale"
        expected[day, kind, exact_cents(abs(amount)), tax, client, row["Staff"], service] += 1
    found: Counter[tuple[Any, ...]] = Counter()
    for payment in salon.all("/v1/payments", "payments"):
        day = datetime.fromisoformat(payment["occurred_at"]).astimezone(TORONTO).date().isoformat()
        assert (payment["amount"]["currency"], payment["tax"]["currency"]) == ("CAD", "CAD")
        money = payment["amount"]["amount"], payment["tax"]["amount"]
        client, service = customers.get(payment.get("customer_id", "")), services.get(payment.get("service_id", ""))
        found[day, payment["kind"], *money, client, staff[payment["staff_id"]], service] += 1
    assert found == expected
    assert sum(key[2] * number for key, number in found.items() if key[1] == "refund") == 352040


def test_counts_per_month(salon: Salon) -> None:
    missed = Counter(month(row["Date"]) for row in salon.no_shows)
    assert salon.months("no_shows") == missed
    kept = Counter(month(row["Date"]) for row in salon.bookings)
    assert salon.months("completed") == kept - missed
    assert salon.months("cancelled") == Counter(month(row["Cancel Date"]) for row in salon.cancellations)
    # When something was booked the export does not say: by its own day, and what was cancelled by the day of that,
    # unless it lay before.
    booked = kept + Counter(
        month(min(row["Cancel Date"], row["Booking Date"], key=sortable)) for row in salon.cancellations
    )
    assert salon.months("bookings") == booked
    assert (sum(kept.values()), sum(missed.values()), sum(booked.values())) == (1906, 60, 2149)


def sortable(text: str) -> tuple[str, str]:
    return text[6:], text[:5]


def test_counts_per_staff_member_and_service(salon: Salon) -> None:
    names = {row["Code"]: row["Desc"] or row["Code"] for row in salon.services}
    for by, name in (("staff", lambda row: row["Staff"]), ("service", lambda row: names[row["Service"]])):
        missed = Counter(name(row) for row in salon.no_shows)
        kept = Counter(name(row) for row in salon.bookings)
        assert salon.ranking("no_shows", by) == missed
        assert salon.ranking("completed", by) == kept - missed
        assert salon.ranking("cancelled", by) == Counter(name(row) for row in salon.cancellations)


def test_bookings_row_by_row(salon: Salon) -> None:
    customers = salon.codes("/v1/customers", "customers", "external_id")
    staff = salon.codes("/v1/staff", "staff", "code")
    services = salon.codes("/v1/services", "services", "code")
    missed = {(row["Date"], row["Code"], row["Service"], row["Staff"]) for row in salon.no_shows}
    expected: Counter[tuple[Any, ...]] = Counter()
    for row in salon.bookings:
        who = row["Code"] or "unnamed", row["Service"], row["Staff"]
        starts = datetime.strptime(f"{row['Date']} {row['Time']}", "%m/%d/%Y %I:%M:%S %p")  # noqa: DTZ007 - local
        ended = "no_show" if (row["Date"], row["Code"], row["Service"], row["Staff"]) in missed else "completed"
        expected[ended, *who, starts.isoformat(), None] += 1
    for row in salon.cancellations:
        day = datetime.strptime(row["Booking Date"], "%m/%d/%Y")  # noqa: DTZ007 - local
        noon, days = day.replace(hour=12).isoformat(), int(row["Days"] or "0")
        expected["cancelled", row["Code"], row["Service"], row["Staff"], noon, days] += 1
    found: Counter[tuple[Any, ...]] = Counter()
    for booking in salon.all("/v1/bookings", "bookings"):
        starts = datetime.fromisoformat(booking["starts_at"]).astimezone(TORONTO)
        ahead: int | None = None
        if booking["status"] == "cancelled":
            ahead = (starts.date() - datetime.fromisoformat(booking["cancelled_at"]).astimezone(TORONTO).date()).days
        who = customers[booking["customer_id"]], services[booking["service_id"]], staff[booking["staff_id"]]
        found[booking["status"], *who, starts.replace(tzinfo=None).isoformat(), ahead] += 1
    assert found == expected


def test_customers_by_when_they_first_came(salon: Salon) -> None:
    first: dict[str, tuple[str, str]] = {}
    seen = [(row["Code"], row["Date"]) for row in [*salon.bookings, *salon.no_shows]]
    seen += [(row["Client"], row["Date"]) for row in salon.receipts if row["Client"] != "WALK_IN"]
    seen += [(row["Code"], row[name]) for row in salon.cancellations for name in ("Cancel Date", "Booking Date")]
    for code, day in seen:
        first[code] = min(sortable(day), first.get(code, sortable(day)))
    months = Counter(f"{year}-{day[:2]}-01" for year, day in first.values())
    assert salon.months("new_customers") == months


def test_the_books_balance(salon: Salon) -> None:
    books = salon.get("/v1/wallet-books")
    assert books["balanced"]
    assert books["imbalance"] == 0
