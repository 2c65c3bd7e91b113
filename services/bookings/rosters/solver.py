"""The solver's process: reads a problem, tells how far it is, and answers a roster; one line of JSON each.

    python -m services.bookings.rosters.solver

It is a process of its own because the solver's library and its memory belong to a roster, not to the service: it ends
with the answer, it may use a bounded amount of memory, and it dies when nobody holds its input open any more.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from services.bookings.rosters import program as programs
from services.bookings.rosters.problem import Person, Plan, Problem, Shift, dump_plan, load
from services.bookings.rosters.program import Program

SEED = 7
GAP = 0.01
"""A roster this close to the best there could be is good enough: the rest is below what anybody notices."""
WEEK_GAP = 0.03
WEEKS_SHARE = 0.5
LEAST_SECONDS = 0.5
MOST_MEMORY_BYTES = 2 * 1024**3
REPORT_SECONDS = 0.5

Report = Callable[[float | None, float | None], None]
"""Called with the best points so far and those nothing can be below."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The best roster that was found."""

    plan: dict[tuple[str, int], Shift]
    points: float
    bound: float
    seconds: float
    is_proven: bool
    """Nothing can be better by more than the gap; otherwise the time ran out first."""


def _to_nobody(_best: float | None, _bound: float | None) -> None:
    """Nobody wants to know."""


def solve(problem: Problem, seconds: float, report: Report = _to_nobody) -> Solution:
    """The best roster found within some seconds. The same problem has the same answer, unless time runs out."""
    started = time.monotonic()
    program = programs.build(problem)
    plan = _by_weeks(problem, seconds * WEEKS_SHARE, report) if problem.days > 7 else programs.least(problem)
    left = max(seconds - (time.monotonic() - started), LEAST_SECONDS)
    found, points, bound, proven = _run(program, plan, left, GAP, report)
    return Solution(found, points, bound, time.monotonic() - started, proven)


def _by_weeks(problem: Problem, seconds: float, report: Report) -> dict[tuple[str, int], Shift]:
    """A first roster, week after week, each with what the weeks before it settled: good, and there soon."""
    plan: dict[tuple[str, int], Shift] = {}
    weeks = problem.weeks()
    ends_at = time.monotonic() + seconds
    for number, days in enumerate(weeks):
        week = _one_week(problem, days, plan)
        left = max((ends_at - time.monotonic()) / (len(weeks) - number), LEAST_SECONDS)
        found, *_ = _run(programs.build(week), programs.least(week), left, WEEK_GAP, _to_nobody)
        plan |= found
        report(None, None)
    return plan


def _one_week(problem: Problem, days: range, plan: Plan) -> Problem:
    before: dict[str, list[Shift]] = {}
    for (staff_id, _), shift in plan.items():
        before.setdefault(staff_id, []).append(shift)
    people = tuple(_after(problem, person, before.get(person.id, [])) for person in problem.people)
    slots = tuple(slot for slot in problem.slots if slot.day in days)
    return replace(problem, first_day=days[0], days=len(days), people=people, slots=slots)


def _after(problem: Problem, person: Person, shifts: list[Shift]) -> Person:
    """Somebody once some shifts are settled."""
    return replace(
        person,
        known=(*person.known, *shifts),
        past_weekends=person.past_weekends + sum(1 for shift in shifts if shift.day in problem.weekend),
        past_lates=person.past_lates + sum(1 for shift in shifts if shift.is_late),
        past_minutes=person.past_minutes + sum(shift.minutes for shift in shifts),
    )


def _run(
    program: Program, start: Plan, seconds: float, gap: float, report: Report
) -> tuple[dict[tuple[str, int], Shift], float, float, bool]:
    """Points, bound and whether the gap was reached, with the roster."""
    # Only here: nothing else of the platform may load it.
    import highspy
    import numpy as np

    solver = highspy.Highs()  # type: ignore[no-untyped-call]
    solver.silent()
    options = {"threads": 1, "random_seed": SEED, "time_limit": seconds, "mip_rel_gap": gap}
    for name, value in options.items():
        solver.setOptionValue(name, value)
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(program.costs), len(program.row_lowers)
    model.col_cost_ = np.array(program.costs, dtype=float)
    model.col_lower_ = np.zeros(len(program.costs))
    model.col_upper_ = np.array(program.uppers, dtype=float)
    model.row_lower_ = np.array(program.row_lowers, dtype=float)
    model.row_upper_ = np.array(program.row_uppers, dtype=float)
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = np.array([*program.starts, len(program.indices)], dtype=np.int32)
    model.a_matrix_.index_ = np.array(program.indices, dtype=np.int32)
    model.a_matrix_.value_ = np.array(program.values, dtype=float)
    integer = set(program.integer)
    kinds = highspy.HighsVarType
    model.integrality_ = [
        kinds.kInteger if column in integer else kinds.kContinuous for column in range(len(program.costs))
    ]
    if program.costs:
        solver.passModel(model)
        columns, values = program.solution(start)
        if columns:
            solver.setSolution(len(columns), np.array(columns, dtype=np.int32), np.array(values))
        _watch(solver, report)
        solver.run()
    return _answer(solver, program, start)


def _watch(solver, report: Report) -> None:  # type: ignore[no-untyped-def]
    """Report progress, not more often than anybody wants to know."""
    told_at = 0.0

    def tell(event) -> None:  # type: ignore[no-untyped-def]
        nonlocal told_at
        if time.monotonic() - told_at >= REPORT_SECONDS:
            told_at = time.monotonic()
            best, bound = event.data_out.mip_primal_bound, event.data_out.mip_dual_bound
            report(_told(best), _told(bound))

    solver.cbMipInterrupt += tell


def _told(points: float) -> float | None:
    return points if math.isfinite(points) else None


def _answer(  # type: ignore[no-untyped-def]
    solver, program: Program, start: Plan
) -> tuple[dict[tuple[str, int], Shift], float, float, bool]:
    info = solver.getInfo()
    values = list(solver.getSolution().col_value)
    if not values or info.primal_solution_status == 0:
        # Not even the beginning could be completed in time: it holds all the same.
        return dict(start), programs.FOREVER, -programs.FOREVER, False
    import highspy

    proven = solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return program.plan(values), info.objective_function_value, info.mip_dual_bound, proven


# --- the process ---


def main() -> int:
    """Read a problem from standard input, write progress and the answer to standard output."""
    _bound_memory()
    question = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    started = time.monotonic()

    def report(best: float | None, bound: float | None) -> None:
        _write({"seconds": round(time.monotonic() - started, 1), "best": best, "bound": bound})

    problem = load(question["problem"])
    answer = solve(problem, float(question["seconds"]), report)
    _write(
        {
            "plan": dump_plan(answer.plan),
            "points": _told(answer.points),
            "bound": _told(answer.bound),
            "seconds": round(answer.seconds, 2),
            "is_proven": answer.is_proven,
        }
    )
    return 0


def _bound_memory() -> None:
    # One thread: others would only reserve memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))


def _die_with_parent() -> None:
    """End at once when nobody holds the other end of the input any more."""
    while sys.stdin.read(1):
        pass
    os._exit(1)


def _write(content: object) -> None:
    sys.stdout.write(json.dumps(content, separators=(",", ":")) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
