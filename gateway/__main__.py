"""`python -m gateway`: the gateway as a process."""

from __future__ import annotations

import asyncio
import os
import sys

import uvicorn

from chassis import logs, tracing
from chassis.memory import settle
from chassis.settings import Settings, SettingsError
from gateway.app import create_app
from gateway.core import Gateway
from gateway.protocol import BoundedProtocol

NAME = "gateway"
NEEDS = ("secret",)
KEEP_ALIVE_SECONDS = 30
SHUTDOWN_SECONDS = 3
BACKLOG = 2048
MOST_CONNECTIONS = 4000


class Server(uvicorn.Server):
    """Uvicorn, which would wait for event streams that never end: they are told to end first."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    async def shutdown(self, sockets: object = None) -> None:
        """End the streams, then what is under way, then the rest."""
        self._gateway.streams.stop()
        await super().shutdown(sockets)  # type: ignore[arg-type]
        # Here, since uvicorn then lets the signal end the process.
        await asyncio.to_thread(tracing.stop_exporting)


def serve(settings: Settings) -> None:
    """Answer until SIGTERM or SIGINT."""
    gateway = create_app(settings)
    settle()
    config = uvicorn.Config(
        gateway,
        host=settings.host,
        port=settings.port_base,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        backlog=BACKLOG,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    Server(config, gateway).run()


def main() -> int:
    """Run the gateway; answers a process exit code."""
    try:
        settings = Settings.from_environment(os.environ, NEEDS)
    except SettingsError as wrong:
        print("\n".join(wrong.problems), file=sys.stderr)
        return 2
    logs.configure(NAME, settings.log_level, settings.log_format)
    tracing.export_to(settings.otlp_endpoint, f"foyer-{NAME}")
    serve(settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
