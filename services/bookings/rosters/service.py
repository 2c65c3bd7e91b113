"""The RPCs of Rosters, in the order of the contract."""

from __future__ import annotations

from foyer.bookings.v1 import rosters_pb2 as pb

from chassis.app import Context
from chassis.unit import Unit
from services.bookings.rosters import jobs, proposals, publishing, swaps, templates, terms, wishes


class Rosters:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def create_shift_template(self, request: pb.CreateShiftTemplateRequest, unit: Unit) -> pb.ShiftTemplate:
        """Set up a shift of a branch."""
        return await templates.create(request, unit)

    async def list_shift_templates(
        self, request: pb.ListShiftTemplatesRequest, unit: Unit
    ) -> pb.ListShiftTemplatesResponse:
        """List the shifts of branches, by name."""
        return await templates.find(request, unit)

    async def get_shift_template(self, request: pb.GetShiftTemplateRequest, unit: Unit) -> pb.ShiftTemplate:
        """Read a shift of a branch."""
        return await templates.get(request, unit)

    async def update_shift_template(self, request: pb.UpdateShiftTemplateRequest, unit: Unit) -> pb.ShiftTemplate:
        """Change a shift of a branch."""
        return await templates.update(request, unit)

    async def set_roster_contract(self, request: pb.SetRosterContractRequest, unit: Unit) -> pb.RosterContract:
        """Set what somebody may work by contract."""
        return await terms.set_contract(request, unit)

    async def get_roster_contract(self, request: pb.GetRosterContractRequest, unit: Unit) -> pb.RosterContract:
        """Read what somebody may work by contract."""
        return await terms.get_contract(request, unit)

    async def set_roster_demand(self, request: pb.SetRosterDemandRequest, unit: Unit) -> pb.RosterDemand:
        """Set how many people a branch needs."""
        return await terms.set_demand(request, unit)

    async def get_roster_demand(self, request: pb.GetRosterDemandRequest, unit: Unit) -> pb.RosterDemand:
        """Read how many people a branch needs."""
        return await terms.get_demand(request, unit)

    async def forecast_roster_demand(self, request: pb.ForecastRosterDemandRequest, unit: Unit) -> pb.RosterForecast:
        """Compute how many people a branch will need."""
        return await terms.forecast(request, unit)

    async def create_roster_wish(self, request: pb.CreateRosterWishRequest, unit: Unit) -> pb.RosterWish:
        """Put in a wish."""
        return await wishes.create(request, unit)

    async def list_roster_wishes(self, request: pb.ListRosterWishesRequest, unit: Unit) -> pb.ListRosterWishesResponse:
        """List wishes, the oldest first."""
        return await wishes.find(request, unit)

    async def delete_roster_wish(self, request: pb.DeleteRosterWishRequest, unit: Unit) -> pb.RosterWish:
        """Take a wish back."""
        return await wishes.delete(request, unit)

    async def create_roster(self, request: pb.CreateRosterRequest, unit: Unit) -> pb.Roster:
        """Have a roster proposed."""
        # It would be found without, a few seconds later.
        unit.after_commit(lambda: self.context.wake(jobs.JOB))
        return await proposals.create(request, unit)

    async def list_rosters(self, request: pb.ListRostersRequest, unit: Unit) -> pb.ListRostersResponse:
        """List rosters, the latest made first."""
        return await proposals.find(request, unit)

    async def get_roster(self, request: pb.GetRosterRequest, unit: Unit) -> pb.Roster:
        """Read a roster."""
        return await proposals.get(request, unit)

    async def update_roster(self, request: pb.UpdateRosterRequest, unit: Unit) -> pb.Roster:
        """Change shifts of a roster by hand."""
        return await proposals.update(request, unit)

    async def publish_roster(self, request: pb.PublishRosterRequest, unit: Unit) -> pb.Roster:
        """Make a roster what people work."""
        return await publishing.publish(request, unit)

    async def discard_roster(self, request: pb.DiscardRosterRequest, unit: Unit) -> pb.Roster:
        """Give up a roster."""
        return await proposals.discard(request, unit)

    async def request_shift_swap(self, request: pb.RequestShiftSwapRequest, unit: Unit) -> pb.ShiftSwap:
        """Ask a colleague to swap."""
        return await swaps.request(request, unit)

    async def list_shift_swaps(self, request: pb.ListShiftSwapsRequest, unit: Unit) -> pb.ListShiftSwapsResponse:
        """List swaps, the latest asked for first."""
        return await swaps.find(request, unit)

    async def get_shift_swap(self, request: pb.GetShiftSwapRequest, unit: Unit) -> pb.ShiftSwap:
        """Read a swap."""
        return await swaps.get(request, unit)

    async def accept_shift_swap(self, request: pb.AcceptShiftSwapRequest, unit: Unit) -> pb.ShiftSwap:
        """The colleague agrees."""
        return await swaps.accept(request, unit)

    async def approve_shift_swap(self, request: pb.ApproveShiftSwapRequest, unit: Unit) -> pb.ShiftSwap:
        """Swap both days."""
        return await swaps.approve(request, unit)

    async def decline_shift_swap(self, request: pb.DeclineShiftSwapRequest, unit: Unit) -> pb.ShiftSwap:
        """Somebody says no."""
        return await swaps.decline(request, unit)
