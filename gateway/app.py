"""The gateway put together: derived routes, the handwritten ones, and what operations and readers ask for."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import orjson
from fastapi import APIRouter, Request
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

from chassis import metrics
from chassis.errors import Refusal
from chassis.settings import SERVICES, Settings
from gateway import calendars, hooks, openapi, pages, stream
from gateway.core import Gateway, exchange_of, respond
from gateway.exchange import Answer, problem

READY_TIMEOUT_SECONDS = 2.0

router = APIRouter()


def create_app(settings: Settings) -> Gateway:
    """The gateway as an ASGI application. Raises ValueError when the contract has a route that cannot be served."""
    gateway = Gateway(settings)
    for each in (router, calendars.router, hooks.router, stream.router):
        gateway.include_router(each)
    return gateway


@router.get("/healthz", include_in_schema=False)
async def healthz(request: Request) -> Response:  # noqa: ARG001
    """The process runs."""
    return respond(Answer(200, b'{"status":"ok"}'))


@router.get("/readyz", include_in_schema=False)
async def readyz(request: Request) -> Response:
    """All services answer."""
    gateway: Gateway = request.app
    answers = await asyncio.gather(*(_is_serving(gateway, name) for name in SERVICES))
    checks = dict(zip(SERVICES, answers, strict=True))
    if all(answers):
        return respond(Answer(200, orjson.dumps({"status": "ready", "services": checks})))
    missing = Refusal("UNAVAILABLE", members={"services": checks})
    return respond(problem(missing, exchange_of(request)))


async def _is_serving(gateway: Gateway, service: str) -> bool:
    stub: Any = health_pb2_grpc.HealthStub(gateway.clients.channel(service))
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=READY_TIMEOUT_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@router.get("/metrics", include_in_schema=False)
async def show_metrics(request: Request) -> Response:  # noqa: ARG001
    """Metrics of this process."""
    return respond(Answer(200, metrics.text(), CONTENT_TYPE_LATEST))


@router.get("/openapi.json", include_in_schema=False)
async def show_openapi(request: Request) -> Response:  # noqa: ARG001
    """The description of the API."""
    # Made when first asked for, which takes half a second: nobody else waits for it.
    return respond(Answer(200, await asyncio.to_thread(openapi.document_bytes)))


@router.get("/docs", include_in_schema=False)
async def show_docs(request: Request) -> Response:  # noqa: ARG001
    """The documentation for readers; it asks no foreign host for anything."""
    policy = [(b"content-security-policy", pages.DOCS_CONTENT_POLICY)]
    return respond(Answer(200, pages.DOCS_PAGE.encode(), pages.HTML, policy))


@router.get("/docs.js", include_in_schema=False)
async def show_docs_script(request: Request) -> Response:  # noqa: ARG001
    """The documentation's script."""
    return respond(Answer(200, pages.DOCS_SCRIPT.encode(), "text/javascript; charset=utf-8"))


@router.get("/", include_in_schema=False)
async def show_start(request: Request) -> Response:  # noqa: ARG001
    """Point readers to the documentation."""
    return Response(status_code=307, headers={"location": "/docs"})
