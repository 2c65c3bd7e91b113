"""The RPCs of Resources, in the order of the contract. What they do is in the module of their noun."""

from __future__ import annotations

from foyer.bookings.v1 import resources_pb2 as pb

from chassis.app import Context
from chassis.unit import Unit
from services.bookings.resources import blocks, loans, resource_types, stock, units


class Resources:
    """The servicer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def create_resource_type(self, request: pb.CreateResourceTypeRequest, unit: Unit) -> pb.ResourceType:
        """Make a resource type."""
        return await resource_types.create(request, unit)

    async def list_resource_types(
        self, request: pb.ListResourceTypesRequest, unit: Unit
    ) -> pb.ListResourceTypesResponse:
        """List the resource types, by name."""
        return await resource_types.find(request, unit)

    async def get_resource_type(self, request: pb.GetResourceTypeRequest, unit: Unit) -> pb.ResourceType:
        """Read a resource type."""
        return await resource_types.get(request, unit)

    async def update_resource_type(self, request: pb.UpdateResourceTypeRequest, unit: Unit) -> pb.ResourceType:
        """Change a resource type."""
        return await resource_types.update(request, unit)

    async def count_resources(self, request: pb.CountResourcesRequest, unit: Unit) -> pb.ResourceCounts:
        """Count the units of a type at a branch."""
        return await resource_types.count(request, unit)

    async def create_resources(self, request: pb.CreateResourcesRequest, unit: Unit) -> pb.CreateResourcesResponse:
        """Put units of a type into a branch."""
        return await units.create(request, unit)

    async def list_resources(self, request: pb.ListResourcesRequest, unit: Unit) -> pb.ListResourcesResponse:
        """List units, by name."""
        return await units.find(request, unit)

    async def get_resource(self, request: pb.GetResourceRequest, unit: Unit) -> pb.Resource:
        """Read a unit."""
        return await units.get(request, unit)

    async def update_resource(self, request: pb.UpdateResourceRequest, unit: Unit) -> pb.Resource:
        """Change a unit."""
        return await units.update(request, unit)

    async def block_resource(self, request: pb.BlockResourceRequest, unit: Unit) -> pb.ResourceBlock:
        """Take a unit out of service for a time."""
        return await blocks.create(request, unit)

    async def list_resource_blocks(
        self, request: pb.ListResourceBlocksRequest, unit: Unit
    ) -> pb.ListResourceBlocksResponse:
        """List the times at which a unit is out of service."""
        return await blocks.find(request, unit)

    async def unblock_resource(self, request: pb.UnblockResourceRequest, unit: Unit) -> pb.UnblockResourceResponse:
        """Take a time out of service back."""
        return await blocks.delete(request, unit)

    async def create_loan(self, request: pb.CreateLoanRequest, unit: Unit) -> pb.Loan:
        """Lend a unit without a booking."""
        return await loans.create(request, unit)

    async def list_loans(self, request: pb.ListLoansRequest, unit: Unit) -> pb.ListLoansResponse:
        """List loans, by when they are due."""
        return await loans.find(request, unit)

    async def get_loan(self, request: pb.GetLoanRequest, unit: Unit) -> pb.Loan:
        """Read a loan."""
        return await loans.get(request, unit)

    async def return_loan(self, request: pb.ReturnLoanRequest, unit: Unit) -> pb.Loan:
        """The unit is back."""
        return await loans.give_back(request, unit)

    async def create_stock_item(self, request: pb.CreateStockItemRequest, unit: Unit) -> pb.StockItem:
        """Keep stock of something."""
        return await stock.create(request, unit)

    async def list_stock_items(self, request: pb.ListStockItemsRequest, unit: Unit) -> pb.ListStockItemsResponse:
        """List stock, by name."""
        return await stock.find(request, unit)

    async def get_stock_item(self, request: pb.GetStockItemRequest, unit: Unit) -> pb.StockItem:
        """Read a stock item."""
        return await stock.get(request, unit)

    async def update_stock_item(self, request: pb.UpdateStockItemRequest, unit: Unit) -> pb.StockItem:
        """Change a stock item."""
        return await stock.update(request, unit)

    async def receive_stock(self, request: pb.ReceiveStockRequest, unit: Unit) -> pb.StockItem:
        """Stock came in."""
        return await stock.receive(request, unit)

    async def use_stock(self, request: pb.UseStockRequest, unit: Unit) -> pb.StockItem:
        """Stock was used or written off."""
        return await stock.use(request, unit)

    async def count_stock(self, request: pb.CountStockRequest, unit: Unit) -> pb.StockItem:
        """Stock was counted."""
        return await stock.count(request, unit)

    async def list_stock_movements(
        self, request: pb.ListStockMovementsRequest, unit: Unit
    ) -> pb.ListStockMovementsResponse:
        """List the movements of a stock item."""
        return await stock.movements(request, unit)
