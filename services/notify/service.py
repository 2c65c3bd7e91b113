"""The notify service: one method per RPC, in the order of the contract."""

from __future__ import annotations

from typing import Any

import asyncpg
from foyer.notify.v1 import notify_pb2 as pb

from chassis.app import Context, Job, Service
from chassis.codec import enum_numbers
from chassis.errors import FieldError, Refusal, invalid, not_found
from chassis.ids import new_id
from chassis.pages import cursor_decode, page_limit, split_page, wrong_token
from chassis.rows import enum_name, projector
from chassis.unit import UUID_PATTERN, Absent, Unit
from services.notify import delivery, statements
from services.notify.domain import VARIABLES, mask_address, sample_facts, variables_of
from services.notify.events import FETCHERS, on
from services.notify.invitations import METHODS, is_possible
from services.notify.readymade import Key, readymade
from services.notify.rendering import TemplateProblem, problems, render
from services.notify.writing import templates_in_force

READ, WRITE = "messages.read", "messages.write"
READ_CONTACT = "customers.read_contact"
SEND_SECONDS = 1.0

CHANNELS = enum_numbers(pb.Channel.DESCRIPTOR)

_to_message = projector(pb.Message)
_to_template = projector(pb.Template)


class Notify:
    """Messages and their templates."""

    def __init__(self, context: Context) -> None:
        delivery.attach(context)

    async def list_messages(self, request: pb.ListMessagesRequest, unit: Unit) -> pb.ListMessagesResponse:
        """Messages, newest first. What is of no branch is seen by callers for the whole chain only."""
        filters: dict[str, Any] = {}
        if request.HasField("customer_id"):
            filters["customer_id"] = request.customer_id
        if request.channel:
            filters["channel"] = enum_name(pb.Message, "channel", request.channel)
        if request.status:
            filters["status"] = enum_name(pb.Message, "status", request.status)
        branch_ids = unit.allowed_branches(READ)
        if branch_ids is not None:
            filters["branch_ids"] = branch_ids
        cursor = cursor_decode(request.page_token, 1)
        if cursor is not None:
            if not UUID_PATTERN.fullmatch(str(cursor[0])):
                raise wrong_token()
            filters["before"] = cursor[0]
        limit = page_limit(request.page_size)
        rows = await unit.all(statements.list_messages(frozenset(filters)), **filters, most=limit + 1)
        if not rows and request.HasField("customer_id"):
            await _check_customer(unit, request.customer_id)
        page, token = split_page(rows, limit, lambda row: [row["id"]])
        return pb.ListMessagesResponse(messages=[_message(unit, row) for row in page], next_page_token=token)

    async def get_message(self, request: pb.GetMessageRequest, unit: Unit) -> pb.Message:
        """A message."""
        return _message(unit, await _visible(unit, request.id, READ))

    async def resend_message(self, request: pb.ResendMessageRequest, unit: Unit) -> pb.Message:
        """Try a message again from the beginning that was given up."""
        row = await _visible(unit, request.id, WRITE)
        queued = await unit.one(statements.RESEND, id=request.id, now=unit.now)
        if queued is None:
            raise Refusal("WRONG_STATE", status=row["status"])
        unit.after_commit(delivery.wake)
        return _message(unit, queued)

    async def list_templates(self, request: pb.ListTemplatesRequest, unit: Unit) -> pb.ListTemplatesResponse:
        """What is in force: the chain's own templates, and the ready-made ones it has not replaced."""
        wanted = request.event_type if request.HasField("event_type") else None
        own = {_key(row): row for row in await templates_in_force(unit, wanted)}
        keys = [key for key in readymade() if wanted in (None, key[0])]
        templates = [_template(own[key]) if key in own else _ready_template(key) for key in keys]
        return pb.ListTemplatesResponse(templates=templates)

    async def create_template(self, request: pb.CreateTemplateRequest, unit: Unit) -> pb.Template:
        """Write a new version; the versions before it stay."""
        _check_event_type(request.event_type)
        _check_texts(request.event_type, request.language, request.subject, request.body)
        channel = enum_name(pb.Template, "channel", request.channel)
        key = f"template {unit.chain_id} {request.event_type} {channel} {request.language}"
        await unit.run(statements.LOCK_TEMPLATE, key=key)
        row = await unit.one(
            statements.CREATE_TEMPLATE,
            id=new_id(),
            event_type=request.event_type,
            channel=channel,
            language=request.language,
            subject=request.subject,
            body=request.body,
            enabled=request.enabled if request.HasField("enabled") else True,
            invitation=_invitation(request, channel),
            now=unit.now,
        )
        assert row is not None
        return _template(row)

    async def get_template(self, request: pb.GetTemplateRequest, unit: Unit) -> pb.Template:
        """A version, in force or not."""
        row = await unit.one(statements.TEMPLATE, id=request.id)
        if row is None:
            raise not_found("template", "id")
        return _template(row)

    async def preview_template(self, request: pb.PreviewTemplateRequest, unit: Unit) -> pb.TemplatePreview:
        """What a template makes of a customer's newest event of the kind, or of made-up data."""
        _check_event_type(request.event_type)
        facts = await _real_facts(request, unit) if request.HasField("customer_id") else None
        channel = enum_name(pb.PreviewTemplateRequest, "channel", request.channel)
        subject, body = await _texts_in_force(unit, (request.event_type, channel, request.language))
        subject = request.subject if request.HasField("subject") else subject
        body = request.body if request.HasField("body") else body
        _check_texts(request.event_type, request.language, subject, body)
        known = facts if facts is not None else sample_facts(request.event_type, request.language)
        try:
            text = render(request.event_type, subject, body, variables_of(request.event_type, known, request.language))
        except TemplateProblem as problem:
            error = FieldError("body", "bad_template", problem.en, problem.zh)
            raise Refusal("BAD_TEMPLATE", errors=[error], reason=problem.culprit) from problem
        return pb.TemplatePreview(subject=text.subject, body=text.body, real_data=facts is not None)


async def _visible(unit: Unit, message_id: str, permission: str) -> asyncpg.Record:
    """A message the caller may see. Raises Refusal NOT_FOUND or PERMISSION_DENIED."""
    row = await unit.one(statements.MESSAGE, id=message_id)
    if row is None:
        raise not_found("message", "id")
    if unit.allowed_branches(permission) is not None:
        unit.check_branch(row["branch_id"] or "", permission)
    return row


async def _check_customer(unit: Unit, customer_id: str) -> None:
    """Raise Absent for a customer that is not known here."""
    if not await unit.all(statements.CUSTOMERS, ids=[customer_id]):
        raise Absent("customer", customer_id, field="customer_id")


def _message(unit: Unit, row: asyncpg.Record) -> pb.Message:
    message = _to_message(row)
    if row["address"] is not None and not unit.caller.may(READ_CONTACT):
        message.address = mask_address(row["address"])
    return message


def _key(row: asyncpg.Record) -> Key:
    return row["event_type"], row["channel"], row["language"]


def _invitation(request: pb.CreateTemplateRequest, channel: str) -> bool:
    """Whether messages of a new template bring the appointment. Refuses what never does."""
    possible = is_possible(request.event_type, channel)
    if request.invitation and not possible:
        message = f"is for e-mails of {', '.join(METHODS)} only"
        raise invalid(FieldError("invitation", "choice", message, f"仅适用于以下事件的邮件：{'、'.join(METHODS)}"))
    return possible and (request.invitation or not request.HasField("invitation"))


def _template(row: asyncpg.Record) -> pb.Template:
    template = _to_template(row)
    template.variables.extend(VARIABLES[row["event_type"]])
    return template


def _ready_template(key: Key) -> pb.Template:
    event_type, channel, language = key
    text = readymade()[key]
    return pb.Template(
        event_type=event_type,
        channel=pb.Channel.ValueType(CHANNELS[channel]),
        language=language,
        subject=text.subject,
        body=text.body,
        enabled=True,
        invitation=is_possible(event_type, channel),
        variables=VARIABLES[event_type],
    )


def _check_event_type(event_type: str) -> None:
    if event_type not in VARIABLES:
        choices = ", ".join(VARIABLES)
        raise invalid(FieldError("event_type", "choice", f"must be one of {choices}", f"必须是以下之一：{choices}"))


def _check_texts(event_type: str, language: str, subject: str, body: str) -> None:
    """Refuse a template that cannot be used, with all that is wrong."""
    found = problems(event_type, language, subject, body)
    if found:
        reason = ", ".join(dict.fromkeys(culprit for _, culprit in found))
        raise Refusal("BAD_TEMPLATE", errors=[error for error, _ in found], reason=reason)


async def _texts_in_force(unit: Unit, key: Key) -> tuple[str, str]:
    for row in await templates_in_force(unit, key[0]):
        if _key(row) == key:
            return row["subject"], row["body"]
    text = readymade()[key]
    return text.subject, text.body


async def _real_facts(request: pb.PreviewTemplateRequest, unit: Unit) -> dict[str, Any] | None:
    """Facts of a customer's newest event of the kind, for who may read all messages; None when there is none."""
    if unit.allowed_branches(READ) is not None:
        raise Refusal("PERMISSION_DENIED", permission=READ)
    await _check_customer(unit, request.customer_id)
    facts: dict[str, Any] | None = await unit.value(
        statements.NEWEST_FACTS, customer_id=request.customer_id, event_type=request.event_type
    )
    return facts


SERVICE = Service(
    name="notify",
    servicers=[(pb.DESCRIPTOR.services_by_name["Notify"], Notify)],
    subscriptions=on,
    fetchers=FETCHERS,
    jobs=[Job(delivery.JOB, delivery.send_messages, every_seconds=SEND_SECONDS)],
)
