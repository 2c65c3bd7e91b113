"""Rows of the database as messages, compiled once for each message type and set of columns.

Fields map to columns of the same name. A Money field `price` takes `price_amount` and `price_currency`, or `currency`
where all money of a row is of one currency. An enum field takes its lower-case name. A column that is null leaves the
field unset. What maps otherwise is given as a function of the row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import asyncpg
from foyer.common.v1.common_pb2 import Money
from google.protobuf.message import Message

from chassis.codec import enum_names, enum_numbers

M = TypeVar("M", bound=Message)

MONEY = Money.DESCRIPTOR.full_name
TIMESTAMP = "google.protobuf.Timestamp"


def enum_name(message_type: type[Message], field_name: str, number: int) -> str:
    """Lower-case name of an enum field's value: how it is stored."""
    return _names(message_type, field_name)[number]


_name_cache: dict[tuple[type[Message], str], dict[int, str]] = {}


def _names(message_type: type[Message], field_name: str) -> dict[int, str]:
    key = (message_type, field_name)
    names = _name_cache.get(key)
    if names is None:
        enum = message_type.DESCRIPTOR.fields_by_name[field_name].enum_type
        names = _name_cache[key] = enum_names(enum)
    return names


def money_of(amount: int | None, currency: str) -> Money | None:
    """Money of an amount that may be null."""
    return None if amount is None else Money(amount=amount, currency=currency)


def projector(message_type: type[M], **overrides: Callable[[asyncpg.Record], Any]) -> Callable[[asyncpg.Record], M]:
    """A function from a row to a message. Raises TypeError for an override that is not a field."""
    unknown = set(overrides) - set(message_type.DESCRIPTOR.fields_by_name)
    if unknown:
        raise TypeError(f"{message_type.DESCRIPTOR.full_name} has no {', '.join(sorted(unknown))}")
    compiled: dict[tuple[str, ...], Callable[[asyncpg.Record], M]] = {}

    def project(row: asyncpg.Record) -> M:
        keys = tuple(row.keys())
        mapping = compiled.get(keys)
        if mapping is None:
            mapping = compiled[keys] = _compile(message_type, frozenset(keys), overrides)
        return mapping(row)

    return project


def _compile(
    message_type: type[M], columns: frozenset[str], overrides: dict[str, Callable[[asyncpg.Record], Any]]
) -> Callable[[asyncpg.Record], M]:
    names: dict[str, Any] = {"Message": message_type, "money_of": money_of}
    arguments: list[str] = []
    for field in message_type.DESCRIPTOR.fields:
        name = field.name
        if name in overrides:
            names[f"override_{name}"] = overrides[name]
            arguments.append(f"{name}=override_{name}(row)")
        elif field.message_type is not None and field.message_type.full_name == MONEY:
            if f"{name}_amount" in columns:
                currency = f"{name}_currency" if f"{name}_currency" in columns else "currency"
                arguments.append(f"{name}=money_of(row['{name}_amount'], row['{currency}'])")
        elif name in columns:
            if field.enum_type is not None:
                names[f"numbers_{name}"] = enum_numbers(field.enum_type)
                arguments.append(f"{name}=numbers_{name}[row['{name}']]")
            else:
                arguments.append(f"{name}=row['{name}']")
    source = f"def project(row):\n    return Message({', '.join(arguments)})\n"
    exec(compile(source, f"<projector of {message_type.DESCRIPTOR.full_name}>", "exec"), names)  # noqa: S102
    project: Callable[[asyncpg.Record], M] = names["project"]
    return project
