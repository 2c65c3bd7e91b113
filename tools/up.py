"""`make up`: the whole platform on one machine under one small supervisor.

PostgreSQL, NATS, a mail catcher, migrations, the services and the gateway, each a process of its own; a process that
ends is started again. Ctrl-C or SIGTERM stops all in order, a second one kills. Settings: chassis/settings.py; what is
given from outside (FOYER_POSTGRES_ADMIN_URL or the three FOYER_*DATABASE_URL, FOYER_NATS_URL, FOYER_SMTP_URL) is not
started.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from chassis.settings import PREFIX, SERVICES, Settings, SettingsError
from tools import databases, mailbox, nats, postgres, spawn
from tools.children import Child, ChildError, answers, bound_log, run_once
from tools.home import Home, HomeError

GATEWAY, POSTGRES, NATS, NATS_MONITOR, MAIL, METRICS = 0, 1, 2, 3, 5, 10
SUPERVISOR_ONLY = {f"{PREFIX}{name}" for name in ("POSTGRES_ADMIN_URL", "DEMO", "METRICS_PORT")}
EVERYWHERE = ("0.0.0.0", "::")
GATEWAY_STOP_SECONDS = 4.0
SERVICE_STOP_SECONDS = 5.0
NATS_STOP_SECONDS = 2.0
POSTGRES_STOP_SECONDS = 3.0
PORT_WAIT_SECONDS = 3.0
MIGRATION_TIMEOUT_SECONDS = 120.0
DEMO_TIMEOUT_SECONDS = 120.0
HOUSEKEEPING_SECONDS = 30.0


class UpError(Exception):
    """The platform cannot be started; the text says what to do."""


FAILURES = (
    UpError,
    ChildError,
    HomeError,
    SettingsError,
    databases.DatabaseError,
    nats.NatsError,
    postgres.PostgresError,
)


def tell(text: str) -> None:
    """Print a line about the platform's life; whoever listened may have gone."""
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Platform:
    """The platform of one home folder. `start` returns when all is ready, `stop` when all has ended."""

    def __init__(self, environ: Mapping[str, str], say: Callable[[str], None] = tell) -> None:
        """Read the settings; raises SettingsError."""
        self.given = {name: value for name, value in environ.items() if name.startswith(PREFIX) and value.strip()}
        self.settings = Settings.from_environment(environ)
        self.home = Home(self.settings.home.expanduser().absolute())
        self.base = self.settings.port_base
        self.say = say
        self.children: dict[str, Child] = {}
        self.demo: dict[str, Any] = {}
        self.environ: dict[str, str] = {}
        self._outside = {
            name: value
            for name, value in environ.items()
            # Bytecode that is not written is compiled again by every process at every start.
            if not name.startswith(PREFIX) and name != "PYTHONDONTWRITEBYTECODE"
        }
        self._lock: IO[str] | None = None
        self._mail: asyncio.Server | None = None
        self._housekeeper: asyncio.Task[None] | None = None
        self._own_database = not ({f"{PREFIX}POSTGRES_ADMIN_URL", f"{PREFIX}DATABASE_URL"} & set(self.given))
        self._own_nats = f"{PREFIX}NATS_URL" not in self.given
        self._own_mail = f"{PREFIX}SMTP_URL" not in self.given

    async def start(self) -> None:
        """Start everything and wait until it is ready. Raises one of FAILURES; call `stop` then, too."""
        self.home.make()
        self._lock = self.home.lock()
        self.home.demo.unlink(missing_ok=True)
        for leftover in [*self.home.run.glob("*.pid"), *self.home.sockets().glob("*.sock")]:
            leftover.unlink(missing_ok=True)
        (self.home.run / "supervisor.pid").write_text(f"{os.getpid()}\n")
        secrets = self.home.secrets()
        self.environ = self._environment(secrets)
        await self._check_ports()
        self._housekeeper = asyncio.create_task(self._keep_house())
        if self._own_mail:
            self._mail = await mailbox.start(self.home.mail, "127.0.0.1", self.base + MAIL)
        if self._own_nats:
            self._start_nats(secrets["nats"])
        await self._start_database(secrets)
        await self._once("migrate", MIGRATION_TIMEOUT_SECONDS)
        if self._own_nats:
            await self.children["nats"].wait_ready()
        for number, service in enumerate(SERVICES):
            self._start_python(service, f"services.{service}", self.base + METRICS + number)
        self._start_python("gateway", "gateway", self.base + GATEWAY)
        await asyncio.gather(*(self.children[name].wait_ready() for name in (*SERVICES, "gateway")))
        self.say("all processes are ready")
        self.demo = {"gateway": self.settings.public_url}
        if self.settings.demo:
            self.demo |= await self._demo()
        self._write_demo()

    async def stop(self) -> None:
        """Stop everything in order: the gateway, the services, NATS, PostgreSQL."""
        if self._lock is not None:
            self.home.demo.unlink(missing_ok=True)
        await self._stop(["gateway"], GATEWAY_STOP_SECONDS)
        await self._stop(list(SERVICES), SERVICE_STOP_SECONDS)
        if self._mail is not None:
            self._mail.close()
        await self._stop(["nats"], NATS_STOP_SECONDS)
        await self._stop(["postgres"], POSTGRES_STOP_SECONDS)
        if self._housekeeper is not None:
            self._housekeeper.cancel()
        if self._lock is not None:
            (self.home.run / "supervisor.pid").unlink(missing_ok=True)
            self._lock.close()

    def kill(self) -> None:
        """End everything at once."""
        for child in self.children.values():
            child.kill()

    def _environment(self, secrets: Mapping[str, str]) -> dict[str, str]:
        """The environment of every process: what was given, and what the supervisor decides."""
        settings, base = self.settings, self.base
        admin = settings.postgres_admin_url or postgres.admin_url(base + POSTGRES, secrets["postgres"])
        urls = {
            f"{PREFIX}DATABASE_URL": settings.database_url,
            f"{PREFIX}SYSTEM_DATABASE_URL": settings.system_database_url,
            f"{PREFIX}OWNER_DATABASE_URL": settings.owner_database_url,
        }
        given = sorted(name for name, value in urls.items() if value)
        if given and len(given) < len(urls):
            raise UpError(f"{' and '.join(sorted(set(urls) - set(given)))} must be given too, as {given[0]} is")
        roles = (databases.APPLICATION, databases.SYSTEM, databases.OWNER)
        for name, role in zip(urls, roles, strict=True):
            urls[name] = urls[name] or databases.url(admin, role, secrets[role])
        kept = {name: value for name, value in self.given.items() if name not in SUPERVISOR_ONLY}
        own = {
            f"{PREFIX}PUBLIC_URL": settings.public_url,
            f"{PREFIX}SMTP_URL": settings.smtp_url,
            f"{PREFIX}HOME": str(self.home.path),
            f"{PREFIX}PORT_BASE": str(base),
            f"{PREFIX}SECRET": settings.secret.hex() or secrets["platform"],
            f"{PREFIX}NATS_URL": nats.url(base + NATS, secrets["nats"]) if self._own_nats else settings.nats_url,
            f"{PREFIX}SERVICE_ADDRESS": f"unix:{self.home.sockets()}/{{service}}.sock",
        }
        # Fewer malloc arenas: a tenth of the memory of processes with many threads.
        return {"MALLOC_ARENA_MAX": "2", "PYTHONUNBUFFERED": "1", **self._outside, **kept, **urls, **own}

    def _ports(self) -> dict[int, str]:
        """Ports this platform takes, each with what it is for."""
        ports = {self.base + GATEWAY: "the gateway"}
        if self._own_database:
            ports[self.base + POSTGRES] = "PostgreSQL"
        if self._own_nats:
            ports |= {self.base + NATS: "NATS", self.base + NATS_MONITOR: "monitoring of NATS"}
        if self._own_mail:
            ports[self.base + MAIL] = "the mail catcher"
        return ports | {self.base + METRICS + number: f"metrics of {name}" for number, name in enumerate(SERVICES)}

    async def _check_ports(self) -> None:
        """Refuse when a port is taken; waits a little for processes of a supervisor that was just killed."""
        deadline = time.monotonic() + PORT_WAIT_SECONDS
        while taken := [port for port in self._ports() if not self._is_free(port)]:
            if time.monotonic() > deadline:
                named = ", ".join(f"{port} ({self._ports()[port]})" for port in taken)
                raise UpError(
                    f"taken by another program: port {named}. FOYER_PORT_BASE (now {self.base}) moves all ports: "
                    f"FOYER_PORT_BASE={self.base + 100} make up"
                )
            await asyncio.sleep(0.1)

    def _is_free(self, port: int) -> bool:
        host = self.settings.host if port == self.base + GATEWAY else "127.0.0.1"
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as problem:
                if problem.errno != errno.EADDRINUSE:
                    raise UpError(f"cannot listen on {host} (FOYER_HOST) port {port}: {problem}") from problem
                return False
        return True

    def _child(self, name: str, command: Callable[[], list[str]], environ: Mapping[str, str], **more: Any) -> Child:
        log, pid_file = self.home.log / f"{name}.log", self.home.run / f"{name}.pid"
        child = Child(name, command, environ, log, pid_file, say=self.say, **more)
        self.children[name] = child
        child.start()
        return child

    def _start_nats(self, password: str) -> None:
        monitor_port = self.base + NATS_MONITOR
        command = partial(nats.command, self.home.nats, self.base + NATS, monitor_port, password)
        self._child("nats", command, nats.environment(), is_ready=partial(answers, monitor_port, "/healthz"))

    async def _start_database(self, secrets: Mapping[str, str]) -> None:
        """PostgreSQL, roles and databases, as far as they are ours to make."""
        admin = self.settings.postgres_admin_url
        if self._own_database:
            port, password = self.base + POSTGRES, secrets["postgres"]
            admin = postgres.admin_url(port, password)
            await asyncio.to_thread(postgres.prepare, self.home.postgres, password)

            def command() -> list[str]:
                postgres.prepare(self.home.postgres, password)
                return postgres.command(self.home.postgres, port)

            async def is_ready() -> bool:
                return await asyncio.to_thread(postgres.is_ready, port)

            environ = postgres.environment()
            child = self._child(
                "postgres", command, environ, is_ready=is_ready, stop_signal=signal.SIGINT, folder=Path("/")
            )
            await child.wait_ready()
        if admin:
            await databases.ensure_roles(admin, secrets)
            await databases.ensure_databases(admin, secrets)

    def _start_python(self, name: str, module: str, port: int) -> None:
        """Start one of our own processes; `port` is where it answers /readyz."""
        environ, host = dict(self.environ), "127.0.0.1"
        if name != "gateway":
            environ[f"{PREFIX}METRICS_PORT"] = str(port)
        elif self.settings.host not in EVERYWHERE:
            host = self.settings.host
        command = spawn.wrap([sys.executable, "-m", module], signal.SIGTERM)
        self._child(name, lambda: command, environ, is_ready=partial(answers, port, "/readyz", host))

    async def _once(self, name: str, timeout_seconds: float) -> str:
        """Run `tools.<name>` to its end."""
        started = time.monotonic()
        command = spawn.wrap([sys.executable, "-m", f"tools.{name}"], signal.SIGTERM)
        answer = await run_once(name, command, self.environ, self.home.log / f"{name}.log", timeout_seconds)
        self.say(f"{name}: done after {time.monotonic() - started:.1f} s")
        return answer

    async def _demo(self) -> dict[str, Any]:
        """Make the demo chain, unless it is there, and answer how to sign in: the last line it prints, as JSON."""
        answer = await self._once("demo", DEMO_TIMEOUT_SECONDS)
        try:
            told: dict[str, Any] = json.loads(answer.strip().splitlines()[-1])
        except (IndexError, ValueError) as problem:
            raise UpError(f"tools.demo did not end with a line of JSON: {answer[-500:]}") from problem
        return told

    def _write_demo(self) -> None:
        scratch = self.home.demo.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        scratch.touch(mode=0o600)
        scratch.write_text(json.dumps(self.demo, indent=2, ensure_ascii=False) + "\n")
        scratch.replace(self.home.demo)

    async def _stop(self, names: list[str], timeout_seconds: float) -> None:
        running = [self.children[name] for name in names if name in self.children]
        await asyncio.gather(*(child.stop(timeout_seconds) for child in running))

    async def _keep_house(self) -> None:
        """Keep the logs of running processes bounded."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            for child in self.children.values():
                bound_log(child.log)


async def run(environ: Mapping[str, str]) -> int:
    """Start the platform, tell where it is, and keep it until a signal; answers a process exit code."""
    started = time.monotonic()
    platform = Platform(environ)
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            tell("killing everything")
            platform.kill()
            os._exit(130)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    tell(f"starting, data in {platform.home.path}")
    starting = asyncio.create_task(platform.start())
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    code = 0
    try:
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
        else:
            await starting
            _welcome(platform, time.monotonic() - started)
            await waiting
    except FAILURES as problem:
        tell(f"cannot start: {problem}")
        code = 1
    finally:
        tell("stopping")
        began = time.monotonic()
        await platform.stop()
        tell(f"stopped after {time.monotonic() - began:.1f} s")
        waiting.cancel()
    return code


def _welcome(platform: Platform, seconds: float) -> None:
    """Print where everything is and how to sign in."""
    demo, gateway = platform.demo, platform.settings.public_url
    lines = [
        f"Foyer is ready after {seconds:.1f} s. Ctrl-C stops it.",
        f"  gateway  {gateway}",
        f"  docs     {gateway}/docs",
    ]
    if owner := demo.get("owner"):
        lines.append(f"  sign in  {owner['email']}  password {owner['password']}")
    if key := demo.get("api_key"):
        lines.append(f"  API key  {key}")
    if platform.settings.smtp_url.endswith(f":{platform.base + MAIL}"):
        lines.append(f"  mail     {platform.home.mail}/*.eml  (SMTP {platform.settings.smtp_url})")
    lines.append(f"  logs     {platform.home.log}")
    with contextlib.suppress(OSError):
        print("\n" + "\n".join(lines) + "\n", flush=True)


def main() -> int:
    """Run the platform as FOYER_* says; answers a process exit code."""
    try:
        return asyncio.run(run(os.environ))
    except SettingsError as problem:
        print("\n  ".join(["The settings are wrong:", *problem.problems]), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
