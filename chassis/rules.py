"""The rules of the protos (protovalidate), told field by field in English and Chinese.

violations(message) -> list[FieldError]           every broken rule, one a field, paths as in JSON
violations(message, errors) -> list[FieldError]   the same after what decoding found already
required_fields(descriptor)                       names in JSON of the fields that cannot be left out
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import protovalidate
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from protovalidate import FieldPathPb

from chassis.codec import ALWAYS_REQUIRED, descriptor_of, enum_names, json_name
from chassis.errors import FieldError, first_per_field

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")

# Rule's name without its type → (code, English, Chinese); {0}, {1} are the rule's numbers, {values} its choices.
TEXTS: dict[str, tuple[str, str, str]] = {
    "required": ("required", "is required", "必填"),
    "uuid": ("id", "must be an id (a UUID)", "应为编号（UUID）"),
    "uuid_empty": ("id", "must be an id (a UUID)", "应为编号（UUID）"),
    "email": ("email", "must be an e-mail address", "应为有效的邮箱地址"),
    "email_empty": ("email", "must be an e-mail address", "应为有效的邮箱地址"),
    "min_len": ("too_short", "must have at least {0} characters", "至少 {0} 个字符"),
    "max_len": ("too_long", "must have at most {0} characters", "最多 {0} 个字符"),
    "len": ("length", "must have exactly {0} characters", "必须为 {0} 个字符"),
    "gte_lte": ("range", "must be from {0} to {1}", "应在 {0} 到 {1} 之间"),
    "gte": ("range", "must be {0} or more", "应不小于 {0}"),
    "lte": ("range", "must be {0} or less", "应不大于 {0}"),
    "gt": ("range", "must be more than {0}", "应大于 {0}"),
    "lt": ("range", "must be less than {0}", "应小于 {0}"),
    "in": ("enum", "must be one of: {values}", "应为以下之一：{values}"),
    "not_in": ("enum", "must be one of: {values}", "应为以下之一：{values}"),
    "defined_only": ("enum", "must be one of: {values}", "应为以下之一：{values}"),
    "min_items": ("too_few", "must have at least {0} entries", "至少 {0} 项"),
    "max_items": ("too_many", "must have at most {0} entries", "最多 {0} 项"),
    "unique": ("repeated", "must not name anything twice", "不能有重复项"),
    "min_pairs": ("too_few", "must have at least {0} entries", "至少 {0} 项"),
    "max_pairs": ("too_many", "must have at most {0} entries", "最多 {0} 项"),
    "pattern": ("format", "must match {0}", "格式应符合 {0}"),
}
BYTES_TEXTS = {
    "bytes.min_len": ("too_short", "must have at least {0} bytes", "至少 {0} 字节"),
    "bytes.max_len": ("too_long", "must have at most {0} bytes", "最多 {0} 字节"),
}

# Pattern → what it asks for, in words. A pattern that is not here is shown as it is.
PATTERNS: dict[str, tuple[str, str]] = {
    r"^[+]?[0-9][0-9 ().-]{2,30}$": (
        "must be a phone number: digits, with + for the country code",
        "应为电话号码：数字，国际区号以 + 开头",
    ),
    r"^[0-9a-fA-F-]{36}$": ("must be an id (a UUID)", "应为编号（UUID）"),
    r"^[^@ ]+@[^@ ]+$": ("must be an e-mail address", "应为有效的邮箱地址"),
    r"^[a-z][a-z0-9_]{0,59}$": (
        "must be small letters, digits and underscores, beginning with a letter",
        "应由小写字母、数字和下划线组成，并以字母开头",
    ),
    r"^[a-z][a-z0-9_]{1,59}$": (
        "must be 2 to 60 small letters, digits and underscores, beginning with a letter",
        "应由 2 到 60 个小写字母、数字和下划线组成，并以字母开头",
    ),
    r"^[a-z_]+\.[a-z_]+$": ("must be a permission, such as bookings.read", "应为权限名，例如 bookings.read"),
    r"^([01][0-9]|2[0-3]):[0-5][0-9]$": ("must be a time of day as HH:MM", "应为 HH:MM 格式的时刻"),
    r"^([01][0-9]|2[0-3]):[0-5][05]$": (
        "must be a time of day as HH:MM in steps of 5 minutes",
        "应为 HH:MM 格式的时刻，以 5 分钟为单位",
    ),
    r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$": (
        "must be a time of day as HH:MM, or 24:00",
        "应为 HH:MM 格式的时刻，或 24:00",
    ),
    r"^(([01][0-9]|2[0-3]):[0-5][05]|24:00)$": (
        "must be a time of day as HH:MM in steps of 5 minutes, or 24:00",
        "应为 HH:MM 格式的时刻（以 5 分钟为单位），或 24:00",
    ),
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$": ("must be a day as YYYY-MM-DD", "应为 YYYY-MM-DD 格式的日期"),
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T.{1,30})?$": (
        "must be a day as YYYY-MM-DD, or a time as RFC 3339",
        "应为 YYYY-MM-DD 格式的日期，或 RFC 3339 时间",
    ),
    r"^[a-z][a-z0-9_]{0,39}$": (
        "must be up to 40 small letters, digits and underscores, beginning with a letter",
        "应由不超过 40 个小写字母、数字和下划线组成，并以字母开头",
    ),
    r"^[0-9]{6}$": ("must be six digits", "应为六位数字"),
    r"^[A-Z]{2}$": (
        "must be a country as two capitals (ISO 3166), such as CN",
        "应为两个大写字母的国家代码（ISO 3166），例如 CN",
    ),
    r"^[A-Z]{3}$": (
        "must be a currency as three capitals (ISO 4217), such as CNY",
        "应为三个大写字母的币种代码（ISO 4217），例如 CNY",
    ),
}

# Message of a rule of our own (CEL) → Chinese.
OWN_RULES: dict[str, str] = {
    "must be more than 0": "必须大于 0",
    "must not be negative": "不能为负数",
    "is required, or lines or a package are": "必填，或填写 lines 或 package_id",
}

_validator = protovalidate.Validator()


def violations(message: Message, errors: Sequence[FieldError] = ()) -> list[FieldError]:
    """Everything wrong with a message, one error a field, after the `errors` that decoding it has found."""
    broken = _validator.collect_violations(message)
    if not broken and not errors:
        return []
    descriptor = descriptor_of(message)
    found = [_field_error(descriptor, violation) for violation in broken]
    if errors:
        found = [error for error in found if not _shadowed(error.field, errors)]
    return first_per_field([*errors, *found])


def _shadowed(path: str, errors: Iterable[FieldError]) -> bool:
    """Whether decoding failed at the field, above it, or in a list it is in (whose later entries then moved up)."""
    for error in errors:
        above = error.field.partition("[")[0] if "[" in error.field else error.field
        if path == above or path.startswith((above + ".", above + "[")):
            return True
    return False


@functools.cache
def required_fields(descriptor: Descriptor) -> frozenset[str]:
    """Names in JSON of the fields a message of this type cannot do without: those an empty message is refused for."""
    empty = message_factory.GetMessageClass(descriptor)()
    paths = [_elements(violation.proto.field) for violation in _validator.collect_violations(empty)]
    found = {path[0].field_name for path in paths if path}
    always = {field.name for field in descriptor.fields if field.full_name in ALWAYS_REQUIRED}
    return frozenset(json_name(descriptor.fields_by_name[name]) for name in found | always)


def _field_error(descriptor: Descriptor, violation: protovalidate.Violation) -> FieldError:
    path, field = _path(descriptor, _elements(violation.proto.field))
    # A rule of a message as a whole is about the field that its id names.
    if path == "body" and violation.proto.rule_id in descriptor.fields_by_name:
        path = json_name(descriptor.fields_by_name[violation.proto.rule_id])
        own = violation.proto.message
        return FieldError(path, "required", own, OWN_RULES.get(own, own))
    return FieldError(path, *_texts(field, violation))


def _elements(path: FieldPathPb | None) -> Sequence[Any]:
    return path.elements if path is not None else ()


def _path(descriptor: Descriptor, elements: Iterable[Any]) -> tuple[str, FieldDescriptor | None]:
    """Path in JSON of a violation, and the field it ends at; "body" for the message as a whole."""
    parts: list[str] = []
    field: FieldDescriptor | None = None
    here: Descriptor | None = descriptor
    for element in elements:
        if here is None:
            break
        field = here.fields_by_name[element.field_name]
        part = json_name(field)
        if element.subscript is not None:
            key = element.subscript.value
            part += f"[{key}]" if element.subscript.field == "index" else f".{key}"
        parts.append(part)
        here = field.message_type
        if here is not None and here.GetOptions().map_entry:
            here = here.fields_by_name["value"].message_type
    return ".".join(parts) or "body", field


def _texts(field: FieldDescriptor | None, violation: protovalidate.Violation) -> tuple[str, str, str]:
    """Code, English and Chinese text of a violation."""
    rule = violation.proto.rule_id
    name = rule.rpartition(".")[2]
    if field is not None and violation.field_value in ("", 0) and not field.has_presence and _says_nothing(field):
        name = "required" if not field.is_repeated else name
    rule_path = _elements(violation.proto.rule)
    if rule_path and rule_path[-1].field_name == "cel":
        own = violation.proto.message or "is not valid"
        return name, own, OWN_RULES.get(own, own)
    if name == "pattern":
        return _pattern_texts(str(violation.rule_value))
    known = BYTES_TEXTS.get(rule) or TEXTS.get(name)
    if known is None:
        text = violation.proto.message or "is not valid"
        return name, text, text
    code, english, chinese = known
    numbers = NUMBER.findall(violation.proto.message or "")
    values = _choices(field, violation) if "{values}" in english else ""
    return code, english.format(*numbers, values=values), chinese.format(*numbers, values=values)


def _says_nothing(field: FieldDescriptor) -> bool:
    """Whether the field's zero cannot be told from leaving it out, and no number is meant by it."""
    return field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_ENUM)


def _pattern_texts(pattern: str) -> tuple[str, str, str]:
    may_be_empty = pattern.startswith("^$|")
    english, chinese = PATTERNS.get(pattern.removeprefix("^$|"), (f"must match {pattern}", f"格式应符合 {pattern}"))
    if may_be_empty:
        return "format", f"{english}, or empty", f"{chinese}，或留空"
    return "format", english, chinese


def _choices(field: FieldDescriptor | None, violation: protovalidate.Violation) -> str:
    """What may be chosen, as in JSON."""
    rule = violation.proto.rule_id.rpartition(".")[2]
    if field is None or field.enum_type is None:
        return ", ".join(str(value) for value in violation.rule_value)
    names = enum_names(field.enum_type)
    allowed = violation.rule_value if rule == "in" else [number for number in names if number]
    return ", ".join(names.get(number, str(number)) for number in allowed)
