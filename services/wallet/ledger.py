"""Double entry: what each movement of money writes to which account.

A positive posting is what the chain owes or has earned, a negative one what it has or has given: cash of 100 paid into
a wallet is cash -100, principal +100. Each transaction sums to zero; a trigger of the database checks it once more.

movement        postings (+ and -)
top-up          + principal  - cash | card | bank | clearing;   + gift  - gift_expense
charge          - principal  - gift  + revenue
refund          + principal  + gift  - revenue
sale, refund    - cash | card | bank | other  + revenue  + tax, and the reverse

Customers' accounts are principal and gift; revenue, cash, card, bank, other and tax are of a branch, or of the chain
where no branch is named; gift_expense and clearing (money a provider owes us) are of the chain.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.wallet.domain import Parts

PRINCIPAL = "principal"
GIFT = "gift"
REVENUE = "revenue"
TAX = "tax"
GIFT_EXPENSE = "gift_expense"
CLEARING = "clearing"
CUSTOMER_ACCOUNTS = (PRINCIPAL, GIFT)
# Where money taken by each method lies.
TILL_ACCOUNTS = {"cash": "cash", "card": "card", "bank": "bank", "other": "other"}


@dataclass(frozen=True, slots=True)
class Posting:
    """A signed amount on an account, which is named by its kind and its owner."""

    account: str
    owner_id: str
    amount: int


@dataclass(frozen=True, slots=True)
class Postings:
    """What one transaction writes: the customer's entries first. Raises ValueError unless it sums to zero."""

    lines: tuple[Posting, ...]

    def __post_init__(self) -> None:
        if sum(line.amount for line in self.lines) != 0:
            raise ValueError(f"does not sum to zero: {self.lines}")
        accounts = [(line.account, line.owner_id) for line in self.lines]
        if len(set(accounts)) != len(accounts):
            raise ValueError(f"an account twice in one transaction: {self.lines}")

    @property
    def entries(self) -> int:
        """How many of them are a customer's."""
        return sum(line.account in CUSTOMER_ACCOUNTS for line in self.lines)

    @property
    def customer(self) -> Parts:
        """What changes in the customer's balances."""
        amounts = {line.account: line.amount for line in self.lines}
        return Parts(amounts.get(PRINCIPAL, 0), amounts.get(GIFT, 0))


def _postings(*lines: Posting) -> Postings:
    """Postings that move something, the customer's first."""
    moving = [line for line in lines if line.amount]
    return Postings(tuple(sorted(moving, key=lambda line: line.account not in CUSTOMER_ACCOUNTS)))


def top_up(paid: Parts, method: str, customer_id: str, branch_id: str | None, chain_id: str) -> Postings:
    """Money paid in and what the chain gives on top."""
    account, owner_id = CLEARING, chain_id
    if method in TILL_ACCOUNTS:
        account, owner_id = TILL_ACCOUNTS[method], branch_id or chain_id
    return _postings(
        Posting(PRINCIPAL, customer_id, paid.principal),
        Posting(GIFT, customer_id, paid.gift),
        Posting(account, owner_id, -paid.principal),
        Posting(GIFT_EXPENSE, chain_id, -paid.gift),
    )


def charge(taken: Parts, customer_id: str, branch_id: str | None, chain_id: str) -> Postings:
    """Stored money used. statements.CHARGE writes the same lines."""
    return _postings(
        Posting(PRINCIPAL, customer_id, -taken.principal),
        Posting(GIFT, customer_id, -taken.gift),
        Posting(REVENUE, branch_id or chain_id, taken.total),
    )


def refund(given: Parts, customer_id: str, branch_id: str | None, chain_id: str) -> Postings:
    """A charge given back, or a part of it."""
    return _postings(
        Posting(PRINCIPAL, customer_id, given.principal),
        Posting(GIFT, customer_id, given.gift),
        Posting(REVENUE, branch_id or chain_id, -given.total),
    )


def payment(kind: str, amount: int, tax: int, method: str, branch_id: str) -> Postings:
    """Money taken (`sale`) or given back (`refund`) at a branch's till."""
    sign = 1 if kind == "sale" else -1
    return _postings(
        Posting(TILL_ACCOUNTS[method], branch_id, -sign * (amount + tax)),
        Posting(REVENUE, branch_id, sign * amount),
        Posting(TAX, branch_id, sign * tax),
    )
