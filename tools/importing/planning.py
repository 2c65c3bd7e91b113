"""A mapping and the files → what will be asked of the API, and what is wrong with which row. Values in, values out."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, time
from pathlib import Path
from typing import Any

from tools.importing.expressions import Formats, ValueProblem, as_text, rfc3339, same_name
from tools.importing.mapping import CustomersPart, Mapping, MappingError, OtherNames, Source
from tools.importing.reading import BadRow, ReadingError, Row, Table, read_table

SECTIONS = ("branches", "services", "staff", "customers", "bookings", "payments")
PATHS = {
    "branches": "/v1/branches",
    "services": "/v1/services",
    "staff": "/v1/staff",
    "customers": "/v1/customers",
    "bookings": "/v1/bookings:record",
    "payments": "/v1/payments",
}
DIGEST_CHARACTERS = 20
NOON = time(12)
UNIT_SEPARATOR = "\x1f"


@dataclass(frozen=True, slots=True)
class Reference:
    """The id of something that is made earlier in the import."""

    section: str
    key: str


@dataclass(slots=True)
class Request:
    """A thing to make. `key` is its name in its section and, outside, its code or external id."""

    section: str
    key: str
    body: dict[str, Any]
    row: Row

    @property
    def path(self) -> str:
        """Route that makes it."""
        return PATHS[self.section]


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about a row that is taken and yet worth knowing."""

    file: str
    line: int
    text: str


@dataclass(slots=True)
class Count:
    """What became of the rows of one source."""

    rows: int = 0
    left_out: int = 0
    planned: int = 0
    matched: int = 0


@dataclass(slots=True)
class Plan:
    """All that is to be done, in the order of SECTIONS."""

    mapping: Mapping
    requests: dict[str, list[Request]] = field(default_factory=lambda: {name: [] for name in SECTIONS})
    bad_rows: list[BadRow] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    counts: dict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    money: dict[str, int] = field(default_factory=lambda: {"sales": 0, "refunds": 0, "tax": 0})

    def refuse(self, row: Row, reason: str) -> None:
        """Note a row that cannot be taken."""
        self.bad_rows.append(BadRow(row.file, row.line, reason, row.cells))

    def remark(self, row: Row, text: str) -> None:
        """Note something about a row that is taken."""
        self.remarks.append(Remark(row.file, row.line, text))


@dataclass(slots=True)
class Planner:
    """What the sections share while a plan is made."""

    mapping: Mapping
    formats: Formats
    tables: dict[str, Table]
    plan: Plan
    known: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in SECTIONS})
    service_names: dict[str, str | None] = field(default_factory=dict)
    _digests: Counter[str] = field(default_factory=Counter)
    _first_lines: dict[str, int] = field(default_factory=dict)
    _numbers: set[str] = field(default_factory=set)
    _names: dict[OtherNames, set[str]] = field(default_factory=dict)

    @property
    def branch(self) -> Reference:
        """The branch everything belongs to."""
        return Reference("branches", self.mapping.branch.name)

    def rows(self, place: str, source: Source) -> Iterator[Row]:
        """The rows of a source that the mapping does not leave out."""
        count = self.plan.counts[f"{place} ({source.file})"]
        for row in self.tables[source.file].rows:
            count.rows += 1
            if any(as_text(row.cells[column]) in texts for column, texts in source.skip.items()):
                count.left_out += 1
            else:
                yield row

    def count(self, place: str, source: Source) -> Count:
        """The count of a source."""
        return self.plan.counts[f"{place} ({source.file})"]

    def row_key(self, row: Row) -> str:
        """A name for a row that is the same when it is read again: a digest of its content, numbered among equals."""
        content = UNIT_SEPARATOR.join([row.file, *map(as_text, row.cells.values())])
        digest = hashlib.sha256(content.encode()).hexdigest()[:DIGEST_CHARACTERS]
        self._digests[digest] += 1
        number = self._digests[digest]
        if number == 1:
            self._first_lines[digest] = row.line
            return digest
        self.plan.remark(row, f"says the same as line {self._first_lines[digest]}; taken as a row of its own")
        return f"{digest}-{number}"

    def names_in(self, other: OtherNames) -> set[str]:
        """The names a column of another file holds."""
        if other not in self._names:
            rows = self.tables[other.file].rows
            self._names[other] = {same_name(as_text(row.cells[other.column])) for row in rows}
        return self._names[other]

    def claim(self, number: str) -> bool:
        """Whether a number has not been seen before."""
        before = len(self._numbers)
        self._numbers.add(number)
        return len(self._numbers) > before

    def record(self, section: str, key: str, body: dict[str, Any], row: Row) -> None:
        """Add a request."""
        self.known[section].add(key)
        self.plan.requests[section].append(Request(section, key, body, row))

    def reference(self, section: str, code: str, what: str) -> Reference:
        """The thing a row names. Raises ValueProblem when it is not part of the import."""
        if not code:
            raise ValueProblem(f"{what}: is empty")
        if code not in self.known[section]:
            raise ValueProblem(f"{what}: there is no {code!r} among the {section} of this import")
        return Reference(section, code)


def read_tables(mapping: Mapping, folder: Path) -> dict[str, Table]:
    """Read every file the mapping names. Raises MappingError with all that is wrong with files and columns."""
    tables: dict[str, Table] = {}
    problems: list[str] = []
    for name, shape in mapping.shapes().items():
        try:
            tables[name] = read_table(folder, name, shape)
        except ReadingError as problem:
            problems.append(str(problem))
    if not problems:
        problems = mapping.check_columns(tables)
    if problems:
        raise MappingError(problems)
    return tables


def make_plan(mapping: Mapping, folder: Path) -> Plan:
    """Read the files and plan the import. Raises MappingError; what is wrong with single rows is in the plan."""
    from tools.importing import sections

    tables = read_tables(mapping, folder)
    plan = Plan(mapping)
    planner = Planner(mapping, mapping.formats_of(), tables, plan)
    for table in tables.values():
        plan.bad_rows += table.bad_rows
    _branch(planner)
    _services(planner)
    _staff(planner)
    if mapping.customers is not None:
        _customers(planner, mapping.customers)
    sections.bookings(planner)
    sections.payments(planner)
    plan.bad_rows.sort(key=lambda bad: (bad.file, bad.line))
    plan.remarks.sort(key=lambda remark: (remark.file, remark.line))
    return plan


def _branch(planner: Planner) -> None:
    part = planner.mapping.branch
    body = {"name": part.name, "time_zone": part.time_zone or planner.mapping.time_zone}
    body |= {name: text for name, text in (("address", part.address), ("phone", part.phone)) if text}
    planner.record("branches", part.name, body, Row("the mapping", 0, {}))


def _services(planner: Planner) -> None:
    for number, source in enumerate(planner.mapping.services):
        place = f"services[{number}]"
        for row in planner.rows(place, source):
            try:
                _service(planner, dict(source.makers()), row)
                planner.count(place, source).planned += 1
            except ValueProblem as problem:
                planner.plan.refuse(row, str(problem))


def _service(planner: Planner, make: dict[str, Any], row: Row) -> None:
    values = {name: expression.read(row) for name, expression in make.items()}
    code = values["code"]
    if not code or not values["name"]:
        raise ValueProblem(f"{'name' if code else 'code'}: is empty")
    if code in planner.known["services"]:
        raise ValueProblem(f"code: there is already a service {code!r}")
    minutes = planner.formats.decimal(values["duration_minutes"], "duration_minutes")
    if minutes != int(minutes):
        raise ValueProblem(f"duration_minutes: {minutes} is not a whole number")
    price = planner.formats.minor_units(planner.formats.decimal(make["price"].cell(row), "price"), "price")
    body: dict[str, Any] = {"code": code, "name": values["name"], "duration_minutes": int(minutes)}
    body |= {name: values[name] for name in ("name_en", "category") if values.get(name)}
    body["price"] = {"amount": price, "currency": planner.formats.currency}
    planner.record("services", code, body, row)
    name = same_name(values["name"])
    # A name that two services have stands for neither.
    planner.service_names[name] = None if name in planner.service_names else code


def _staff(planner: Planner) -> None:
    for number, source in enumerate(planner.mapping.staff):
        place = f"staff[{number}]"
        make = dict(source.makers())
        for row in planner.rows(place, source):
            code = make["code"].read(row)
            if not code or code in planner.known["staff"]:
                continue
            name = make["name"].read(row) if "name" in make else code
            body: dict[str, Any] = {"code": code, "name": name or code, "branch_ids": [planner.branch]}
            if "title" in make and make["title"].read(row):
                body["title"] = make["title"].read(row)
            planner.record("staff", code, body, row)
            planner.count(place, source).planned += 1


def _customers(planner: Planner, part: CustomersPart) -> None:
    """Customers of all sources; each field from the first source that fills it, `since` the earliest day of all."""
    found: dict[str, tuple[dict[str, Any], Row]] = {}
    since: dict[str, datetime] = {}
    for number, source in enumerate(part.sources):
        place = f"customers.sources[{number}]"
        make = {name: maker for name, maker in source.makers() if name != "since"}
        days = [expression for name, expression in source.makers() if name == "since"]
        for row in planner.rows(place, source):
            values = {name: maker.read(row) for name, maker in make.items()}
            code = values.pop("code")
            if not code or code in part.skip_codes:
                continue
            if code not in found:
                found[code] = ({}, row)
                planner.count(place, source).planned += 1
            for name, text in values.items():
                if text:
                    found[code][0].setdefault(name, text)
            for moment in _moments(planner, days, row):
                since[code] = min(moment, since.get(code, moment))
    for code, (fields, row) in found.items():
        body = {"external_id": code, "name": code} | fields | {"home_branch_id": planner.branch}
        if part.language:
            body["language"] = part.language
        if code in since:
            body["customer_since"] = rfc3339(since[code])
        planner.record("customers", code, body, row)


def _moments(planner: Planner, days: Iterable[Any], row: Row) -> Iterator[datetime]:
    """Noon of the days a row names; a day that cannot be read is told where the row itself is used."""
    for expression in days:
        try:
            yield planner.formats.moment(planner.formats.day(expression.cell(row), "since"), NOON, "since")
        except ValueProblem:
            continue


__all__ = ["Plan", "Planner", "Reference", "Remark", "Request", "make_plan", "read_tables"]
