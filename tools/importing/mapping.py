"""The mapping file: what is what in an export. It is checked as a whole, and all its mistakes are told at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tools.importing.expressions import DATE_FORMATS, TIME_FORMATS, Expression, Formats
from tools.importing.reading import FileShape, Table

LARGEST_MAPPING_BYTES = 1024 * 1024
LANGUAGE = Literal["zh", "en"]
ROUNDING = Literal["half_up", "half_even"]

MATCHED = Literal["date", "time", "customer", "service", "staff"]


class MappingError(Exception):
    """The mapping is wrong; `problems` holds one sentence for each thing to put right."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Part(BaseModel):
    """A part of the mapping. A name that is not known is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Maker(Part):
    """How a field is made, written out."""

    column: str | None = None
    text: str | None = None
    values: dict[str, str] | None = None
    otherwise: str | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Maker:
        if (self.column is None) == (self.text is None):
            raise ValueError("name either `column` or `text`")
        return self


def _one(value: Any) -> Any:
    """A bare name is a column."""
    return {"column": value} if isinstance(value, str) else value


def _expression(maker: Maker) -> Expression:
    return Expression(maker.column, maker.text, maker.values, maker.otherwise)


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{text!r} is not an IANA time zone such as America/Toronto") from None
    return text


Made: TypeAlias = Annotated[Maker, BeforeValidator(_one)]
Columns: TypeAlias = Annotated[list[Made], BeforeValidator(_listed), Field(max_length=20)]
Texts: TypeAlias = Annotated[list[str], BeforeValidator(_listed), Field(max_length=1000)]
Zone: TypeAlias = Annotated[str, AfterValidator(_zone)]


class FormatPart(Part):
    """How the export writes things."""

    date: Texts = Field(default_factory=lambda: list(DATE_FORMATS))
    time: Texts = Field(default_factory=lambda: list(TIME_FORMATS))
    decimal_point: Literal[".", ","] = "."
    thousands: Literal[",", ".", "'", ""] = ","


class FilePart(Part):
    """How one file is read, where it differs from the usual."""

    path: str | None = None
    encoding: str = "utf-8-sig"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    sheet: str | None = None
    header_line: Annotated[int, Field(ge=1, le=1000)] = 1


class BranchPart(Part):
    """The branch everything belongs to; taken when one of this name is there."""

    name: Annotated[str, Field(min_length=1, max_length=120)]
    address: str | None = None
    phone: str | None = None
    time_zone: Zone | None = None


class Source(Part):
    """Rows of a file. `skip` leaves out rows by the exact text of a column."""

    file: str
    skip: dict[str, Texts] = Field(default_factory=dict)

    def makers(self) -> Iterator[tuple[str, Expression]]:
        """Its fields that come from columns, each with its name."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            for maker in value if isinstance(value, list) else [value]:
                if isinstance(maker, Maker):
                    yield name, _expression(maker)

    def make(self, name: str) -> Expression | None:
        """How one field is made; None when the mapping does not say."""
        maker = getattr(self, name)
        return _expression(maker) if isinstance(maker, Maker) else None


class ServiceSource(Source):
    """Services: one for each code."""

    code: Made
    name: Made
    name_en: Made | None = None
    category: Made | None = None
    price: Made
    duration_minutes: Made


class StaffSource(Source):
    """Staff: one for each code found; the first source that has it names it."""

    code: Made
    name: Made | None = None
    title: Made | None = None


class CustomerSource(Source):
    """Customers: one for each code found; the first source that has it names it."""

    code: Made
    name: Made | None = None
    phone: Made | None = None
    email: Made | None = None
    level: Made | None = None
    notes: Made | None = None
    since: Columns = Field(default_factory=list)


class Unnamed(Part):
    """Stands for the client of a booking whose row names none."""

    code: Annotated[str, Field(min_length=1, max_length=100)]
    name: Annotated[str, Field(min_length=1, max_length=120)]


class CustomersPart(Part):
    """Customers, from one or several files."""

    sources: Annotated[list[CustomerSource], Field(min_length=1, max_length=50)]
    skip_codes: Texts = Field(default_factory=list)
    language: LANGUAGE | None = None
    unnamed: Unnamed | None = None


class OtherNames(Part):
    """A column of another file whose texts are known and stand for no service: goods."""

    file: str
    column: str


class ServiceMaker(Maker):
    """How a service is named: by `code` or by `name`. `goods` lists what is sold but is no service."""

    by: Literal["code", "name"] = "code"
    goods: OtherNames | None = None


ServiceMade: TypeAlias = Annotated[ServiceMaker, BeforeValidator(_one)]


class KnownUntil(Part):
    """Last day whose outcome the export knows; bookings after it get `note`."""

    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    note: Annotated[str, Field(min_length=1, max_length=2000)]


class BookingSource(Source):
    """Bookings from before."""

    date: Made
    time: Made
    customer: Made
    staff: Made
    service: ServiceMade
    status: Made | None = None
    booked_on: Made | None = None
    cancelled_on: Made | None = None
    cancelled_time: Made | None = None
    days_ahead: Made | None = None
    reason: Made | None = None
    price: Made | None = None
    note: Made | None = None
    number: Made | None = None
    known_until: KnownUntil | None = None
    match: Annotated[list[MATCHED], BeforeValidator(_listed)] = Field(default_factory=list)


class PaymentSource(Source):
    """Money taken or given back; an amount below 0 was given back."""

    date: Made
    time: Made
    amount: Made
    tax: Columns = Field(default_factory=list)
    tax_rounding: ROUNDING | None = None
    method: Made
    customer: Made | None = None
    walk_in: Texts = Field(default_factory=list)
    staff: Made | None = None
    service: ServiceMade | None = None
    description: Made
    quantity: Made | None = None
    number: Made | None = None


def _sources(kind: str) -> Any:
    return Field(default_factory=list, max_length=50, description=kind)


class Mapping(Part):
    """A whole mapping file."""

    version: Literal["1"]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    time_zone: Zone
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    formats: FormatPart = Field(default_factory=FormatPart)
    files: dict[str, FilePart] = Field(default_factory=dict)
    branch: BranchPart
    services: list[ServiceSource] = _sources("services")
    staff: list[StaffSource] = _sources("staff")
    customers: CustomersPart | None = None
    bookings: list[BookingSource] = _sources("bookings")
    no_shows: list[BookingSource] = _sources("no-shows")
    cancellations: list[BookingSource] = _sources("cancellations")
    payments: list[PaymentSource] = _sources("payments")

    @model_validator(mode="after")
    def _whole(self) -> Mapping:
        wrong = [f"cancellations[{i}]" for i, source in enumerate(self.cancellations) if source.cancelled_on is None]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: `cancelled_on` is missing")
        if any(source.match for source in [*self.bookings, *self.cancellations]):
            raise ValueError("`match` belongs to no_shows only: by what a row finds its booking")
        return self

    def sources(self) -> Iterator[tuple[str, Source]]:
        """All sources, each with its place in the mapping."""
        customers = self.customers.sources if self.customers else []
        parts: dict[str, list[Any]] = {"services": self.services, "staff": self.staff, "customers.sources": customers}
        parts |= {name: getattr(self, name) for name in ("bookings", "no_shows", "cancellations", "payments")}
        for name, sources in parts.items():
            for number, source in enumerate(sources):
                yield f"{name}[{number}]", source

    def shapes(self) -> dict[str, FileShape]:
        """Every file that is named, and how it is read."""
        names = {source.file for _, source in self.sources()} | {goods.file for _, goods in self._goods()}
        shapes = {}
        for name in sorted(names):
            part = self.files.get(name, FilePart())
            shapes[name] = FileShape(part.path or name, part.encoding, part.delimiter, part.sheet, part.header_line)
        return shapes

    def formats_of(self) -> Formats:
        """How dates, times and numbers are read."""
        part = self.formats
        zone = ZoneInfo(self.time_zone)
        return Formats(zone, self.currency, part.date, part.time, part.decimal_point, part.thousands)

    def check_columns(self, tables: dict[str, Table]) -> list[str]:
        """What the files do not have although the mapping names it."""
        wanted = [
            (f"{place}.{name}", source.file, column)
            for place, source in self.sources()
            for name, expression in source.makers()
            for column in expression.columns
        ]
        wanted += [(f"{place}.skip", source.file, column) for place, source in self.sources() for column in source.skip]
        wanted += [(f"{place}.goods", goods.file, goods.column) for place, goods in self._goods()]
        return [
            f"{place}: {file} has no column {column!r}; it has: {', '.join(tables[file].columns)}"
            for place, file, column in wanted
            if column not in tables[file].columns
        ]

    def _goods(self) -> Iterator[tuple[str, OtherNames]]:
        for place, source in self.sources():
            maker = getattr(source, "service", None)
            if isinstance(maker, ServiceMaker) and maker.goods is not None:
                yield f"{place}.service", maker.goods


class _Texts(yaml.BaseLoader):
    """Every scalar is text: 12:00 is no number of minutes and NO no false. A key that stands twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", node.start_mark)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file. Raises MappingError."""
    try:
        if path.stat().st_size > LARGEST_MAPPING_BYTES:
            raise MappingError([f"{path}: larger than {LARGEST_MAPPING_BYTES} bytes"])
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Texts)  # noqa: S506 - makes texts only
    except OSError as problem:
        raise MappingError([f"{path}: {problem.strerror or problem}"]) from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise MappingError([f"{path}: is not YAML: {' '.join(str(problem).split())}"]) from problem
    if not isinstance(content, dict):
        raise MappingError([f"{path}: must hold names and values"])
    try:
        return Mapping.model_validate(content)
    except ValidationError as problem:
        raise MappingError([_sentence(error) for error in problem.errors()]) from problem


def _sentence(error: Any) -> str:
    place = ""
    for part in error["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    text = {"extra_forbidden": "is not known here", "missing": "is missing"}.get(error["type"], error["msg"])
    return f"{place or 'the mapping'}: {text.removeprefix('Value error, ')}"
