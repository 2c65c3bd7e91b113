"""Lists as CSV: for whoever asks with `Accept: text/csv`.

One row an entry, one column a plain field; money and other messages inside an entry get a column for each of their
fields (`price.amount`), lists of texts are joined by "; ", and what is deeper is JSON. A cell that a spreadsheet would
take for a formula gets an apostrophe in front, unless it is a number.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from chassis.codec import is_map, is_timestamp, json_name

FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
DEEPEST = 3


def rows_field(descriptor: Descriptor) -> FieldDescriptor | None:
    """The field of an answer that holds its rows; None when the answer is a single thing.

    Where there are several lists, it is the one that the answer begins with.
    """
    lists = [
        field
        for field in descriptor.fields
        if field.is_repeated and field.message_type is not None and not is_map(field) and not is_timestamp(field)
    ]
    if not lists or "id" in descriptor.fields_by_name:
        return None
    return lists[0] if len(lists) == 1 or lists[0].number == 1 else None


def columns(descriptor: Descriptor, depth: int = 1) -> Iterator[str]:
    """Names of the columns for entries of a type, in the order of the proto."""
    for field in descriptor.fields:
        name = json_name(field)
        inner = field.message_type
        if inner is None or field.is_repeated or is_timestamp(field) or depth == DEEPEST:
            yield name
        else:
            yield from (f"{name}.{below}" for below in columns(inner, depth + 1))


def cell(value: Any) -> str:
    """A value as the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = "; ".join(value)
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return f"'{text}" if text.startswith(FORMULA_BEGINNINGS) and not NUMBER.fullmatch(text) else text


def to_csv(field: FieldDescriptor, answer: dict[str, Any]) -> bytes:
    """The rows of an answer, already in its JSON form, as CSV (RFC 4180) in UTF-8 with a line of names."""
    entry = field.message_type
    if entry is None:
        raise TypeError(f"{field.full_name} holds no rows")
    names = list(columns(entry))
    paths = [name.split(".") for name in names]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([cell(_at(row, path)) for path in paths] for row in answer[json_name(field)])
    return text.getvalue().encode()


def _at(row: Any, path: list[str]) -> Any:
    for name in path:
        row = row.get(name) if isinstance(row, dict) else None
    return row
