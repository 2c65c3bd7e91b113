"""Templates: a chain's own take the place of the ready-made ones, and nothing unsafe stands in one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from foyer.notify.v1 import notify_pb2 as pb

from chassis.errors import Refusal
from chassis.ids import new_id
from chassis.settings import Settings
from chassis.testing import Platform
from services.notify.domain import VARIABLES
from tests.service.notify_chain import Chain, Server, open_chain, serving_mail


@pytest.fixture(scope="module")
async def mail(settings: Settings) -> AsyncIterator[Server]:
    async with serving_mail(settings) as server:
        yield server


@pytest.fixture
async def chain(platform: Platform, mail: Server) -> Chain:
    return await open_chain(platform, mail)


def template(**changes: Any) -> pb.CreateTemplateRequest:
    fields: dict[str, Any] = {
        "event_type": "booking.confirmed",
        "channel": pb.CHANNEL_EMAIL,
        "language": "en",
        "subject": "See you, {{ customer.name }}",
        "body": "{{ booking.service_name }} for {{ booking.price }}",
    }
    return pb.CreateTemplateRequest(**{**fields, **changes})


async def test_own_templates_take_the_place_of_ready_made_ones(chain: Chain) -> None:
    everything = (await chain.call("ListTemplates", pb.ListTemplatesRequest())).templates
    assert len(everything) == len(VARIABLES) * 4
    assert all(not one.HasField("id") and one.version == 0 and one.variables for one in everything)
    first = await chain.call("CreateTemplate", template(subject="Old {{ customer.name }}"))
    second = await chain.call("CreateTemplate", template())
    await chain.call("CreateTemplate", template(channel=pb.CHANNEL_IN_APP, enabled=False))
    assert (first.version, second.version, second.enabled) == (1, 2, True)
    assert await chain.call("GetTemplate", pb.GetTemplateRequest(id=first.id)) == first
    listed = (await chain.call("ListTemplates", pb.ListTemplatesRequest(event_type="booking.confirmed"))).templates
    in_force = {(one.channel, one.language): one for one in listed}
    assert len(in_force) == 4
    assert in_force[pb.CHANNEL_EMAIL, "en"] == second
    assert not in_force[pb.CHANNEL_IN_APP, "en"].enabled
    assert in_force[pb.CHANNEL_EMAIL, "zh"].version == 0

    customer_id, _ = await chain.customer(name="Eve\r\nBcc: all@example.com")
    await chain.happen("bookings", [chain.confirmed(customer_id)])
    found = await chain.outcomes(customer_id, 1, pb.MESSAGE_STATUS_SENT)
    message = found[pb.CHANNEL_EMAIL]
    assert (message.subject, message.body) == ("See you, Eve Bcc: all@example.com", "剪发 for CNY 128.00")


async def test_versions_are_numbered_one_after_the_other(chain: Chain) -> None:
    made = await asyncio.gather(*(chain.call("CreateTemplate", template()) for _ in range(8)))
    assert sorted(one.version for one in made) == list(range(1, 9))


async def test_templates_that_cannot_be_used(chain: Chain) -> None:
    with pytest.raises(Refusal, match="BAD_TEMPLATE") as refused:
        await chain.call("CreateTemplate", template(subject="{{ nobody.name }}", body="{% for x in y %}{% endfor %}"))
    assert [error.field for error in refused.value.errors] == ["subject", "body"]
    assert "{{ nobody.name }}" in refused.value.parameters["reason"]
    with pytest.raises(Refusal, match="INVALID_REQUEST") as refused:
        await chain.call("CreateTemplate", template(event_type="booking.forgotten"))
    assert [error.field for error in refused.value.errors] == ["event_type"]


async def test_templates_shown_with_real_and_with_made_up_data(chain: Chain) -> None:
    def preview(**changes: Any) -> pb.PreviewTemplateRequest:
        fields: dict[str, Any] = {
            "event_type": "booking.confirmed",
            "channel": pb.CHANNEL_EMAIL,
            "language": "en",
            "body": "{{ customer.name }}, {{ booking.date }}",
        }
        return pb.PreviewTemplateRequest(**{**fields, **changes})

    made_up = await chain.call("PreviewTemplate", preview())
    assert (made_up.body, made_up.real_data) == ("Alex Lee, Saturday, 1 March 2025", False)
    assert made_up.subject == "Your appointment at Dawn Studio: Saturday, 1 March 2025, 14:30"
    customer_id, _ = await chain.customer("zh")
    await chain.settle()
    assert not (await chain.call("PreviewTemplate", preview(customer_id=customer_id))).real_data
    await chain.happen("bookings", [chain.confirmed(customer_id)])
    await chain.settle()
    real = await chain.call("PreviewTemplate", preview(customer_id=customer_id))
    assert (real.body, real.real_data) == ("Alex, Friday, 1 March 2030", True)
    with pytest.raises(Refusal, match="NOT_FOUND"):
        await chain.call("PreviewTemplate", preview(customer_id=new_id()))
    with pytest.raises(Refusal, match="BAD_TEMPLATE"):
        await chain.call("PreviewTemplate", preview(body="{{ wallet.available }}"))
    writer = chain.platform.owner(chain.id, grants={"templates.read": "*"})
    with pytest.raises(Refusal, match="PERMISSION_DENIED"):
        await chain.call("PreviewTemplate", preview(customer_id=customer_id), writer)
