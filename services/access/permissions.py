"""Every permission there is, and the ready-made roles: who may do what in a chain that set up nothing of its own.

A test in tests/tidy holds PERMISSIONS against the protos: a permission that an RPC or a field names must be here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

OWNER = "owner"

PERMISSIONS = frozenset(
    {
        "accounts.read",
        "accounts.write",
        "api_keys.read",
        "api_keys.write",
        "bookings.claim",
        "bookings.configure",
        "bookings.override",
        "bookings.read",
        "bookings.write",
        "branches.read",
        "branches.write",
        "calendars.read",
        "calendars.write",
        "catalogue.read",
        "catalogue.write",
        "chain.write",
        "classes.write",
        "customers.read",
        "customers.read_contact",
        "customers.write",
        "events.read",
        "leaves.request",
        "messages.read",
        "messages.write",
        "operations.read",
        "operations.write",
        "payments.read",
        "payments.write",
        "records.import",
        "reports.read",
        "reports.rebuild",
        "resources.read",
        "resources.write",
        "roles.write",
        "rosters.own",
        "rosters.read",
        "rosters.write",
        "staff.read",
        "staff.write",
        "stock.read",
        "stock.write",
        "templates.read",
        "templates.write",
        "wallet.audit",
        "wallet.charge",
        "wallet.configure",
        "wallet.read",
        "wallet.refund",
        "wallet.top_up",
    }
)


@dataclass(frozen=True, slots=True)
class ReadyMadeRole:
    """A role that comes with the product: its titles, and what it allows."""

    name: str
    zh: str
    en: str
    permissions: frozenset[str]

    def title(self, language: str) -> str:
        """The title in `language` (zh or en)."""
        return self.zh if language == "zh" else self.en


# What everybody who works somewhere needs to find their way.
_BASIS = frozenset(
    {
        "branches.read",
        "catalogue.read",
        "staff.read",
        "bookings.read",
        "resources.read",
        "rosters.read",
        "stock.read",
        "leaves.request",
        "rosters.own",
    }
)
_OFFICE = _BASIS | {"customers.read"}
# Bookings are offered to those who do them.
_AT_WORK = _OFFICE | {"bookings.claim"}
_CUSTOMERS = _BASIS | {"customers.read", "customers.read_contact", "customers.write", "bookings.write", "wallet.read"}
_CALENDARS = {"calendars.read", "calendars.write"}
_FRONT_DESK = (
    _CUSTOMERS
    | _CALENDARS
    # Who rings to take a booking that is on offer has it written down.
    | {"bookings.claim"}
    | {"stock.write", "wallet.top_up", "wallet.charge", "payments.read", "payments.write", "messages.read"}
)

READY_MADE: Mapping[str, ReadyMadeRole] = {
    role.name: role
    for role in (
        ReadyMadeRole("front_desk", "前台", "Front desk", _FRONT_DESK),
        ReadyMadeRole(
            "customer_service",
            "客服",
            "Customer service",
            _CUSTOMERS | _CALENDARS | {"messages.read", "messages.write", "templates.read"},
        ),
        ReadyMadeRole("sales", "销售", "Sales", _CUSTOMERS | {"wallet.top_up", "messages.read"}),
        ReadyMadeRole("photographer", "摄影师", "Photographer", _AT_WORK),
        ReadyMadeRole("therapist", "理疗师", "Therapist", _AT_WORK),
        ReadyMadeRole("makeup_artist", "化妆师", "Make-up artist", _AT_WORK),
        ReadyMadeRole("retoucher", "修图师", "Retoucher", _AT_WORK),
        ReadyMadeRole("production", "制作", "Production", _AT_WORK | {"stock.write"}),
        ReadyMadeRole(
            "finance",
            "财务",
            "Finance",
            _OFFICE
            | {"wallet.read", "wallet.refund", "wallet.audit", "payments.read", "payments.write", "reports.read"},
        ),
        ReadyMadeRole(
            "legal",
            "法务",
            "Legal",
            _OFFICE
            | {
                "accounts.read",
                "customers.read_contact",
                "messages.read",
                "payments.read",
                "templates.read",
                "wallet.read",
            },
        ),
        ReadyMadeRole(
            "store_manager",
            "店长",
            "Store manager",
            _FRONT_DESK
            | {
                "accounts.read",
                "accounts.write",
                "bookings.override",
                "branches.write",
                "catalogue.write",
                "classes.write",
                "messages.write",
                "reports.read",
                "resources.write",
                "rosters.write",
                "staff.write",
                "templates.read",
                "wallet.refund",
            },
        ),
        ReadyMadeRole(OWNER, "店主", "Owner", PERMISSIONS),
    )
}
