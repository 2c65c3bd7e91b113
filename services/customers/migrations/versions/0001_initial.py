"""Customers, and the search for them."""

from alembic import op

from chassis.db import create_chassis_tables, create_tables
from services.customers.models import metadata

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Under row-level security an operator that is not leakproof, such as @>, comes after the policy and never reaches its
# index (a hundred times slower at 100,000 customers). This function runs as the owner, who passes by the policy, and
# therefore names the chain itself: that of the transaction, which it takes from nobody. It only reads.
# `execute` plans for the values at hand: for a rare gram by the index, for one that everybody has newest first.
SEARCH = """
create function search_customers(
  words text[], grams integer[], names_only boolean,
  branches uuid[], home uuid, external text, before uuid, most integer
) returns setof customers
language plpgsql stable security definer
set search_path = pg_catalog, public, pg_temp
rows 50
as $$
begin
  return query execute '
    select c.* from public.customers as c
    where c.chain_id = nullif(current_setting(''foyer.chain_id'', true), '''')::uuid
      and c.search_grams @> $2
      and c.id < $7
      and ($4 is null or c.home_branch_id is null or c.home_branch_id = any ($4))
      and ($5 is null or c.home_branch_id = $5)
      and ($6 is null or c.external_id = $6)
      and not exists (
        select from unnest($1) as word
        where strpos(case when $3 then split_part(c.search_text, e''\\n'', 1) else c.search_text end, word) = 0
      )
    order by c.id desc limit least($8, 201)'
  using words, grams, names_only, branches, home, external, before, most;
end
$$
"""


def upgrade() -> None:
    create_chassis_tables(op)
    create_tables(op, metadata)
    # The owner sees no row either where row-level security is forced; for the function it may read customers.
    op.execute("create policy searching on customers for select to foyer_owner using (true)")
    op.execute(SEARCH)
    signature = "search_customers(text[], integer[], boolean, uuid[], uuid, text, uuid, integer)"
    op.execute(f"revoke all on function {signature} from public")
    op.execute(f"grant execute on function {signature} to foyer_app")
