"""A customer's wallet as a few numbers: what the ledger in the database must agree with, whatever is done to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from chassis.errors import Refusal
from services.wallet import domain, ledger
from services.wallet.domain import NOTHING, Parts

CUSTOMER, BRANCH, CHAIN = "customer", "branch", "chain"


def attempt(step: Callable[[], Parts]) -> Parts | Refusal:
    """What a step did, or why it was refused."""
    try:
        return step()
    except Refusal as refusal:
        return refusal


@dataclass
class Charged:
    parts: Parts
    refunded: Parts = NOTHING


@dataclass
class Hold:
    parts: Parts
    expires_at: int
    status: str = "authorized"


@dataclass
class Model:
    """Times are whole minutes. A refusal leaves everything as it was."""

    order: str = "proportional"
    posted: Parts = NOTHING
    now: int = 0
    charges: list[Charged] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    accounts: dict[tuple[str, str], int] = field(default_factory=dict)
    entries: list[tuple[str, int, int]] = field(default_factory=list)

    def status(self, hold: Hold) -> str:
        return "expired" if hold.status == "authorized" and hold.expires_at <= self.now else hold.status

    @property
    def held(self) -> Parts:
        return sum((hold.parts for hold in self.holds if self.status(hold) == "authorized"), NOTHING)

    @property
    def available(self) -> Parts:
        return self.posted - self.held

    def top_up(self, principal: int, gift: int, method: str = "cash") -> None:
        self._post(ledger.top_up(Parts(principal, gift), method, CUSTOMER, BRANCH, CHAIN))

    def charge(self, amount: int) -> Parts:
        domain.need(amount, self.available, "CNY")
        parts = domain.split(amount, self.available, self.order)
        self._post(ledger.charge(parts, CUSTOMER, BRANCH, CHAIN))
        self.charges.append(Charged(parts))
        return parts

    def authorize(self, amount: int, minutes: int) -> Parts:
        domain.need(amount, self.available, "CNY")
        parts = domain.split(amount, self.available, self.order)
        self.holds.append(Hold(parts, self.now + minutes))
        return parts

    def capture(self, hold: Hold, amount: int | None) -> Parts:
        self._must_be_open(hold)
        parts = domain.capture(amount, hold.parts, "CNY")
        hold.status = "captured"
        self._post(ledger.charge(parts, CUSTOMER, BRANCH, CHAIN))
        self.charges.append(Charged(parts))
        return parts

    def void(self, hold: Hold) -> None:
        self._must_be_open(hold)
        hold.status = "voided"

    def refund(self, charged: Charged, amount: int | None) -> Parts:
        parts = domain.refund(amount, charged.parts, charged.refunded, "CNY")
        charged.refunded += parts
        self._post(ledger.refund(parts, CUSTOMER, BRANCH, CHAIN))
        return parts

    def _must_be_open(self, hold: Hold) -> None:
        if self.status(hold) != "authorized":
            raise Refusal("WRONG_STATE", status=self.status(hold))

    def _post(self, postings: ledger.Postings) -> None:
        self.posted += postings.customer
        for line in postings.lines:
            account = (line.account, line.owner_id)
            self.accounts[account] = self.accounts.get(account, 0) + line.amount
            if line.account in ledger.CUSTOMER_ACCOUNTS:
                self.entries.append((line.account, line.amount, self.accounts[account]))

    def check(self) -> None:
        """What must hold after every step."""
        assert sum(self.accounts.values()) == 0
        assert self.accounts.get((ledger.PRINCIPAL, CUSTOMER), 0) == self.posted.principal
        assert self.accounts.get((ledger.GIFT, CUSTOMER), 0) == self.posted.gift
        for part in (self.posted, self.held, self.available):
            assert part.principal >= 0
            assert part.gift >= 0
        for charged in self.charges:
            left = charged.parts - charged.refunded
            assert left.principal >= 0
            assert left.gift >= 0
