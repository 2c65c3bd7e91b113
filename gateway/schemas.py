"""JSON Schema of messages in the API's dialect, from descriptors, their rules and their comments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from buf.validate import validate_pb2
from foyer import options_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from chassis import codec
from chassis.rules import required_fields
from gateway.contract import Comments

RULES: Any = validate_pb2.field
SENSITIVE: Any = options_pb2.sensitive
REFERENCE = "#/components/schemas/"
NUMBER_RULES = {
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
}

Schema = dict[str, Any]


class Schemas:
    """Collects the schemas that a document refers to.

    A message that is read and written has one schema where both agree, as money does; else what is written is called
    `<Name>Input`.
    """

    def __init__(self, comments: Comments, answers: Iterable[Descriptor]) -> None:
        """`answers` are the messages that are answered; what they hold is answered too."""
        self._comments = comments
        self._answered = frozenset(_reachable(answers))
        self.found: dict[str, Schema] = {}
        self._names: dict[str, Descriptor] = {}

    def output(self, descriptor: Descriptor) -> Schema:
        """Reference to the schema of a message that is answered."""
        return self._reference(descriptor, self._name(descriptor), is_input=False)

    def input(self, descriptor: Descriptor) -> Schema:
        """Reference to the schema of a message inside a request."""
        name = self._name(descriptor)
        if descriptor not in self._answered:
            return self._reference(descriptor, name, is_input=True)
        self.output(descriptor)
        if self.found[name] == self._object(descriptor, is_input=True):
            return {"$ref": REFERENCE + name}
        return self._reference(descriptor, name + "Input", is_input=True)

    def request(self, descriptor: Descriptor, without: Iterable[str], *, nulls: bool) -> Schema:
        """Reference to the schema of a body; `without` names fields that stand in the path."""
        name = self._name(descriptor)
        if name not in self.found:
            self.found[name] = self._object(descriptor, is_input=True, without=set(without), nulls=nulls)
            self.found[name]["additionalProperties"] = False
        return {"$ref": REFERENCE + name}

    def parameter(self, field: FieldDescriptor) -> Schema:
        """Schema of a field that stands in a path or query."""
        schema = self.field(field, is_input=True)
        schema.pop("description", None)
        return schema

    def field(self, field: FieldDescriptor, *, is_input: bool, nulls: bool = False) -> Schema:
        """Schema of a field's value, with its comment; with `nulls` it may be null as well."""
        rules = field.GetOptions().Extensions[RULES]
        if codec.is_map(field):
            value = self._one(codec.map_value(field), validate_pb2.FieldRules(), is_input=is_input)
            schema: Schema = {"type": "object", "additionalProperties": value}
        elif field.is_repeated:
            repeated = rules.repeated
            schema = {"type": "array", "items": self._one(field, repeated.items, is_input=is_input)}
            schema |= _given(repeated, min_items="minItems", max_items="maxItems")
        else:
            schema = self._one(field, rules, is_input=is_input)
        if nulls:
            schema = _nullable(schema)
        description = self._comments.text(field.full_name)
        if description:
            schema["description"] = description
        permission = field.GetOptions().Extensions[SENSITIVE].permission
        if permission:
            schema["x-sensitive"] = permission
        return schema

    def _name(self, descriptor: Descriptor) -> str:
        """A name no other message has: its own, with the service's in front when two services use it."""
        name = str(descriptor.name)
        if self._names.setdefault(name, descriptor) is not descriptor:
            name = descriptor.file.package.split(".")[1].title() + name
            if self._names.setdefault(name, descriptor) is not descriptor:
                raise ValueError(f"{descriptor.full_name}: two messages have this name")
        return name

    def _reference(self, descriptor: Descriptor, name: str, *, is_input: bool) -> Schema:
        if name not in self.found:
            self.found[name] = {}  # stands in while a type that contains itself is described
            self.found[name] = self._object(descriptor, is_input=is_input)
        return {"$ref": REFERENCE + name}

    def _object(
        self, descriptor: Descriptor, *, is_input: bool, without: Iterable[str] = (), nulls: bool = False
    ) -> Schema:
        required = required_fields(descriptor)
        properties: dict[str, Schema] = {}
        needed: list[str] = []
        for field in descriptor.fields:
            if field.name in without:
                continue
            name = codec.json_name(field)
            is_needed = name in required if is_input else name in required or not field.has_presence
            if is_needed:
                needed.append(name)
            properties[name] = self.field(field, is_input=is_input, nulls=nulls and not is_needed)
        schema: Schema = {"type": "object", "properties": properties}
        if needed:
            schema["required"] = needed
        description = self._comments.text(descriptor.full_name)
        if description:
            schema["description"] = description
        return schema

    def _one(self, field: FieldDescriptor, rules: Any, *, is_input: bool) -> Schema:
        """Schema of one value of a field."""
        if codec.is_timestamp(field):
            return {"type": "string", "format": "date-time"}
        if field.message_type is not None:
            return self.input(field.message_type) if is_input else self.output(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type, rules.enum)
        if field.type in codec.INTEGERS:
            return _integer(field, rules)
        if field.type == FieldDescriptor.TYPE_STRING:
            return _text(rules.string)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return {"type": "boolean"}
        if field.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "format": "byte"}
        return {"type": "number"}

    def _enum(self, enum: EnumDescriptor, rules: Any) -> Schema:
        names = codec.enum_names(enum)
        chosen = getattr(rules, "in") or [number for number in names if number]
        values = {value.number: value.name for value in enum.values}
        prefix = f"{enum.full_name}."
        told = {names[number]: self._comments.text(prefix + values[number]) for number in chosen}
        schema: Schema = {"type": "string", "enum": list(told)}
        if any(told.values()):
            schema["description"] = " ".join(f"`{name}`: {text}" for name, text in told.items() if text)
        return schema


def _reachable(answers: Iterable[Descriptor]) -> set[Descriptor]:
    found: set[Descriptor] = set()
    waiting = list(answers)
    while waiting:
        descriptor = waiting.pop()
        if descriptor in found:
            continue
        found.add(descriptor)
        waiting += [field.message_type for field in descriptor.fields if field.message_type is not None]
    return found


def _nullable(schema: Schema) -> Schema:
    if "$ref" in schema or "enum" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}


def _given(rules: Any, **names: str) -> Schema:
    """Rules that are set, by their names in JSON Schema."""
    return {name: getattr(rules, rule) for rule, name in names.items() if rules.HasField(rule)}


def _integer(field: FieldDescriptor, rules: Any) -> Schema:
    name = NUMBER_RULES.get(field.type, "int64")
    schema: Schema = {"type": "integer", "format": "int32" if "32" in name else "int64"}
    own = getattr(rules, name)
    schema |= _given(own, gte="minimum", lte="maximum")
    if own.HasField("gt"):
        schema["minimum"] = own.gt + 1
    if own.HasField("lt"):
        schema["maximum"] = own.lt - 1
    return schema


def _text(rules: Any) -> Schema:
    schema: Schema = {"type": "string"}
    schema |= _given(rules, min_len="minLength", max_len="maxLength", pattern="pattern")
    if rules.uuid:
        schema["format"] = "uuid"
    if rules.email:
        schema["format"] = "email"
    chosen = list(getattr(rules, "in"))
    if chosen:
        schema["enum"] = chosen
    return schema
