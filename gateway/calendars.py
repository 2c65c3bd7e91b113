"""Calendar feeds, as calendar programs read them: no sign-in but the secret in the address.

The secret is in the path, so the path is told nowhere: metrics and the log of requests know the route only.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from foyer.bookings.v1 import calendars_pb2, calendars_pb2_grpc
from starlette.responses import Response

from chassis.access import CALLER_METADATA
from chassis.client import read
from chassis.errors import not_found
from chassis.icalendar import MEDIA_TYPE
from gateway.core import GATEWAY_CALLER, Gateway, exchange_of, respond
from gateway.exchange import NOT_MODIFIED, Answer, Headers

LONGEST_TOKEN = 200
LONGEST_HEADER = 1000
DEADLINE_SECONDS = 10.0
KEPT_SECONDS = 300

router = APIRouter()


@router.api_route("/v1/calendars/{token}.ics", methods=["GET", "HEAD"], include_in_schema=False)
async def read_calendar(request: Request, token: str) -> Response:
    """Answer the calendar behind a secret address."""
    gateway: Gateway = request.app
    exchange = exchange_of(request)
    gateway.count_address(exchange)
    if len(token) > LONGEST_TOKEN or not token.isascii():
        raise not_found("calendar", "token")
    known = exchange.header(b"if-none-match") or ""
    message = calendars_pb2.ReadCalendarRequest(token=token, if_none_match=known[:LONGEST_HEADER])
    metadata = [
        (CALLER_METADATA, gateway.caller_tokens.mint(GATEWAY_CALLER)),
        ("traceparent", exchange.trace.traceparent),
    ]
    stub = calendars_pb2_grpc.CalendarsStub(gateway.clients.channel("bookings"))
    calendar = await read(stub.ReadCalendar, message, metadata, DEADLINE_SECONDS)
    headers: Headers = [
        (b"etag", calendar.etag.encode()),
        (b"cache-control", b"private, max-age=%d" % KEPT_SECONDS),
        (b"x-robots-tag", b"noindex"),
    ]
    if calendar.not_modified:
        return respond(Answer(NOT_MODIFIED, b"", MEDIA_TYPE, headers))
    return respond(Answer(200, calendar.body, MEDIA_TYPE, headers))
