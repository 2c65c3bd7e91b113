"""What an import tells: progress, a summary of all rows, the rows that were refused, and a file of them."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tools.importing.expressions import as_text, minor_digits
from tools.importing.planning import SECTIONS, Plan, Remark
from tools.importing.reading import BadRow
from tools.importing.runner import Outcome

MOST_SHOWN = 50
MOST_LINES_NAMED = 8


@contextmanager
def progress(plan: Plan, console: Console) -> Iterator[Callable[[str], None]]:
    """Bars while the block runs; answers what is to be called with a section whenever one of its things is settled."""
    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {name: bars.add_task(name, total=len(plan.requests[name])) for name in SECTIONS if plan.requests[name]}
        yield lambda section: bars.advance(tasks[section])


def summary(plan: Plan, outcome: Outcome | None) -> dict[str, Any]:
    """Everything an import did, as plain values; without an outcome it was a dry run."""
    refused = all_refused(plan, outcome)
    sources = {
        place: {"rows": count.rows, "left_out": count.left_out, "planned": count.planned, "matched": count.matched}
        for place, count in plan.counts.items()
    }
    sections = {
        name: {
            "planned": len(plan.requests[name]),
            "made": outcome.made[name] if outcome else 0,
            "found": outcome.found[name] if outcome else 0,
        }
        for name in SECTIONS
        if plan.requests[name]
    }
    money = {name: _decimal(plan, units) for name, units in plan.money.items()}
    money["net"] = _decimal(plan, plan.money["sales"] + plan.money["refunds"])
    return {
        "dry_run": outcome is None,
        "sources": sources,
        "sections": sections,
        "money": {"currency": plan.mapping.currency, **money},
        "refused": [{"file": bad.file, "line": bad.line, "reason": bad.reason} for bad in refused],
        "remarks": [{"file": remark.file, "line": remark.line, "text": remark.text} for remark in plan.remarks],
    }


def all_refused(plan: Plan, outcome: Outcome | None) -> list[BadRow]:
    """Every row that was not taken, in the order of the files."""
    rows = [*plan.bad_rows, *(outcome.refused if outcome else [])]
    return sorted(rows, key=lambda bad: (bad.file, bad.line))


def show(plan: Plan, outcome: Outcome | None, console: Console) -> None:
    """Print the summary for people."""
    content = summary(plan, outcome)
    sources = Table("rows of", "rows", "left out", "records", "ended another", title="Read", title_justify="left")
    for place, count in content["sources"].items():
        sources.add_row(place, *(str(count[name]) for name in ("rows", "left_out", "planned", "matched")))
    console.print(sources)
    title = "Would be made (dry run)" if outcome is None else "Made"
    sections = Table("what", "planned", "made now", "there before", title=title, title_justify="left")
    for name, count in content["sections"].items():
        sections.add_row(name, *(str(count[key]) for key in ("planned", "made", "found")))
    console.print(sections)
    if plan.requests["payments"]:
        money = content["money"]
        texts = [f"{name} {money[name]}" for name in ("sales", "refunds", "net", "tax")]
        console.print(f"Payments in {money['currency']}: {', '.join(texts)}", highlight=False)
    _show_remarks(plan.remarks, console)
    _show_refused(all_refused(plan, outcome), console)


def _show_remarks(remarks: Sequence[Remark], console: Console) -> None:
    grouped: dict[tuple[str, str], list[int]] = defaultdict(list)
    for remark in remarks:
        grouped[remark.file, remark.text].append(remark.line)
    if grouped:
        console.print("Taken, and worth knowing:")
    for (file, text), lines in list(grouped.items())[:MOST_SHOWN]:
        named = ", ".join(map(str, lines[:MOST_LINES_NAMED]))
        more = f" and {len(lines) - MOST_LINES_NAMED} more" if len(lines) > MOST_LINES_NAMED else ""
        console.print(f"  {escape(file)}:{named}{more}: {escape(text)}", highlight=False, soft_wrap=True)
    if len(grouped) > MOST_SHOWN:
        console.print(f"  and {len(grouped) - MOST_SHOWN} more remarks")


def _show_refused(rows: Sequence[BadRow], console: Console) -> None:
    console.print(f"Refused: {len(rows)} rows", style="bold red" if rows else "bold green")
    for bad in rows[:MOST_SHOWN]:
        console.print(f"  {escape(bad.file)}:{bad.line}: {escape(bad.reason)}", highlight=False, soft_wrap=True)
    if len(rows) > MOST_SHOWN:
        console.print(f"  and {len(rows) - MOST_SHOWN} more: see the file of refused rows")


def write_refused(path: Path, rows: Sequence[BadRow]) -> bool:
    """Write the refused rows as CSV, or take away the file of a run before; answers whether there is one now."""
    if not rows:
        path.unlink(missing_ok=True)
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "line", "reason", "row"])
        for bad in rows:
            cells = {name: as_text(cell) for name, cell in bad.cells.items()}
            writer.writerow([bad.file, bad.line, bad.reason, json.dumps(cells, ensure_ascii=False)])
    return True


def _decimal(plan: Plan, units: int) -> str:
    """Minor units as people write them."""
    return str(Decimal(units).scaleb(-minor_digits(plan.mapping.currency)))
