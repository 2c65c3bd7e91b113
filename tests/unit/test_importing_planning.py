"""Mapping files are checked as a whole; rows become requests, and each row that does not has its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.importing.mapping import MappingError, load_mapping
from tools.importing.planning import Plan, Reference, make_plan

FILES = {
    "services.csv": "Code,Desc,Price\nCUT,Women's hair cut,82\nCOL,Color,0\nFREE,,5.5\nDUP1,Twice,1\nDUP2,twice,1\n",
    "goods.csv": "Name\nShampoo\n",
    "bookings.csv": (
        "Code,Staff,Service,Date,Time\n"
        "ANN,JJ,CUT,03/14/2018,3:50:00 PM\n"
        ",JJ,CUT,04/13/2018,6:00:00 PM\n"
        "BOB,JJ,COL,04/13/2018,6:00:00 PM\n"
        "BOB,JJ,PERM,04/32/2018,late\n"
        "CYD,HOUSE,COL,08/01/2018,9:00:00 AM\n"
    ),
    "no_shows.csv": "Date,Code,Service,Staff\n04/13/2018,,CUT,JJ\n05/01/2018,DAN,COL,JJ\n",
    "cancellations.csv": (
        "On,Code,Service,Staff,For,By,Days\n"
        "05/22/2018,EVE,CUT,JJ,05/24/2018,ADMIN,2\n"
        "05/22/2018,EVE,CUT,JJ,05/24/2018,ADMIN,2\n"
        "05/22/2018,EVE,CUT,JJ,05/24/2018,ADMIN,3\n"
        "05/24/2018,EVE,CUT,JJ,05/22/2018,ADMIN,\n"
    ),
    "receipts.csv": (
        "Receipt,Date,Description,Client,Staff,Quantity,Amount,GST,PST\n"
        "10,03/15/2018,women's  HAIR cut,ANN,JJ,1,82,4.1,6.56\n"
        "11,03/15/2018,Shampoo,WALK_IN,HOUSE,2,50.4,2.52,4.032\n"
        "11,03/15/2018,Shampoo,WALK_IN,HOUSE,2,50.4,2.52,4.032\n"
        "12,03/16/2018,Women's hair cut,ANN,JJ,1,-82,-4.1,-6.56\n"
        "13,03/16/2018,Nonsense,ZOE,JJ,1,1.005,0,0\n"
        "14,03/16/2018,Color,ANN,JJ,1,-5,1,0\n"
        "15,03/16/2018,Twice,ANN,JJ,1,5,0,0\n"
        "16,03/16/2018,,ANN,,1,0,0,0\n"
    ),
}
MAPPING: dict[str, Any] = {
    "version": 1,
    "name": "shop",
    "time_zone": "America/Toronto",
    "currency": "CAD",
    "formats": {"date": "%m/%d/%Y", "time": "%I:%M:%S %p"},
    "branch": {"name": "Shop", "phone": "416 555 0100"},
    "services": [
        {
            "file": "services.csv",
            "code": "Code",
            "name": {"column": "Desc", "otherwise": "{Code}"},
            "price": "Price",
            "duration_minutes": {"text": "45"},
        }
    ],
    "staff": [
        {"file": "bookings.csv", "code": "Staff", "name": {"column": "Staff", "values": {"JJ": "Jay"}}},
        {"file": "receipts.csv", "code": "Staff"},
    ],
    "customers": {
        "language": "en",
        "skip_codes": ["WALK_IN", "ZOE"],
        "unnamed": {"code": "unnamed", "name": "Somebody"},
        "sources": [
            {"file": "bookings.csv", "code": "Code", "since": "Date"},
            {"file": "no_shows.csv", "code": "Code"},
            {"file": "cancellations.csv", "code": "Code", "since": ["On", "For"]},
            {"file": "receipts.csv", "code": "Client", "since": "Date"},
        ],
    },
    "bookings": [
        {
            "file": "bookings.csv",
            "date": "Date",
            "time": "Time",
            "customer": "Code",
            "staff": "Staff",
            "service": "Service",
            "known_until": {"date": "2018-07-29", "note": "Not known."},
        }
    ],
    "no_shows": [
        {
            "file": "no_shows.csv",
            "date": "Date",
            "time": {"text": "12:00"},
            "customer": "Code",
            "staff": "Staff",
            "service": "Service",
            "match": ["date", "customer", "service", "staff"],
        }
    ],
    "cancellations": [
        {
            "file": "cancellations.csv",
            "date": "For",
            "time": {"text": "12:00"},
            "customer": "Code",
            "staff": "Staff",
            "service": "Service",
            "cancelled_on": "On",
            "days_ahead": "Days",
            "reason": {"text": "Cancelled by {By}"},
        }
    ],
    "payments": [
        {
            "file": "receipts.csv",
            "date": "Date",
            "time": {"text": "12:00"},
            "amount": "Amount",
            "tax": ["GST", "PST"],
            "tax_rounding": "half_up",
            "method": {"text": "other"},
            "customer": "Client",
            "walk_in": ["WALK_IN"],
            "staff": "Staff",
            "service": {"column": "Description", "by": "name", "goods": {"file": "goods.csv", "column": "Name"}},
            "description": {"column": "Description", "otherwise": "Goods"},
            "quantity": "Quantity",
            "number": "Receipt",
        }
    ],
}


def write(folder: Path, mapping: dict[str, Any], files: dict[str, str] | None = None) -> Path:
    for name, text in (FILES if files is None else files).items():
        (folder / name).write_text(text)
    path = folder / "mapping.yaml"
    path.write_text(yaml.safe_dump(mapping, allow_unicode=True))
    return path


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(load_mapping(write(tmp_path, MAPPING)), tmp_path)


def problems(tmp_path: Path, mapping: dict[str, Any]) -> list[str]:
    with pytest.raises(MappingError) as told:
        make_plan(load_mapping(write(tmp_path, mapping)), tmp_path)
    return told.value.problems


def test_everything_wrong_with_a_mapping_is_told_at_once(tmp_path: Path) -> None:
    wrong = {
        **MAPPING,
        "time_zone": "Toronto",
        "currency": "dollars",
        "colour": "red",
        "branch": {},
        "payments": [{**MAPPING["payments"][0], "amount": {"column": "Amount", "text": "1"}, "tax_rounding": "up"}],
    }
    assert problems(tmp_path, wrong) == [
        "time_zone: 'Toronto' is not an IANA time zone such as America/Toronto",
        "currency: String should match pattern '^[A-Z]{3}$'",
        "branch.name: is missing",
        "payments[0].amount: name either `column` or `text`",
        "payments[0].tax_rounding: Input should be 'half_up' or 'half_even'",
        "colour: is not known here",
    ]


def test_columns_and_files_that_are_not_there(tmp_path: Path) -> None:
    source = {**MAPPING["bookings"][0], "customer": "Kode", "note": {"text": "{Remark}"}, "skip": {"State": ["x"]}}
    assert problems(tmp_path, {**MAPPING, "bookings": [source]}) == [
        "bookings[0].customer: bookings.csv has no column 'Kode'; it has: Code, Staff, Service, Date, Time",
        "bookings[0].note: bookings.csv has no column 'Remark'; it has: Code, Staff, Service, Date, Time",
        "bookings[0].skip: bookings.csv has no column 'State'; it has: Code, Staff, Service, Date, Time",
    ]
    missing = {**MAPPING, "staff": [{"file": "staff.csv", "code": "Code"}]}
    assert problems(tmp_path, missing) == ["staff.csv: No such file or directory"]


def test_rules_between_parts(tmp_path: Path) -> None:
    source = {name: value for name, value in MAPPING["cancellations"][0].items() if name != "cancelled_on"}
    assert (
        "cancellations[0]: `cancelled_on` is missing" in problems(tmp_path, {**MAPPING, "cancellations": [source]})[0]
    )
    source = {**MAPPING["bookings"][0], "match": "date"}
    assert "`match` belongs to no_shows only" in problems(tmp_path, {**MAPPING, "bookings": [source]})[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n", "must hold names and values"),
        ("a: [", "is not YAML"),
        ("name: a\nname: b\n", "'name' stands twice"),
        ("name: !!python/object:os.system x\n", ""),
    ],
)
def test_what_is_no_mapping(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    with pytest.raises(MappingError) as told:
        load_mapping(path)
    assert expected in told.value.problems[0]


def test_a_time_is_never_read_as_a_number(tmp_path: Path) -> None:
    mapping = write(tmp_path, MAPPING)
    mapping.write_text(mapping.read_text().replace("'12:00'", "12:00"))
    assert load_mapping(mapping).payments[0].time.text == "12:00"


def test_branch_services_and_staff(plan: Plan) -> None:
    assert plan.requests["branches"][0].body == {
        "name": "Shop",
        "time_zone": "America/Toronto",
        "phone": "416 555 0100",
    }
    services = {request.key: request.body for request in plan.requests["services"]}
    assert services["FREE"] == {
        "code": "FREE",
        "name": "FREE",
        "duration_minutes": 45,
        "price": {"amount": 550, "currency": "CAD"},
    }
    branch = Reference("branches", "Shop")
    assert [request.body for request in plan.requests["staff"]] == [
        {"code": "JJ", "name": "Jay", "branch_ids": [branch]},
        {"code": "HOUSE", "name": "HOUSE", "branch_ids": [branch]},
    ]


def test_customers_are_the_union_with_the_earliest_day(plan: Plan) -> None:
    since = {request.key: request.body.get("customer_since") for request in plan.requests["customers"]}
    assert since == {
        "ANN": "2018-03-14T16:00:00Z",
        "BOB": "2018-04-13T16:00:00Z",
        "CYD": "2018-08-01T16:00:00Z",
        "DAN": None,
        "EVE": "2018-05-22T16:00:00Z",
        "unnamed": "2018-04-13T22:00:00Z",
    }
    assert plan.requests["customers"][0].body["external_id"] == "ANN"


def test_bookings_and_how_they_ended(plan: Plan) -> None:
    found = {(request.row.file, request.row.line): request.body for request in plan.requests["bookings"]}
    status = {place: body["status"] for place, body in found.items()}
    assert status == {
        ("bookings.csv", 2): "completed",
        ("bookings.csv", 3): "no_show",
        ("bookings.csv", 4): "completed",
        ("bookings.csv", 6): "completed",
        ("no_shows.csv", 3): "no_show",
        ("cancellations.csv", 2): "cancelled",
        ("cancellations.csv", 3): "cancelled",
        ("cancellations.csv", 5): "cancelled",
    }
    assert found["bookings.csv", 2]["starts_at"] == "2018-03-14T19:50:00Z"
    assert found["bookings.csv", 3]["customer_id"] == Reference("customers", "unnamed")
    assert found["bookings.csv", 6]["note"] == "Not known."
    ahead, late = found["cancellations.csv", 2], found["cancellations.csv", 5]
    assert (ahead["cancelled_at"], ahead["starts_at"]) == ("2018-05-22T16:00:00Z", "2018-05-24T16:00:00Z")
    assert (ahead["booked_at"], ahead["cancel_reason"]) == ("2018-05-22T16:00:00Z", "Cancelled by ADMIN")
    assert (late["booked_at"], late["cancelled_at"]) == ("2018-05-22T16:00:00Z", "2018-05-24T16:00:00Z")
    assert len({body["external_id"] for body in found.values()}) == len(found)


def test_payments(plan: Plan) -> None:
    found = {request.row.line: request.body for request in plan.requests["payments"]}
    assert found[2] == {
        "branch_id": Reference("branches", "Shop"),
        "method": "other",
        "occurred_at": "2018-03-15T16:00:00Z",
        "customer_id": Reference("customers", "ANN"),
        "staff_id": Reference("staff", "JJ"),
        "service_id": Reference("services", "CUT"),
        "description": "women's  HAIR cut",
        "kind": "sale",
        "amount": {"amount": 8200, "currency": "CAD"},
        "tax": {"amount": 1066, "currency": "CAD"},
        "external_id": found[2]["external_id"],
    }
    assert found[2]["external_id"].startswith("shop/payments/10/")
    assert found[3]["description"] == "2 × Shampoo"
    assert not {"service_id", "customer_id"} & found[3].keys()
    assert found[3]["tax"]["amount"] == 655
    assert found[4]["external_id"] == found[3]["external_id"] + "-2"
    assert (found[5]["kind"], found[5]["amount"]["amount"], found[5]["tax"]["amount"]) == ("refund", 8200, 1066)
    assert found[9]["description"] == "Goods"
    assert not {"service_id", "staff_id"} & found[9].keys()
    assert plan.money == {"sales": 8200 + 2 * 5040, "refunds": -8200, "tax": 2 * 655}


def test_every_row_that_is_not_taken_has_all_its_reasons(plan: Plan) -> None:
    found = {(bad.file, bad.line): bad.reason.split("; ") for bad in plan.bad_rows}
    assert len(found) == len(plan.bad_rows)
    assert found == {
        ("bookings.csv", 5): [
            "date: '04/32/2018' is not a date as %m/%d/%Y",
            "time: 'late' is not a time as %I:%M:%S %p",
            "service: there is no 'PERM' among the services of this import",
        ],
        ("cancellations.csv", 4): ["days_ahead: says 3, by its dates it is 2"],
        ("receipts.csv", 6): [
            "customer: there is no 'ZOE' among the customers of this import",
            "service: 'Nonsense' is neither a service nor among the goods",
            "amount: 1.005 has more digits than CAD has",
        ],
        ("receipts.csv", 7): ["tax: has another sign than the amount"],
        ("receipts.csv", 8): ["service: two services are called 'Twice'"],
    }


def test_remarks(plan: Plan) -> None:
    assert [(remark.file, remark.line, remark.text.partition(";")[0]) for remark in plan.remarks] == [
        ("bookings.csv", 3, "names no client"),
        ("bookings.csv", 6, "lies after 2018-07-29: how it ended is not known"),
        ("cancellations.csv", 3, "says the same as line 2"),
        ("cancellations.csv", 5, "does not say how many days ahead it was cancelled"),
        ("cancellations.csv", 5, "was cancelled 2 days after the day it was booked for"),
        ("no_shows.csv", 3, "no row of the bookings is like it"),
        ("receipts.csv", 3, "has a tax of more digits than its currency"),
        ("receipts.csv", 4, "has a tax of more digits than its currency"),
        ("receipts.csv", 4, "says the same as line 3"),
    ]


def test_rows_are_counted(plan: Plan) -> None:
    counts = {place: (c.rows, c.left_out, c.planned, c.matched) for place, c in plan.counts.items()}
    assert counts["bookings[0] (bookings.csv)"] == (5, 0, 4, 0)
    assert counts["no_shows[0] (no_shows.csv)"] == (2, 0, 1, 1)
    assert counts["cancellations[0] (cancellations.csv)"] == (4, 0, 3, 0)
    assert counts["payments[0] (receipts.csv)"] == (8, 0, 5, 0)


def test_keys_stay_the_same_when_rows_are_added(tmp_path: Path, plan: Plan) -> None:
    head, *rows = FILES["receipts.csv"].splitlines()
    more = "\n".join([head, "9,03/15/2018,Color,ANN,JJ,1,60,0,0", *reversed(rows)]) + "\n"
    again = make_plan(load_mapping(write(tmp_path, MAPPING, {**FILES, "receipts.csv": more})), tmp_path)
    before = {request.key for request in plan.requests["payments"]}
    after = {request.key for request in again.requests["payments"]}
    assert before < after
    assert len(after - before) == 1


def test_one_file_of_all_bookings_with_their_status(tmp_path: Path) -> None:
    rows = "No,Code,Staff,Service,Date,Time,State,Called off\n"
    rows += "1,ANN,JJ,CUT,03/14/2018,3:50:00 PM,Done,\n2,ANN,JJ,CUT,03/15/2018,3:50:00 PM,Off,03/13/2018\n"
    rows += "2,ANN,JJ,CUT,03/16/2018,3:50:00 PM,Done,\n3,ANN,JJ,CUT,03/17/2018,3:50:00 PM,Maybe,\n"
    rows += "4,ANN,JJ,CUT,03/18/2018,3:50:00 PM,Test,\n"
    source = {
        **{name: value for name, value in MAPPING["bookings"][0].items() if name != "known_until"},
        "status": {"column": "State", "values": {"Done": "completed", "Off": "cancelled"}},
        "cancelled_on": "Called off",
        "number": "No",
        "skip": {"State": "Test"},
    }
    mapping = {**MAPPING, "bookings": [source], "no_shows": [], "cancellations": [], "payments": []}
    plan = make_plan(load_mapping(write(tmp_path, mapping, {**FILES, "bookings.csv": rows})), tmp_path)
    assert [(request.key, request.body["status"]) for request in plan.requests["bookings"]] == [
        ("shop/bookings/1", "completed"),
        ("shop/bookings/2", "cancelled"),
    ]
    assert plan.requests["bookings"][1].body["cancelled_at"] == "2018-03-13T19:50:00Z"
    assert [(bad.line, bad.reason) for bad in plan.bad_rows] == [
        (4, "number: '2' stands on another row too"),
        (5, "status: 'Maybe' is none of completed, cancelled, no_show: translate it by `values`"),
    ]
    assert plan.counts["bookings[0] (bookings.csv)"].left_out == 1
