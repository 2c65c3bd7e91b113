"""Checking the books: that every transaction sums to zero, and every balance is the sum of its entries."""

from __future__ import annotations

import time

from foyer.wallet.v1 import wallet_pb2 as pb

from chassis import metrics
from chassis.app import Context
from chassis.money import money
from chassis.unit import Unit, system_caller
from services.wallet.statements import named

IMBALANCE = metrics.gauge(
    "foyer_wallet_imbalance", "Minor units by which the books of all chains are wrong; 0 when right."
)
CHECK_SECONDS = 60.0
# A check reads all postings. It may take a hundredth of the time: with more postings it comes less often.
MOST_SHARE_OF_TIME = 0.01

_SUMS = """
sums as (
  select chain_id, owner_id, account, sum(amount) as amount, count(*) as postings
  from postings {where} group by chain_id, owner_id, account
),
balances as (
  select chain_id, customer_id as owner_id, account, amount, held from wallets cross join lateral
    (values ('principal', principal, principal_held), ('gift', gift, gift_held)) as kind(account, amount, held) {where}
)"""
_OF_CHAIN = _SUMS.replace("{where}", "where chain_id = :chain_id::uuid")
_OF_ALL = _SUMS.replace("{where}", "")

SUMMARY = named(
    """
with <sums>
select coalesce(sum(amount), 0)::bigint as imbalance, count(*) as accounts,
  coalesce(sum(postings), 0)::bigint as postings,
  (select coalesce(sum(amount), 0)::bigint from balances where account = 'principal') as principal,
  (select coalesce(sum(amount), 0)::bigint from balances where account = 'gift') as gift
from sums
""",
    sums=_OF_CHAIN,
)

WRONG_ACCOUNTS = named(
    """
with <sums>,
holds as (
  select customer_id as owner_id, sum(principal) as principal, sum(gift) as gift
  from authorizations where chain_id = :chain_id::uuid and status = 'authorized' group by customer_id
)
select coalesce(b.owner_id, s.owner_id)::text || ':' || coalesce(b.account, s.account) as account
from balances b
full join (select * from sums where account in ('principal', 'gift')) s
  on s.owner_id = b.owner_id and s.account = b.account
left join holds h on h.owner_id = b.owner_id
where coalesce(b.amount, 0) <> coalesce(s.amount, 0)
  or b.held <> coalesce(case b.account when 'principal' then h.principal else h.gift end, 0)
order by 1 limit 100
""",
    sums=_OF_CHAIN,
)

# Those that are unbalanced, and postings that belong to no transaction.
WRONG_TRANSACTIONS = named("""
select p.transaction_id from postings p
left join transactions t on t.chain_id = p.chain_id and t.id = p.transaction_id
where p.chain_id = :chain_id::uuid
group by p.transaction_id having sum(p.amount) <> 0 or count(t.id) <> count(*)
order by 1 limit 100
""")

ALL_CHAINS = named(
    """
with <sums>
select (
  (select coalesce(sum(abs(wrong)), 0) from (select sum(amount) as wrong from sums group by chain_id) chains)
  + (select coalesce(sum(abs(coalesce(b.amount, 0) - coalesce(s.amount, 0))), 0) from balances b
     full join (select * from sums where account in ('principal', 'gift')) s
       on s.chain_id = b.chain_id and s.owner_id = b.owner_id and s.account = b.account)
)::bigint as wrong
""",
    sums=_OF_ALL,
)


async def verify(unit: Unit) -> pb.BooksReport:
    """Check the books of the unit's chain."""
    summary = await unit.one(SUMMARY)
    assert summary is not None
    accounts = [row["account"] for row in await unit.all(WRONG_ACCOUNTS)]
    transactions = [row["transaction_id"] for row in await unit.all(WRONG_TRANSACTIONS)]
    currency = unit.caller.currency
    return pb.BooksReport(
        balanced=summary["imbalance"] == 0 and not accounts and not transactions,
        imbalance=summary["imbalance"],
        wrong_account_ids=accounts,
        wrong_transaction_ids=transactions,
        account_count=summary["accounts"],
        posting_count=summary["postings"],
        liability=pb.Balances(principal=money(summary["principal"], currency), gift=money(summary["gift"], currency)),
    )


class BooksJob:
    """Sets the metric `foyer_wallet_imbalance`, over all chains."""

    def __init__(self) -> None:
        self._not_before = 0.0

    async def __call__(self, context: Context) -> None:
        """Check once, unless the last check took so long that it is too early for the next."""
        started = time.monotonic()
        if started < self._not_before:
            return
        try:
            async with context.system_store.unit(system_caller(context.name, ""), read_only=True) as unit:
                IMBALANCE.set(await unit.value(ALL_CHAINS))
        finally:
            ended = time.monotonic()
            self._not_before = ended + (ended - started) / MOST_SHARE_OF_TIME
