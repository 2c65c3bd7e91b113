"""Reads the files of an export: CSV and Excel, as rows of cells with the line each begins on. Everything is bounded."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

import python_calamine

MOST_FILE_BYTES = 64 * 1024 * 1024
MOST_UNPACKED_BYTES = 512 * 1024 * 1024
MOST_ROWS = 500_000
MOST_COLUMNS = 300
MOST_CELL_CHARACTERS = 20_000
DAY_SECONDS = 24 * 3600
EXCEL_SUFFIXES = frozenset({".xlsx", ".xlsm", ".xls", ".xlsb", ".ods"})
ZIPPED_SUFFIXES = frozenset({".xlsx", ".xlsm", ".xlsb", ".ods"})

Cell: TypeAlias = str | date | time
"""Text as it stands in a CSV file; Excel also knows dates (with or without a time) and times."""


class ReadingError(Exception):
    """A file cannot be read at all; the text names it and says why."""


@dataclass(frozen=True, slots=True)
class FileShape:
    """How a file is to be read."""

    path: str
    encoding: str = "utf-8-sig"
    delimiter: str = ","
    sheet: str | None = None
    header_line: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    """A row with content. `line` is where it begins in its file, the first line being 1."""

    file: str
    line: int
    cells: dict[str, Cell]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is not taken, and why."""

    file: str
    line: int
    reason: str
    cells: dict[str, Cell] = field(default_factory=dict)


@dataclass(slots=True)
class Table:
    """A file that was read: its columns, its rows, and the rows that have another shape than the header."""

    name: str
    columns: list[str]
    rows: list[Row]
    bad_rows: list[BadRow]


def read_table(folder: Path, name: str, shape: FileShape) -> Table:
    """Read one file of an export; `name` is what the mapping calls it. Raises ReadingError."""
    path = (folder / shape.path).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ReadingError(f"{shape.path}: lies outside {folder}")
    try:
        size = path.stat().st_size
    except OSError as problem:
        raise ReadingError(f"{shape.path}: {problem.strerror or problem}") from problem
    if not path.is_file():
        raise ReadingError(f"{shape.path}: is not a file")
    if size > MOST_FILE_BYTES:
        raise ReadingError(f"{shape.path}: {size} bytes, at most {MOST_FILE_BYTES} are read")
    if path.suffix.lower() in EXCEL_SUFFIXES:
        return _table(name, shape, _excel_lines(path, shape))
    return _table(name, shape, _csv_lines(path, shape))


def _table(name: str, shape: FileShape, lines: Iterator[tuple[int, list[Cell]]]) -> Table:
    """Rows below the header. A row that does not fit the header is bad, one without content is passed over."""
    columns: list[str] | None = None
    table = Table(name, [], [], [])
    for line, cells in lines:
        if line < shape.header_line:
            continue
        if columns is None:
            columns = table.columns = _header(shape, cells)
            continue
        if not any(cell != "" for cell in cells):
            continue
        if len(table.rows) + len(table.bad_rows) >= MOST_ROWS:
            raise ReadingError(f"{shape.path}: more than {MOST_ROWS} rows")
        while len(cells) > len(columns) and cells[-1] == "":
            cells.pop()
        row = dict(zip(columns, cells, strict=False))
        if len(cells) != len(columns):
            reason = f"has {len(cells)} cells, the header has {len(columns)}"
            table.bad_rows.append(BadRow(name, line, reason, row))
        elif any(isinstance(cell, str) and len(cell) > MOST_CELL_CHARACTERS for cell in cells):
            reason = f"has a cell of more than {MOST_CELL_CHARACTERS} characters"
            table.bad_rows.append(BadRow(name, line, reason, row))
        else:
            table.rows.append(Row(name, line, row))
    if columns is None:
        raise ReadingError(f"{shape.path}: has no header in line {shape.header_line}")
    return table


def _header(shape: FileShape, cells: list[Cell]) -> list[str]:
    columns = [str(cell).strip() for cell in cells]
    while columns and not columns[-1]:
        columns.pop()
    if not columns:
        raise ReadingError(f"{shape.path}: has no header in line {shape.header_line}")
    if len(columns) > MOST_COLUMNS:
        raise ReadingError(f"{shape.path}: {len(columns)} columns, at most {MOST_COLUMNS} are read")
    doubled = sorted({column for column in columns if columns.count(column) > 1})
    if doubled:
        named = ", ".join(repr(column) for column in doubled)
        raise ReadingError(f"{shape.path}: the header names twice: {named}")
    return columns


def _csv_lines(path: Path, shape: FileShape) -> Iterator[tuple[int, list[Cell]]]:
    try:
        with path.open(encoding=shape.encoding, newline="") as file:
            reader = csv.reader(file, delimiter=shape.delimiter, strict=True)
            begins_at = 1
            for cells in reader:
                yield begins_at, [cell.strip() for cell in cells]
                begins_at = reader.line_num + 1
    except (csv.Error, LookupError) as problem:
        raise ReadingError(f"{shape.path}: {problem}") from problem
    except UnicodeDecodeError as problem:
        text = f"is not {shape.encoding} at byte {problem.start}: name its encoding in the mapping's `files`"
        raise ReadingError(f"{shape.path}: {text}") from problem


def _excel_lines(path: Path, shape: FileShape) -> Iterator[tuple[int, list[Cell]]]:
    try:
        _check_unpacked(path, shape)
        with python_calamine.load_workbook(path) as workbook:
            name = shape.sheet if shape.sheet is not None else workbook.sheet_names[0]
            if name not in workbook.sheet_names:
                raise ReadingError(f"{shape.path}: has no sheet {name!r}; it has: {', '.join(workbook.sheet_names)}")
            sheet = workbook.get_sheet_by_name(name)
            if sheet.total_height > MOST_ROWS or sheet.total_width > MOST_COLUMNS:
                raise ReadingError(
                    f"{shape.path}: sheet {name!r} is larger than {MOST_ROWS} rows, {MOST_COLUMNS} columns"
                )
            for line, cells in enumerate(sheet.to_python(skip_empty_area=False), start=1):
                yield line, [_excel_cell(cell) for cell in cells]
    except (python_calamine.CalamineError, zipfile.BadZipFile, OSError, IndexError) as problem:
        raise ReadingError(f"{shape.path}: cannot be read as a workbook: {problem}") from problem


def _check_unpacked(path: Path, shape: FileShape) -> None:
    if path.suffix.lower() not in ZIPPED_SUFFIXES:
        return
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MOST_UNPACKED_BYTES:
        raise ReadingError(f"{shape.path}: {size} bytes unpacked, at most {MOST_UNPACKED_BYTES} are read")


def _excel_cell(value: float | str | bool | date | time | timedelta) -> Cell:
    """A cell as text, date or time. A number becomes the shortest text that stands for it: 4.032 stays 4.032."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int | float):
        text = format(Decimal(repr(value)), "f")
        return re.sub(r"\.0+$", "", text)
    if isinstance(value, timedelta):
        seconds = round(value.total_seconds())
        return time(seconds // 3600, seconds // 60 % 60, seconds % 60) if 0 <= seconds < DAY_SECONDS else str(value)
    return value.strip() if isinstance(value, str) else value
