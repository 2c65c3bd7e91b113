"""What a request for a visit asks for: its lines, or a package's, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from foyer.bookings.v1 import bookings_pb2 as pb

from chassis.errors import FieldError
from chassis.unit import Unit
from services.bookings import calendar, domain
from services.bookings.common import refuse_if
from services.bookings.plan import Line, Question
from services.bookings.rows import OVERRIDE
from services.bookings.sale import SoldPackage, lines_of_package


def check_asked(request: pb.CreateBookingRequest, unit: Unit, starts_at: datetime | None) -> None:
    """Refuse all that contradicts itself in a request, and overrides without the permission for them."""
    errors = []
    if starts_at is not None and not calendar.is_on_step(starts_at):
        errors.append(domain.off_step_error("starts_at"))
    in_package = request.HasField("package_id")
    # The contract says so of a booking; of a series and a quote nobody else does.
    if not (request.service_id or request.lines or in_package):
        message = "is required, or lines or a package are"
        errors.append(FieldError("service_id", "required", message, "必填，或填写 lines 或 package_id"))
    if request.lines or in_package:
        said = {field.name for field, _ in request.ListFields()}
        names = ("service_id", "choices", "add_on_ids", *(("staff_id",) if request.lines else ()))
        message = "is said by the lines or the package, where there are any"
        errors += [
            FieldError(name, "conflict", message, "已填写 lines 或 package_id 时不应再填写")
            for name in names
            if name in said
        ]
    refuse_if([*errors, *_first_errors(request.lines)])
    if request.allow_overlap or request.HasField("overbook_reason") or request.HasField("waive_deposit_reason"):
        unit.check_branch(request.branch_id.lower(), OVERRIDE)


def _first_errors(lines: Sequence[pb.LineRequest]) -> list[FieldError]:
    if not lines or not lines[0].together:
        return []
    message = "cannot be for the first line: there is none before it"
    return [FieldError("lines[0].together", "first", message, "第一项之前没有其他项目")]


def question_asked(request: pb.CreateBookingRequest, package: SoldPackage | None) -> Question:
    """What a request asks for. Raises Refusal INVALID_REQUEST for lines that are not those of its package."""
    asked: Sequence[pb.LineRequest] = request.lines
    staff_id = request.staff_id if request.HasField("staff_id") else None
    if package is not None:
        asked = lines_of_package(package, request.lines, staff_id)
    elif not asked:
        asked = [
            pb.LineRequest(
                service_id=request.service_id,
                staff_id=staff_id,
                choices=request.choices,
                add_on_ids=request.add_on_ids,
            )
        ]
    return Question(
        request.branch_id.lower(),
        lines_asked(asked, named=bool(request.lines)),
        request.customer_id.lower() or None,
        request.source or None,
        request.allow_overlap,
        package.closed if package is not None else None,
    )


def search_asked(request: pb.SearchAvailabilityRequest, package: SoldPackage | None) -> Question:
    """What a search for free times asks for. Raises Refusal INVALID_REQUEST."""
    if not request.lines and package is None:
        refuse_if([FieldError("lines", "required", "is required, or a package is", "必填，或填写 package_id")])
    refuse_if(_first_errors(request.lines))
    asked = request.lines if package is None else lines_of_package(package, request.lines)
    return Question(
        request.branch_id.lower(),
        lines_asked(asked, named=bool(request.lines)),
        request.customer_id.lower() if request.HasField("customer_id") else None,
        request.source or None,
        closed=package.closed if package is not None else None,
    )


def lines_asked(asked: Sequence[pb.LineRequest], *, named: bool = True) -> tuple[Line, ...]:
    """Lines of a request; `named`: errors name them as `lines[n]`."""
    return tuple(
        Line(
            service_id=line.service_id.lower(),
            customer_id=line.customer_id.lower() if line.HasField("customer_id") else None,
            staff_id=line.staff_id.lower() if line.HasField("staff_id") else None,
            choices=tuple((wanted.need, wanted.id.lower()) for wanted in line.choices),
            add_on_ids=tuple(identifier.lower() for identifier in line.add_on_ids),
            together=line.together,
            guest_name=line.guest_name if line.HasField("guest_name") else None,
            field=f"lines[{index}]." if named else "",
        )
        for index, line in enumerate(asked)
    )
