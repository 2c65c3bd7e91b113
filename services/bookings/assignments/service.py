"""The RPCs of assignments, in the order of the contract."""

from __future__ import annotations

from foyer.bookings.v1 import assignments_pb2 as pb
from foyer.bookings.v1 import bookings_pb2

from chassis.app import Context
from chassis.unit import Unit
from services.bookings.assignments import claims, extension, rota


class Assignments:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def get_rota(self, request: pb.GetRotaRequest, unit: Unit) -> pb.Rota:
        """Read the rota of a branch."""
        return await rota.get(request, unit)

    async def order_rota(self, request: pb.OrderRotaRequest, unit: Unit) -> pb.Rota:
        """Put the rota into an order."""
        return await rota.order(request, unit)

    async def sign_in_to_rota(self, request: pb.SignInToRotaRequest, unit: Unit) -> pb.Rota:
        """Somebody comes to work."""
        return await rota.sign_in(request, unit)

    async def sign_out_of_rota(self, request: pb.SignOutOfRotaRequest, unit: Unit) -> pb.Rota:
        """Somebody leaves the rota."""
        return await rota.sign_out(request, unit)

    async def extend_booking(self, request: pb.ExtendBookingRequest, unit: Unit) -> bookings_pb2.Booking:
        """Add time to a booking."""
        return await extension.extend(request, unit)

    async def offer_booking(self, request: pb.OfferBookingRequest, unit: Unit) -> pb.ClaimOffer:
        """Offer a booking to groups of people."""
        return await claims.offer(request, unit)

    async def list_claim_offers(self, request: pb.ListClaimOffersRequest, unit: Unit) -> pb.ListClaimOffersResponse:
        """List offers."""
        return await claims.find(request, unit)

    async def get_claim_offer(self, request: pb.GetClaimOfferRequest, unit: Unit) -> pb.ClaimOffer:
        """Read an offer."""
        return await claims.get(request, unit)

    async def claim_booking(self, request: pb.ClaimBookingRequest, unit: Unit) -> pb.ClaimOffer:
        """Take a booking that is on offer."""
        return await claims.claim(request, unit)

    async def withdraw_claim_offer(self, request: pb.WithdrawClaimOfferRequest, unit: Unit) -> pb.ClaimOffer:
        """Take an offer back."""
        return await claims.withdraw(request, unit)
