"""The gateway as an application: FastAPI for what is written by hand, and in front of it the routes of the contract.

Derived routes are found in a tree and answered without FastAPI's own layers, which would cost more than the rest of the
gateway. Both kinds share what surrounds an answer: trace, credentials, limits, problems, common headers, metrics, log.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from foyer.access.v1 import access_pb2, access_pb2_grpc
from starlette.exceptions import HTTPException
from starlette.responses import Response

from chassis import logs, metrics, tracing
from chassis.access import AccessTokens, Caller, CallerTokens
from chassis.client import Clients
from chassis.errors import Refusal
from chassis.jetstream import JetStreamBus
from chassis.settings import Settings
from gateway import contract
from gateway.access_log import AccessLog
from gateway.auth import Authenticator, Credential, bearer
from gateway.events import Streams
from gateway.exchange import (
    COMMON_HEADERS,
    DATA_HEADERS,
    Answer,
    ClientGone,
    Exchange,
    Receive,
    Scope,
    Send,
    problem,
    start_message,
)
from gateway.rates import Rates
from gateway.routing import Routes
from gateway.transcode import Endpoint

CLIENT_GONE_STATUS = 499
UNKNOWN_ROUTE = "unknown"
BUS_TIMEOUT_SECONDS = 3.0
EXCHANGE = "foyer.exchange"
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
HTTP_SECONDS = metrics.histogram(
    "foyer_http_seconds", "Time a request took at the gateway.", ("route", "method", "status")
)

log = logs.logger(__name__)


class Gateway(FastAPI):
    """The application."""

    def __init__(self, settings: Settings) -> None:
        """Derive the routes; nothing is opened before the first request or the lifespan's start."""
        super().__init__(title="Foyer", openapi_url=None, docs_url=None, redoc_url=None, lifespan=_lifespan)
        self.settings = settings
        self.caller_tokens = CallerTokens(settings.secret)
        self.clients = Clients(settings, self.caller_tokens)
        self.authenticator = Authenticator(AccessTokens(settings.secret), self.caller_tokens, self._look_up)
        self.rates = Rates(settings.requests_per_second, settings.open_requests_per_second)
        self.derived: Routes[Endpoint] = Routes()
        for operation in contract.operations():
            endpoint = Endpoint(operation, self.clients.channel)
            self.derived.add(operation.verb, operation.path, endpoint)
        self.streams = Streams()
        self._bus: JetStreamBus | None = None
        self.access_log = AccessLog("gateway", settings.log_level, settings.log_format)
        self._seconds: dict[tuple[str, str, int], Any] = {}
        self.add_exception_handler(Refusal, _tell_refusal)
        self.add_exception_handler(HTTPException, _tell_http_exception)
        self.add_exception_handler(Exception, _tell_unexpected)

    # --- what surrounds every answer ---

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request (ASGI)."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        started = time.perf_counter()
        parent = next((value for name, value in scope["headers"] if name == b"traceparent"), None)
        with tracing.span("http", kind="server", parent=parent.decode("latin-1") if parent else None) as trace:
            exchange = Exchange(scope, receive, trace)
            status = CLIENT_GONE_STATUS
            try:
                found = self.derived.find(exchange.path)
                if found is None:
                    status = await self._answer_by_hand(exchange, receive, send)
                else:
                    status = await self._answer_derived(exchange, found, send)
            except ClientGone:
                pass
            finally:
                self._observe(exchange, status, time.perf_counter() - started)

    async def _answer_derived(self, exchange: Exchange, found: Any, send: Send) -> int:
        try:
            answer = await self._call(exchange, *found)
        except Refusal as refusal:
            answer = problem(refusal, exchange)
        except ClientGone:
            raise
        except Exception as unexpected:
            log.error("request failed", route=exchange.route, exc_info=unexpected)
            answer = problem(Refusal("INTERNAL"), exchange)
        names = {name for name, _ in answer.headers}
        own = [header for header in DATA_HEADERS if header[0] not in names]
        await send(start_message(answer, [*own, *_surrounding(exchange)]))
        await send({"type": "http.response.body", "body": answer.body})
        return answer.status

    async def _call(self, exchange: Exchange, methods: Any, values: dict[str, str]) -> Answer:
        """Have the operation of a path answer."""
        method = exchange.method
        endpoint: Endpoint | None = methods.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            allowed = [*methods, "HEAD"] if "GET" in methods else list(methods)
            exchange.answer_headers.append((b"allow", ", ".join(sorted(allowed)).encode()))
            raise Refusal("METHOD_NOT_ALLOWED")
        exchange.route = endpoint.operation.path
        exchange.path_values = values
        if endpoint.operation.is_open:
            self.count_address(exchange)
            return await endpoint(exchange, None)
        credential = await self.credential(exchange)
        return await endpoint(exchange, self.authenticator.caller_token(credential))

    async def _answer_by_hand(self, exchange: Exchange, receive: Receive, send: Send) -> int:
        status = CLIENT_GONE_STATUS
        exchange.scope[EXCHANGE] = exchange

        async def send_surrounded(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name for name, _ in message["headers"]}
                own = [header for header in DATA_HEADERS if header[0] not in names]
                message = {**message, "headers": [*message["headers"], *own, *_surrounding(exchange)]}
            await send(message)

        try:
            await super().__call__(exchange.scope, receive, send_surrounded)
        except Exception as unexpected:
            # Starlette raises again what its handler of last resort has told; without an answer uvicorn must know.
            # The route and not the path: addresses of calendars are secret.
            route = getattr(exchange.scope.get("route"), "path", UNKNOWN_ROUTE)
            log.error("request failed", route=route, exc_info=unexpected)
            if status == CLIENT_GONE_STATUS:
                raise
        route = exchange.scope.get("route")
        exchange.route = getattr(route, "path", "")
        return status

    def _observe(self, exchange: Exchange, status: int, seconds: float) -> None:
        method = exchange.method if exchange.method in KNOWN_METHODS else "OTHER"
        route = exchange.route or UNKNOWN_ROUTE
        key = (route, method, status)
        child = self._seconds.get(key)
        if child is None:
            child = self._seconds[key] = HTTP_SECONDS.labels(route, method, str(status))
        child.observe(seconds)
        self.access_log.tell(exchange.trace.trace_id, method, route, status, seconds, exchange.credential_id)

    # --- credentials ---

    async def credential(self, exchange: Exchange) -> Credential:
        """Who asks. Raises Refusal UNAUTHENTICATED or RATE_LIMITED."""
        secret = bearer(exchange.header(b"authorization"))
        if secret is None:
            self.count_address(exchange)
            raise Refusal("UNAUTHENTICATED")
        credential = self.authenticator.known(secret)
        if credential is None:
            self.rates.take(exchange.client_address, known=False)
            credential = await self.authenticator.check(secret)
        exchange.credential_id = credential.id
        exchange.answer_headers += self.rates.take(credential.id, known=True)
        return credential

    def count_address(self, exchange: Exchange) -> None:
        """Count a request of somebody who need not say who they are. Raises Refusal RATE_LIMITED."""
        exchange.answer_headers += self.rates.take(exchange.client_address, known=False)

    async def bus(self) -> JetStreamBus:
        """The bus, connected to when first asked for: only event streams need it. It may be away at the moment."""
        if self._bus is None:
            self._bus = JetStreamBus(self.settings.nats_url, name="gateway", replicas=self.settings.nats_replicas)
        await self._bus.connect(BUS_TIMEOUT_SECONDS)
        return self._bus

    async def close(self) -> None:
        """End streams and connections."""
        self.streams.stop()
        self.access_log.write()
        bus, self._bus = self._bus, None
        if bus is not None:
            await bus.close()
        await self.clients.close()

    async def _look_up(self, api_key: str) -> access_pb2.AuthenticatedCaller:
        request = access_pb2.AuthenticateRequest(api_key=api_key)
        answer: access_pb2.AuthenticatedCaller = await self.clients.read(
            "access", access_pb2_grpc.AccessStub, "Authenticate", request, caller=GATEWAY_CALLER
        )
        return answer


GATEWAY_CALLER = Caller("service:gateway", "service", "gateway", "")


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    if not isinstance(app, Gateway):
        raise TypeError("the lifespan of a Gateway")
    yield
    await app.close()


def exchange_of(request: Request) -> Exchange:
    """The exchange of a request that FastAPI handles."""
    exchange: Exchange = request.scope[EXCHANGE]
    return exchange


def respond(answer: Answer) -> Response:
    """An answer as FastAPI wants it."""
    headers = {name.decode(): value.decode("latin-1") for name, value in answer.headers}
    return Response(answer.body, answer.status, headers, media_type=answer.media_type)


def _surrounding(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """Headers of every answer."""
    return [
        *COMMON_HEADERS,
        *exchange.answer_headers,
        (b"vary", b"accept, accept-language, authorization"),
        (b"traceparent", exchange.trace.traceparent.encode()),
        (b"foyer-trace-id", exchange.trace.trace_id.encode()),
    ]


async def _tell_refusal(request: Request, refusal: Exception) -> Response:
    exchange = exchange_of(request)
    return respond(problem(refusal if isinstance(refusal, Refusal) else Refusal("INTERNAL"), exchange))


async def _tell_http_exception(request: Request, exception: Exception) -> Response:
    exchange = exchange_of(request)
    status = exception.status_code if isinstance(exception, HTTPException) else 500
    if status == 405 and isinstance(exception, HTTPException):
        exchange.answer_headers.append((b"allow", (exception.headers or {}).get("Allow", "GET").encode()))
    code = {404: "NO_SUCH_ROUTE", 405: "METHOD_NOT_ALLOWED", 400: "MALFORMED_BODY"}.get(status, "INTERNAL")
    return respond(problem(Refusal(code), exchange))


async def _tell_unexpected(request: Request, _exception: Exception) -> Response:
    return respond(problem(Refusal("INTERNAL"), exchange_of(request)))
