"""Loans against real PostgreSQL: what is lent is not booked, what is booked not lent, and what is late is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from foyer.bookings.v1 import resources_pb2 as pb

from chassis.clock import FrozenClock
from chassis.ids import new_id
from chassis.testing import Platform
from services.bookings import allocator
from services.bookings.jobs import expire_holds
from services.bookings.resources import loans
from tests.service.bookings_shop import NOW, Shop, at, bookings_alone, stamp
from tests.service.bookings_things import attempts, new_type, new_units, room_plan, subjects, told
from tools.servers import Servers


@pytest.fixture(scope="module")
async def alone(servers: Servers) -> AsyncIterator[tuple[Platform, FrozenClock]]:
    async with bookings_alone(servers, "bookings_loans") as started:
        yield started


class Wardrobe(Shop):
    """A shop with one dress, and a service that needs it."""

    dress: str
    type_id: str
    fitting: str

    async def hang(self) -> Wardrobe:
        await self.open()
        self.type_id = await new_type(self, "Dress", pb.RESOURCE_KIND_LENT)
        (self.dress,) = await new_units(self, self.type_id, 1, name="Dress")
        self.fitting = await self.new_service(plan=room_plan(self.type_id))
        return self

    def loan(self, starts_at: datetime | None, ends_at: datetime, **more: Any) -> pb.CreateLoanRequest:
        values: dict[str, Any] = {"resource_id": self.dress, **more}
        if starts_at is not None:
            values["starts_at"] = stamp(starts_at)
        return pb.CreateLoanRequest(ends_at=stamp(ends_at), **values)

    async def lend(self, starts_at: datetime | None, ends_at: datetime, **more: Any) -> pb.Loan:
        made: pb.Loan = await self.call("CreateLoan", self.loan(starts_at, ends_at, **more))
        return made

    async def listed(self, **filters: Any) -> list[str]:
        return [each.id for each in (await self.call("ListLoans", pb.ListLoansRequest(**filters))).loans]

    async def watch(self) -> None:
        await loans.watch(self.platform["bookings"].context)


@pytest.fixture
async def shop(alone: tuple[Platform, FrozenClock]) -> AsyncIterator[Wardrobe]:
    platform, clock = alone
    clock.advance(NOW - clock.now())
    opened = await Wardrobe(platform, clock).hang()
    yield opened
    await opened.check_time()


async def test_a_unit_is_lent_and_comes_back_early(shop: Wardrobe) -> None:
    loan = await shop.lend(None, at(2, 12), customer_id=shop.customer, note="婚纱")
    assert (loan.status, loan.branch_id, loan.customer_id, loan.note) == (
        pb.LOAN_STATUS_OUT, shop.branch, shop.customer, "婚纱",
    )  # fmt: skip
    assert loan.starts_at == stamp(NOW)
    assert (await shop.starts(2, service_id=shop.fitting))[0] == "12:00"
    shop.clock.advance(at(1, 9, 58) - NOW)
    back = await shop.call("ReturnLoan", pb.ReturnLoanRequest(id=loan.id))
    assert (back.status, back.returned_at, back.version) == (pb.LOAN_STATUS_RETURNED, stamp(at(1, 9, 58)), 2)
    assert await shop.call("GetLoan", pb.GetLoanRequest(id=loan.id)) == back
    assert (await shop.starts(1, service_id=shop.fitting))[0] == "10:00"
    assert (await shop.refused("ReturnLoan", pb.ReturnLoanRequest(id=loan.id))).code == "WRONG_STATE"
    assert await subjects(shop, loan.id) == ["loan.created", "loan.returned"]


async def test_a_loan_that_never_began_takes_nothing(shop: Wardrobe) -> None:
    loan = await shop.lend(at(3, 10), at(4, 10))
    assert loan.status == pb.LOAN_STATUS_PLANNED
    assert not loan.HasField("customer_id")
    refused = await shop.refused("ReturnLoan", pb.ReturnLoanRequest(id=loan.id), if_match=5)
    assert refused.code == "PRECONDITION_FAILED"
    await shop.call("ReturnLoan", pb.ReturnLoanRequest(id=loan.id))
    assert await shop.check_time() == 0


async def test_loans_and_bookings_exclude_each_other(shop: Wardrobe) -> None:
    await shop.book(at(1, 10), service_id=shop.fitting)
    assert (await shop.refused("CreateLoan", shop.loan(at(1, 9), at(1, 11)))).code == "RESOURCE_TAKEN"
    loan = await shop.lend(at(1, 11), at(1, 15))
    refused = await shop.refused("CreateBooking", shop.request(at(1, 14), service_id=shop.fitting))
    assert refused.code == "SLOT_TAKEN"
    block = pb.BlockResourceRequest(id=shop.dress, starts_at=stamp(at(1, 10, 30)), ends_at=stamp(at(1, 16)))
    hit = (await shop.call("BlockResource", block)).conflicts
    assert [each.HasField("loan_id") for each in hit] == [False, True]
    assert hit[1].loan_id == loan.id
    counted = pb.CountResourcesRequest(
        id=shop.type_id, branch_id=shop.branch, starts_from=stamp(at(1, 9)), ends_by=stamp(at(1, 18))
    )
    assert (await shop.call("CountResources", counted)).least_free == 0


async def test_a_race_of_loans_and_bookings(shop: Wardrobe) -> None:
    """Both at the same moment, again and again: one of all wins."""
    for day in range(1, 5):
        lending = attempts(shop, "CreateLoan", [shop.loan(at(day, 9), at(day, 20)) for _ in range(10)])
        booking = attempts(
            shop, "CreateBooking", [shop.request(at(day, 12), service_id=shop.fitting) for _ in range(10)]
        )
        (lent, not_lent), (booked, not_booked) = await asyncio.gather(lending, booking)
        assert len(lent) + len(booked) == 1
        assert set(not_lent) <= {"RESOURCE_TAKEN"}
        assert set(not_booked) <= {"SLOT_TAKEN"}


async def test_a_hold_that_ran_out_gives_way_to_a_loan(shop: Wardrobe) -> None:
    held = await shop.book(at(0, 12), service_id=shop.fitting, hold=True)
    assert (await shop.refused("CreateLoan", shop.loan(None, at(1, 9)))).code == "RESOURCE_TAKEN"
    shop.clock.advance(timedelta(minutes=11))
    await shop.lend(None, at(1, 9))
    assert (await shop.told(held.id))[-1] == "BookingExpired"
    shop.clock.advance(timedelta(minutes=11))
    await expire_holds(shop.platform["bookings"].context)  # finds a loan's time among the bookings', and lets it be


async def test_what_cannot_be_lent_says_why(shop: Wardrobe) -> None:
    block = pb.BlockResourceRequest(id=shop.dress, starts_at=stamp(at(1, 9)), ends_at=stamp(at(1, 10)))
    await shop.call("BlockResource", block)
    assert (await shop.refused("CreateLoan", shop.loan(None, at(2, 9)))).code == "RESOURCE_OUT_OF_SERVICE"
    await shop.lend(at(1, 10), at(2, 9))
    await shop.call("UpdateResource", pb.UpdateResourceRequest(id=shop.dress, active=False))
    assert (await shop.refused("CreateLoan", shop.loan(at(3, 9), at(3, 10)))).code == "RESOURCE_OUT_OF_SERVICE"
    for starts_at, ends_at, errors in (
        (at(1, 9, 1), at(1, 9, 3), [("starts_at", "step"), ("ends_at", "step")]),
        (at(0, 7, 55), at(1, 9), [("starts_at", "past")]),
        (at(1, 9), at(1, 9), [("ends_at", "order")]),
        (at(1, 9), at(94, 9), [("ends_at", "range")]),
        (at(401, 9), at(402, 9), [("starts_at", "range")]),
    ):
        refused = await shop.refused("CreateLoan", shop.loan(starts_at, ends_at))
        assert [(error.field, error.code) for error in refused.errors] == errors
    unknown = await shop.refused("CreateLoan", shop.loan(None, at(1, 9), resource_id=new_id()))
    assert (unknown.code, unknown.errors[0].field) == ("NOT_FOUND", "resource_id")


async def test_another_chain_and_another_branch_find_no_loans(shop: Wardrobe) -> None:
    loan = await shop.lend(at(1, 9), at(1, 10))
    elsewhere = {name: [new_id()] for name in ("bookings.read", "bookings.write")}
    visitor = replace(shop.caller, grants=elsewhere)
    for method, request in (
        ("GetLoan", pb.GetLoanRequest(id=loan.id)),
        ("ReturnLoan", pb.ReturnLoanRequest(id=loan.id)),
        ("CreateLoan", shop.loan(at(1, 9), at(1, 10))),
    ):
        assert (await shop.refused(method, request, caller=shop.platform.owner())).code == "NOT_FOUND"
        assert (await shop.refused(method, request, caller=visitor)).code == "PERMISSION_DENIED"
    assert not (await shop.call("ListLoans", pb.ListLoansRequest(), caller=visitor)).loans
    unknown = await shop.refused("ListLoans", pb.ListLoansRequest(resource_id=new_id()))
    assert unknown.code == "NOT_FOUND"


# --- what does not come back -------------------------------------------------------------------------


async def test_loans_are_listed_by_when_they_are_due(shop: Wardrobe) -> None:
    second = (await new_units(shop, shop.type_id, 1, name="Veil"))[0]
    late = await shop.lend(None, at(1, 9), customer_id=shop.customer)
    out = await shop.lend(None, at(3, 9), resource_id=second)
    planned = await shop.lend(at(4, 9), at(5, 9), resource_id=second)
    back = await shop.lend(at(6, 9), at(7, 9))
    await shop.call("ReturnLoan", pb.ReturnLoanRequest(id=back.id))
    shop.clock.advance(at(1, 9) - NOW)
    assert await shop.listed() == [late.id, out.id, planned.id, back.id]
    assert await shop.listed(overdue=True) == [late.id]
    assert await shop.listed(overdue=False, returned=False) == [out.id, planned.id]
    assert await shop.listed(returned=True) == [back.id]
    assert await shop.listed(resource_id=second) == [out.id, planned.id]
    assert await shop.listed(customer_id=shop.customer, branch_id=shop.branch) == [late.id]
    ids, token = [], ""
    for _ in range(4):
        page = await shop.call("ListLoans", pb.ListLoansRequest(page_size=1, page_token=token))
        ids += [each.id for each in page.loans]
        token = page.next_page_token
    assert (ids, token) == ([late.id, out.id, planned.id, back.id], "")


async def test_a_late_loan_is_told_once_and_keeps_its_unit(shop: Wardrobe) -> None:
    loan = await shop.lend(None, at(1, 9))
    next_one = await shop.book(at(1, 11), service_id=shop.fitting)
    await shop.watch()
    assert await told(shop, loan.id, pb.LoanOverdue) == [], "it is not late yet"
    shop.clock.advance(at(1, 9, 1) - NOW)
    assert (await shop.starts(1, service_id=shop.fitting))[0] == "09:15"
    for _ in range(3):
        await shop.watch()
    (event,) = await told(shop, loan.id, pb.LoanOverdue)
    assert event.loan.status == pb.LOAN_STATUS_OVERDUE
    assert [each.booking_id for each in event.conflicts] == [next_one.id]
    starts = await shop.starts(1, service_id=shop.fitting)
    assert starts[0] == "12:00", "it stays taken for an hour, and an hour is not enough before the next one"
    # Hour by hour, until the time of who has it next.
    for minutes in (45, 45, 45):
        shop.clock.advance(timedelta(minutes=minutes))
        await shop.watch()
    await shop.check_time()
    shop.clock.advance(at(1, 12) - shop.clock.now())
    await shop.watch()
    assert (await shop.starts(1, service_id=shop.fitting))[0] == "13:00"
    assert len(await told(shop, loan.id, pb.LoanOverdue)) == 1
    await shop.call("ReturnLoan", pb.ReturnLoanRequest(id=loan.id))
    assert (await shop.starts(1, service_id=shop.fitting))[0] == "12:00"
    await shop.watch()


async def test_a_lost_unit_does_not_pile_up_rows(shop: Wardrobe) -> None:
    loan = await shop.lend(None, at(1, 9))
    shop.clock.advance(at(1, 9) - NOW)
    for _ in range(10):
        await shop.watch()
        shop.clock.advance(timedelta(minutes=45))
    async with shop.unit() as unit:
        (mine,) = await allocator.of_booking(unit, loan.id)
    assert (mine.last - mine.first) * 5 == (at(1, 9) - NOW).total_seconds() / 60 + 9 * 45 + 60
