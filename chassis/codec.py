"""JSON ↔ message in the API's dialect, compiled once for each message type.

snake_case names (or the field's own json_name), enums in lower case without their prefix, times RFC 3339 in UTC, 64-bit
integers as numbers, bytes in base64; what is absent is absent. `encoder` writes straight-line Python for a type and
compiles it, which is 2-4 times faster than protobuf's own json_format; `decoder` reports every wrong field at once.

    encoder(descriptor)(message) -> dict         decoder(descriptor)(value, errors) -> message
    to_json(message) -> dict                     dumps(value) -> bytes
"""

from __future__ import annotations

import base64
import binascii
import functools
import keyword
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, OneofDescriptor
from google.protobuf.message import Message

from chassis.errors import FieldError, code_prefix

type_ = FieldDescriptor  # its TYPE_ constants

Encoder = Callable[[Any], dict[str, Any]]
Decoder = Callable[[Any, list[FieldError]], Any]
Reader = Callable[[Any, list[FieldError], str], Any]

TIMESTAMP = "google.protobuf.Timestamp"
MOST_CACHED_TIMES = 8192
UNSUPPORTED_PACKAGE = "google.protobuf"
SAFE_INTEGER = 2**53 - 1
EARLIEST_YEAR, LATEST_YEAR = 1900, 2200
INTEGERS: Mapping[int, tuple[int, int]] = {
    type_.TYPE_INT32: (-(2**31), 2**31 - 1),
    type_.TYPE_SINT32: (-(2**31), 2**31 - 1),
    type_.TYPE_SFIXED32: (-(2**31), 2**31 - 1),
    type_.TYPE_UINT32: (0, 2**32 - 1),
    type_.TYPE_FIXED32: (0, 2**32 - 1),
    type_.TYPE_INT64: (-SAFE_INTEGER, SAFE_INTEGER),
    type_.TYPE_SINT64: (-SAFE_INTEGER, SAFE_INTEGER),
    type_.TYPE_SFIXED64: (-SAFE_INTEGER, SAFE_INTEGER),
    type_.TYPE_UINT64: (0, SAFE_INTEGER),
    type_.TYPE_FIXED64: (0, SAFE_INTEGER),
}
# An amount left out must not quietly become 0: proto3 cannot tell, so the JSON side insists.
ALWAYS_REQUIRED = frozenset({"foyer.common.v1.Money.amount"})
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def json_name(field: FieldDescriptor) -> str:
    """Name of a field in JSON: its own json_name where the proto gives one, otherwise the proto's name."""
    head, *tail = field.name.split("_")
    default = head + "".join(part[:1].upper() + part[1:] for part in tail)
    return field.name if field.json_name == default else str(field.json_name)


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def is_timestamp(field: FieldDescriptor) -> bool:
    """Whether a field holds a time (or several)."""
    return field.message_type is not None and field.message_type.full_name == TIMESTAMP


@functools.cache
def enum_names(enum: EnumDescriptor) -> dict[int, str]:
    """Number → name in JSON of an enum's values: BOOKING_STATUS_NO_SHOW is "no_show"."""
    prefix = code_prefix(enum)
    return {value.number: value.name.removeprefix(prefix).lower() for value in enum.values}


@functools.cache
def enum_numbers(enum: EnumDescriptor) -> dict[str, int]:
    """Name in JSON → number of an enum's values, without the unspecified one."""
    return {name: number for number, name in enum_names(enum).items() if number}


def descriptor_of(message: Message) -> Descriptor:
    """Descriptor of a message."""
    descriptor: Any = message.DESCRIPTOR  # the stubs name two classes for one and the same
    return descriptor  # type: ignore[no-any-return]


def map_value(field: FieldDescriptor) -> FieldDescriptor:
    """The field that describes the values of a map."""
    entry = field.message_type
    if entry is None:
        raise TypeError(f"{field.full_name} is not a map")
    return entry.fields_by_name["value"]


def dumps(value: Any) -> bytes:
    """JSON bytes of what an encoder answered."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)


def to_json(message: Message) -> dict[str, Any]:
    """A message as a JSON value."""
    return encoder(descriptor_of(message))(message)


def time_text(moment: Any) -> str:
    """A protobuf Timestamp as RFC 3339 text in UTC."""
    # Slots and shifts come again and again; a moment with a fraction of a second does not.
    return _time_text(moment.seconds, moment.nanos) if moment.nanos else _whole_second_text(moment.seconds)


def _time_text(seconds: int, nanos: int) -> str:
    at = datetime.fromtimestamp(seconds, UTC)
    if nanos:
        at = at.replace(microsecond=nanos // 1000)
    return at.isoformat()[:-6] + "Z"


@functools.lru_cache(MOST_CACHED_TIMES)
def _whole_second_text(seconds: int) -> str:
    return _time_text(seconds, 0)


def _bytes_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- message → JSON ---

_encoders: dict[Descriptor, Encoder] = {}


def encoder(descriptor: Descriptor) -> Encoder:
    """The function that turns messages of a type into JSON values. Raises TypeError for types the dialect lacks."""
    known = _encoders.get(descriptor)
    if known is not None:
        return known
    # Stands in while a type that contains itself is being compiled.
    _encoders[descriptor] = functools.partial(_encode_late, descriptor)
    try:
        source, names = _encoder_source(descriptor)
    except TypeError:
        del _encoders[descriptor]
        raise
    exec(compile(source, f"<encoder of {descriptor.full_name}>", "exec"), names)  # noqa: S102 - our own contract
    compiled: Encoder = names["encode"]
    _encoders[descriptor] = compiled
    return compiled


def _encode_late(descriptor: Descriptor, message: Message) -> dict[str, Any]:
    return _encoders[descriptor](message)


def _encoder_source(descriptor: Descriptor) -> tuple[str, dict[str, Any]]:
    names: dict[str, Any] = {"time_text": time_text, "bytes_text": _bytes_text}
    lines = ["def encode(m):", "    r = {}"]
    for field in descriptor.fields:
        if keyword.iskeyword(field.name):
            raise TypeError(f"{field.full_name} is a word of Python; name it otherwise and give it a json_name")
        value, key = f"m.{field.name}", json_name(field)
        if is_map(field):
            one = _one(map_value(field), "v", names)
            lines.append(f"    r[{key!r}] = {{str(k): {one} for k, v in {value}.items()}}")
        elif field.is_repeated:
            one = _one(field, "v", names)
            whole = f"list({value})" if one == "v" else f"[{one} for v in {value}]"
            lines.append(f"    r[{key!r}] = {whole}")
        elif field.message_type is not None:
            lines.append(f"    if m.HasField({field.name!r}): r[{key!r}] = {_one(field, value, names)}")
        elif field.has_presence:
            one = _one(field, "v", names)
            lines.append(f"    if (v := {value}) or m.HasField({field.name!r}): r[{key!r}] = {one}")
        elif field.enum_type is not None:
            # An enum that says nothing is absent.
            lines.append(f"    if v := {value}: r[{key!r}] = {_one(field, 'v', names)}")
        else:
            lines.append(f"    r[{key!r}] = {_one(field, value, names)}")
    return "\n".join([*lines, "    return r\n"]), names


def _one(field: FieldDescriptor, value: str, names: dict[str, Any]) -> str:
    """Expression that turns one value of a field into JSON."""
    if is_timestamp(field):
        return f"time_text({value})"
    if field.message_type is not None:
        if field.message_type.file.package == UNSUPPORTED_PACKAGE:
            raise TypeError(f"{field.full_name}: the API's dialect has no {field.message_type.full_name}")
        name = "encode_" + field.message_type.full_name.replace(".", "_")
        names[name] = encoder(field.message_type)
        return f"{name}({value})"
    if field.enum_type is not None:
        name = "name_" + field.enum_type.full_name.replace(".", "_")
        names[name] = enum_names(field.enum_type)
        return f"{name}.get({value}, {value})"
    return f"bytes_text({value})" if field.type == type_.TYPE_BYTES else value


# --- JSON → message ---


@functools.cache
def decoder(descriptor: Descriptor, *, nulls: bool = True) -> Decoder:
    """The function that turns a JSON value into a message, and adds every wrong field to `errors`.

    What it answers lacks the fields that were wrong, so that the rules can be checked on the others; it is None when
    the value is no object. With `nulls` a field that is null counts as left out; without (a change of some fields)
    it is refused, since it could be meant to take the value away. Raises TypeError for types the dialect lacks.
    """
    read = _object_reader(descriptor, nulls)
    return lambda value, errors: read(value, errors, "")


@functools.cache
def _object_reader(descriptor: Descriptor, nulls: bool = True) -> Reader:
    make = message_factory.GetMessageClass(descriptor)
    readers: dict[str, tuple[str, Reader]] = {}
    known = ", ".join(json_name(field) for field in descriptor.fields) or "none"
    amounts = [json_name(field) for field in descriptor.fields if field.full_name in ALWAYS_REQUIRED]
    groups = [group for group in descriptor.oneofs if not group.name.startswith("_")]

    def read(value: Any, errors: list[FieldError], path: str) -> Any:
        if type(value) is not dict:
            errors.append(FieldError(path.rstrip(".") or "body", "type", "must be an object", "应为对象"))
            return None
        if not readers:  # compiled at first use: a type may contain itself
            readers.update({json_name(field): (field.name, _field_reader(field)) for field in descriptor.fields})
        given: dict[str, Any] = {}
        for key, item in value.items():
            reader = readers.get(key)
            if reader is None:
                errors.append(_unknown(path + key, known))
            elif item is not None:
                result = reader[1](item, errors, path + key)
                if result is not None:
                    given[reader[0]] = result
            elif not nulls:
                text = "must not be null; leave it out to keep it"
                errors.append(FieldError(path + key, "null", text, "不能为 null；不修改请省略"))
        if amounts:
            errors.extend(_required(path + name) for name in amounts if value.get(name) is None)
        for group in groups:
            errors.extend(_conflicts(group, given, path))
        return make(**given)

    return read


def _unknown(path: str, known: str) -> FieldError:
    return FieldError(path, "unknown", f"is not known; known are: {known}", f"未知字段；可用字段：{known}")


def _required(path: str) -> FieldError:
    return FieldError(path, "required", "is required", "必填")


def _conflicts(group: OneofDescriptor, given: Mapping[str, Any], path: str) -> list[FieldError]:
    """What is wrong when more than one field of a oneof was given."""
    both = [json_name(field) for field in group.fields if field.name in given]
    text = ", ".join(both)
    english, chinese = f"give only one of: {text}", f"只能填写其中一项：{text}"
    return [FieldError(path + name, "conflict", english, chinese) for name in both[1:]]


def _field_reader(field: FieldDescriptor) -> Reader:
    if is_map(field):
        return _map_reader(_value_reader(map_value(field)))
    one = _value_reader(field)
    return _list_reader(one) if field.is_repeated else one


def _map_reader(one: Reader) -> Reader:
    def read(value: Any, errors: list[FieldError], path: str) -> Any:
        if type(value) is not dict:
            errors.append(FieldError(path, "type", "must be an object", "应为对象"))
            return None
        read_items = ((key, one(item, errors, f"{path}.{key}")) for key, item in value.items())
        return {key: item for key, item in read_items if item is not None}

    return read


def _list_reader(one: Reader) -> Reader:
    def read(value: Any, errors: list[FieldError], path: str) -> Any:
        if type(value) is not list:
            errors.append(FieldError(path, "type", "must be a list", "应为数组"))
            return None
        return [item for i, each in enumerate(value) if (item := one(each, errors, f"{path}[{i}]")) is not None]

    return read


def _value_reader(field: FieldDescriptor) -> Reader:
    """Reader of one value of a field."""
    if is_timestamp(field):
        return _read_time
    if field.message_type is not None:
        if field.message_type.file.package == UNSUPPORTED_PACKAGE:
            raise TypeError(f"{field.full_name}: the API's dialect has no {field.message_type.full_name}")
        read = _object_reader(field.message_type)
        return lambda value, errors, path: read(value, errors, path + ".")
    if field.enum_type is not None:
        return _enum_reader(field.enum_type)
    if field.type in INTEGERS:
        return _integer_reader(*INTEGERS[field.type])
    return {type_.TYPE_STRING: _read_text, type_.TYPE_BOOL: _read_flag, type_.TYPE_BYTES: _read_bytes}.get(
        field.type, _read_number
    )


def _read_time(value: Any, errors: list[FieldError], path: str) -> datetime | None:
    try:
        if type(value) is not str or not RFC3339.fullmatch(value):
            raise ValueError
        at = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        text = "must be a time as RFC 3339 with offset, such as 2026-05-01T09:30:00+08:00"
        errors.append(FieldError(path, "time", text, "应为带时区偏移的 RFC 3339 时间，例如 2026-05-01T09:30:00+08:00"))
        return None
    if not EARLIEST_YEAR <= at.year <= LATEST_YEAR:
        span = f"{EARLIEST_YEAR}-{LATEST_YEAR}"
        errors.append(FieldError(path, "range", f"must be in the years {span}", f"年份应在 {span} 之间"))
        return None
    return at


def _enum_reader(enum: EnumDescriptor) -> Reader:
    numbers = enum_numbers(enum)
    names = ", ".join(numbers)

    def read(value: Any, errors: list[FieldError], path: str) -> Any:
        number = numbers.get(value) if type(value) is str else None
        if number is None:
            errors.append(FieldError(path, "enum", f"must be one of: {names}", f"应为以下之一：{names}"))
        return number

    return read


def _integer_reader(least: int, most: int) -> Reader:
    def read(value: Any, errors: list[FieldError], path: str) -> Any:
        if type(value) is not int:
            errors.append(FieldError(path, "type", "must be a whole number", "应为整数"))
            return None
        if not least <= value <= most:
            errors.append(FieldError(path, "range", f"must be from {least} to {most}", f"应在 {least} 到 {most} 之间"))
            return None
        return value

    return read


def _read_text(value: Any, errors: list[FieldError], path: str) -> str | None:
    if type(value) is not str:
        errors.append(FieldError(path, "type", "must be text", "应为文本"))
        return None
    if "\0" in value:  # PostgreSQL keeps no NUL
        errors.append(FieldError(path, "characters", "must not contain the character U+0000", "不能包含字符 U+0000"))
        return None
    return value


def _read_flag(value: Any, errors: list[FieldError], path: str) -> bool | None:
    if type(value) is not bool:
        errors.append(FieldError(path, "type", "must be true or false", "应为 true 或 false"))
        return None
    return value


def _read_number(value: Any, errors: list[FieldError], path: str) -> float | None:
    if type(value) not in (int, float) or not math.isfinite(value):
        errors.append(FieldError(path, "type", "must be a number", "应为数字"))
        return None
    return float(value)


def _read_bytes(value: Any, errors: list[FieldError], path: str) -> bytes | None:
    try:
        if type(value) is str:
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    errors.append(FieldError(path, "type", "must be base64", "应为 base64 文本"))
    return None
