"""Settings of a process: the environment, read once into a frozen value.

Every process of the platform gets the same `FOYER_*` environment; only `FOYER_METRICS_PORT` differs. A name that is not
known here is refused, so that a typing error does not silently mean a default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SERVICES = ("access", "customers", "bookings", "wallet", "notify", "reports")
PREFIX = "FOYER_"
SECRET_BYTES_AT_LEAST = 32


class SettingsError(Exception):
    """The environment is wrong; `problems` holds one sentence for each thing to put right."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("settings: " + "; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a process is told by its environment. `FOYER_<NAME>` sets the field `<name>`."""

    home: Path = Path("var")
    """Folder of everything the local platform writes."""
    port_base: int = 8080
    """The gateway's port; the others follow (docs/runbook.md)."""
    host: str = "127.0.0.1"
    """Address the gateway listens on; 0.0.0.0 for all."""
    secret: bytes = field(default=b"", repr=False)
    """Platform secret (hex, 32 bytes or more); keys for each purpose are derived from it."""
    database_url: str = field(default="", repr=False)
    """PostgreSQL for the application role, with `{service}` where the database's name differs."""
    system_database_url: str = field(default="", repr=False)
    """The same for the role that relays events and runs jobs across chains."""
    owner_database_url: str = field(default="", repr=False)
    """The same for the role that owns the schemas; only migrations use it."""
    database_pool_size: int = 8
    """Connections of the application role that one service holds at most."""
    nats_url: str = "nats://127.0.0.1:8082"
    """NATS servers, comma-separated."""
    nats_replicas: int = 1
    """Copies JetStream keeps of each stream: 3 on a cluster."""
    service_address: str = ""
    """gRPC address of a service, with `{service}`: `unix:/run/foyer/{service}.sock`, `{service}.foyer.svc:7000`."""
    metrics_port: int = 0
    """Port of this process for /metrics, /healthz and /readyz; 0: none."""
    public_url: str = ""
    """Where callers reach the gateway."""
    requests_per_second: int = 2000
    """Requests a second that the gateway takes from one credential."""
    open_requests_per_second: int = 200
    """Requests a second that the gateway takes from one address whose caller it does not know."""
    smtp_url: str = ""
    """Mail server: `smtp://[user:password@]host:port`, `smtps://` for TLS from the start."""
    mail_from: str = "Foyer <no-reply@foyer.example>"
    """Sender of the messages."""
    otlp_endpoint: str = ""
    """OpenTelemetry collector (OTLP over HTTP) that spans are sent to; empty: none."""
    log_level: str = "info"
    log_format: str = "json"
    postgres_admin_url: str = field(default="", repr=False)
    """`make up` only: an own PostgreSQL to use, as a role that may create roles and databases."""
    demo: bool = True
    """`make up` only: whether the demo chain is made."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], needs: Iterable[str] = ()) -> Settings:
        """Read the settings; `needs` names fields that must be given.

        Raises SettingsError that lists every unknown name, every wrong value and every missing one.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for name, text in sorted(environ.items()):
            if not name.startswith(PREFIX):
                continue
            key = name.removeprefix(PREFIX).lower()
            read = READERS.get(key)
            if read is None or name != PREFIX + key.upper():
                problems.append(f"{name} is not a setting")
            elif text.strip():
                try:
                    values[key] = read(text.strip())
                except ValueError as problem:
                    problems.append(f"{name} {problem}")
        problems += [f"{PREFIX}{key.upper()} is missing" for key in needs if not values.get(key)]
        if problems:
            raise SettingsError(problems)
        return cls(**{**_derived(values), **values})

    def database_url_of(self, service: str) -> str:
        """URL of a service's database for the application role."""
        return self.database_url.replace("{service}", service)

    def system_database_url_of(self, service: str) -> str:
        """URL of a service's database for the role that works across chains."""
        return self.system_database_url.replace("{service}", service)

    def owner_database_url_of(self, service: str) -> str:
        """URL of a service's database for the role that owns its schema."""
        return self.owner_database_url.replace("{service}", service)

    def service_address_of(self, service: str) -> str:
        """gRPC address of a service."""
        return self.service_address.replace("{service}", service)


def _derived(values: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that follow from the home folder and the port base."""
    home: Path = values.get("home", Path("var"))
    base: int = values.get("port_base", 8080)
    return {
        "nats_url": f"nats://127.0.0.1:{base + 2}",
        "smtp_url": f"smtp://127.0.0.1:{base + 5}",
        "public_url": f"http://{values.get('host', '127.0.0.1')}:{base}",
        "service_address": f"unix:{home.absolute()}/run/{{service}}.sock",
    }


def _text(text: str) -> str:
    return text


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _secret(text: str) -> bytes:
    try:
        secret = bytes.fromhex(text)
    except ValueError:
        secret = b""
    if len(secret) < SECRET_BYTES_AT_LEAST:
        raise ValueError(f"must be {SECRET_BYTES_AT_LEAST} bytes or more, written as hex digits")
    return secret


def _flag(text: str) -> bool:
    values = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in values:
        raise ValueError("must be true or false")
    return values[text.lower()]


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return read


def _choice(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text.lower()

    return read


def _url(*schemes: str, template: bool = False) -> Callable[[str], str]:
    def read(text: str) -> str:
        for part in text.split(","):
            parts = urlsplit(part)
            if parts.scheme not in schemes or not parts.netloc:
                raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        if template and "{service}" not in text:
            raise ValueError("must contain {service}")
        return text.rstrip("/")

    return read


def _address(text: str) -> str:
    if "{service}" not in text:
        raise ValueError("must contain {service}")
    return text


_DATABASE = _url("postgresql", "postgres", template=True)
READERS: dict[str, Callable[[str], object]] = {
    "home": _path,
    "port_base": _number(1024, 65000),
    "host": _text,
    "secret": _secret,
    "database_url": _DATABASE,
    "system_database_url": _DATABASE,
    "owner_database_url": _DATABASE,
    "database_pool_size": _number(1, 100),
    "nats_url": _url("nats", "tls"),
    "nats_replicas": _number(1, 5),
    "service_address": _address,
    "metrics_port": _number(0, 65535),
    "public_url": _url("http", "https"),
    "requests_per_second": _number(1, 1_000_000),
    "open_requests_per_second": _number(1, 1_000_000),
    "smtp_url": _url("smtp", "smtps"),
    "mail_from": _text,
    "otlp_endpoint": _url("http", "https"),
    "log_level": _choice("debug", "info", "warning", "error"),
    "log_format": _choice("json", "text"),
    "postgres_admin_url": _url("postgresql", "postgres"),
    "demo": _flag,
}
