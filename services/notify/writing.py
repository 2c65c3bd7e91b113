"""From events to messages: who is told, by which template, at which address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import orjson

from chassis import logs
from chassis.ids import new_id
from chassis.unit import Absent, Unit
from services.notify import delivery, statements
from services.notify.domain import LANGUAGES, Notice, addresses_of, variables_of
from services.notify.invitations import is_possible
from services.notify.readymade import Key, Text, readymade
from services.notify.rendering import Rendered, TemplateProblem, render

COLUMNS = (
    *("ids", "event_ids", "event_types", "customer_ids", "branch_ids", "channels", "addresses"),
    *("languages", "subjects", "bodies", "facts", "invitations"),
)

log = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class Occasion:
    """An event somebody is told of."""

    event_id: str
    event_type: str
    notice: Notice


async def write_messages(unit: Unit, occasions: Sequence[Occasion]) -> None:
    """Write the messages of some events. Raises Absent while a customer or a name is not known here."""
    cards = await _cards(unit, occasions)
    names = await _names(unit, occasions)
    own = {(row["event_type"], row["channel"], row["language"]): row for row in await templates_in_force(unit)}
    rows: list[tuple[Any, ...]] = []
    for occasion in occasions:
        card = cards[occasion.notice.customer_id]
        facts = _facts(occasion.notice, card, names, unit.chain_id)
        language = card["language"] if card["language"] in LANGUAGES else LANGUAGES[0]
        for channel, address in addresses_of(card["email"]).items():
            key = (occasion.event_type, channel, language)
            text = _text(key, facts, own)
            if text is not None:
                rows.append((*_row(occasion, channel, address, language, text, facts), _invites(key, own)))
    if rows:
        await _insert(unit, rows)


async def templates_in_force(unit: Unit, event_type: str | None = None) -> list[asyncpg.Record]:
    """The chain's own templates in force, of one event or of all."""
    return await unit.all(statements.templates_in_force(event_type is not None), event_type=event_type)


async def _cards(unit: Unit, occasions: Sequence[Occasion]) -> dict[str, asyncpg.Record]:
    ids = {occasion.notice.customer_id for occasion in occasions}
    cards = {row["id"]: row for row in await unit.all(statements.CUSTOMERS, ids=sorted(ids))}
    for missing in sorted(ids - cards.keys()):
        raise Absent("customer", missing)
    return cards


async def _names(unit: Unit, occasions: Sequence[Occasion]) -> dict[tuple[str, str], asyncpg.Record]:
    wanted = {("chain", unit.chain_id)}
    for occasion in occasions:
        notice = occasion.notice
        wanted |= {("branch", notice.branch_id)} if notice.branch_id else set()
        wanted |= {("staff", notice.staff_id)} if notice.staff_id else set()
    ids = sorted({id for _, id in wanted})  # noqa: A001
    names = {(row["kind"], row["id"]): row for row in await unit.all(statements.NAMES, ids=ids)}
    for kind, missing in sorted(wanted - names.keys()):
        raise Absent(kind, missing)
    return names


def _facts(
    notice: Notice, card: asyncpg.Record, names: Mapping[tuple[str, str], asyncpg.Record], chain_id: str
) -> dict[str, Any]:
    facts = {**notice.facts, "customer": {"name": card["name"]}, "chain": {"name": names["chain", chain_id]["name"]}}
    if notice.branch_id:
        branch = names["branch", notice.branch_id]
        facts["branch"] = {"name": branch["name"], "address": branch["address"], "phone": branch["phone"]}
    if notice.staff_id:
        facts["staff"] = {"name": names["staff", notice.staff_id]["name"]}
    return facts


def _text(key: Key, facts: Mapping[str, Any], own: Mapping[Key, asyncpg.Record]) -> Rendered | None:
    """The text of a message by the template in force; None when the chain has switched it off."""
    event_type, _, language = key
    template = own.get(key)
    if template is not None and not template["enabled"]:
        return None
    variables = variables_of(event_type, facts, language)
    ready = readymade()[key]
    text = Text(template["subject"], template["body"]) if template is not None else ready
    try:
        return render(event_type, text.subject, text.body, variables)
    except TemplateProblem as problem:
        # It was checked when it was written, so its variables have changed since: better our words than none.
        log.warning("template cannot be used", event_type=event_type, problem=str(problem))
        return render(event_type, ready.subject, ready.body, variables)


def _invites(key: Key, own: Mapping[Key, asyncpg.Record]) -> bool:
    """Whether a message brings the appointment: where it can, unless the chain's template says otherwise."""
    event_type, channel, _ = key
    return is_possible(event_type, channel) and (key not in own or own[key]["invitation"])


def _row(
    occasion: Occasion, channel: str, address: str | None, language: str, text: Rendered, facts: dict[str, Any]
) -> tuple[Any, ...]:
    notice = occasion.notice
    head = (new_id(), occasion.event_id, occasion.event_type, notice.customer_id, notice.branch_id)
    return (*head, channel, address, language, text.subject, text.body, orjson.dumps(facts).decode())


async def _insert(unit: Unit, rows: Sequence[tuple[Any, ...]]) -> None:
    arrays = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True))
    written = await unit.all(statements.WRITE_MESSAGES, now=unit.now, **arrays)
    if written:
        unit.after_commit(lambda: delivery.written([row["channel"] for row in written]))
