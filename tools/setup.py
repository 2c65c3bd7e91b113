"""Makes `.venv` and `gen/` from nothing but Python and pip: `python3 tools/setup.py`, and `... lock` renews the locks.

Runs before anything is installed, so it uses the standard library only. Each step leaves a stamp and is passed over
while what it was made from has not changed; processes that run at the same time wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".foyer"
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock.txt"
BOOT_LOCK = ROOT / "boot.lock.txt"
OLDEST = (3, 11)


class SetupError(Exception):
    """Set-up cannot go on; the text says what to do."""


def main() -> int:
    """Make the environment and the generated code; answers a process exit code."""
    try:
        if sys.version_info < OLDEST:
            raise SetupError(
                f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed, {sys.executable} is {platform.python_version()}. "
                "Name another one: make PYTHON=python3.12 ..."
            )
        try:
            STATE.mkdir(exist_ok=True)
            lock_file = (STATE / "setup.lock").open("a")
        except OSError as problem:
            raise SetupError(f"{ROOT} must be writable by {_user()}: {problem}") from problem
        with lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_EX)
            if sys.argv[1:] == ["lock"]:
                _lock()
                return 0
            _environment()
        _run([str(VENV / "bin" / "python"), "-m", "tools.protos"], "generating code from protos/ failed")
    except SetupError as problem:
        print(f"set-up: {problem}", file=sys.stderr)
        return 1
    return 0


def _environment() -> None:
    """Make `.venv` with exactly what the lock names."""
    stamp = VENV / ".foyer-stamp"
    wanted = _fingerprint()
    if stamp.exists() and stamp.read_text() == wanted and (VENV / "bin" / "python").exists():
        return
    started = time.monotonic()
    print("set-up: installing the locked dependencies into .venv", flush=True)
    uv = _uv()
    environ = _uv_environment()
    stamp.unlink(missing_ok=True)
    if not _usable_venv():
        shutil.rmtree(VENV, ignore_errors=True)
        _run([*uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(VENV)], "uv venv failed", environ)
    # Compiled once here: each of ten processes would otherwise compile its imports at its start.
    sync = [*uv, "pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode"]
    _run(
        [*sync, "--python", str(VENV / "bin" / "python"), str(LOCK)],
        "installing the dependencies failed (is the package index reachable?)",
        environ,
    )
    _search_path()
    _launcher()
    stamp.write_text(wanted)
    print(f"set-up: .venv is ready after {time.monotonic() - started:.1f} s", flush=True)


def _lock() -> None:
    """Resolve what requirements.in names, and uv itself, to the newest versions; the locks name no host."""
    python = f"{OLDEST[0]}.{OLDEST[1]}"
    command = [*_uv(), "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-emit-index-url"]
    command += ["--no-header", "--upgrade", "--python-version", python]
    environ = _uv_environment()
    _run([*command, "requirements.in", "--output-file", str(LOCK)], "requirements.in cannot be resolved", environ)
    boot = [*command, "--no-annotate", "-", "--output-file", str(BOOT_LOCK)]
    if subprocess.run(boot, cwd=ROOT, env=environ, input=b"uv\n", stdout=subprocess.DEVNULL, check=False).returncode:
        raise SetupError("uv cannot be resolved")


def _fingerprint() -> str:
    """What the environment was made from: lock, interpreter, machine and place."""
    digest = hashlib.sha256()
    for file in (LOCK, BOOT_LOCK, Path(__file__)):
        digest.update(file.read_bytes())
    for text in (platform.python_version(), sys.base_prefix, platform.machine(), str(ROOT)):
        digest.update(b"\0" + text.encode())
    return digest.hexdigest()


def _usable_venv() -> bool:
    """Whether `.venv` works and runs this version of Python."""
    python = VENV / "bin" / "python"
    if not python.exists():
        return False
    code = "import platform; print(platform.python_version())"
    answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and answer.stdout.strip() == platform.python_version()


def _search_path() -> None:
    """Put the repository and the generated code on the environment's module path."""
    for site in VENV.glob("lib/python*/site-packages"):
        (site / "foyer.pth").write_text(f"{ROOT}\n{ROOT / 'gen'}\n")
    (ROOT / "gen").mkdir(exist_ok=True)


def _launcher() -> None:
    """Make `.venv/bin/foyer`, the command line of tools/foyer.py; -P keeps the caller's folder off the module path."""
    launcher = VENV / "bin" / "foyer"
    python = shlex.quote(str(VENV / "bin" / "python"))
    launcher.write_text(f'#!/bin/sh\nexec {python} -P -m tools.foyer "$@"\n')
    launcher.chmod(0o755)


def _uv() -> list[str]:
    """Command of the pinned uv, fetched into `.foyer/boot` the first time."""
    boot = STATE / "boot"
    stamp = boot / ".foyer-stamp"
    wanted = hashlib.sha256(BOOT_LOCK.read_bytes() + platform.machine().encode()).hexdigest()
    uv = boot / "bin" / "uv"
    if not (uv.exists() and stamp.exists() and stamp.read_text() == wanted):
        python = _python_with_pip()
        shutil.rmtree(boot, ignore_errors=True)
        command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--only-binary", ":all:", "--target", str(boot), "-r", str(BOOT_LOCK)]
        quiet = {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
        _run(command, "fetching uv failed (is the package index reachable?)", {**os.environ, **quiet})
        stamp.write_text(wanted)
    return [str(uv)]


def _python_with_pip() -> str:
    """The running Python when it has pip, else one of an environment that gets pip from what Python carries."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
        return sys.executable
    folder = STATE / "pip"
    if subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, check=False).returncode:
        raise SetupError(f"{sys.executable} has no pip (Debian, Ubuntu: apt install python3-pip)")
    return str(folder / "bin" / "python")


def _uv_environment() -> dict[str, str]:
    """Environment for uv: a cache it can write, and the index and certificates that pip on this machine is told."""
    environ = {**os.environ, "UV_NO_PROGRESS": "1"}
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH"):
        environ.pop(name, None)
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    existing = next((folder for folder in (cache, *cache.parents) if folder.exists()), cache)
    if "UV_CACHE_DIR" not in environ and not os.access(existing, os.W_OK):
        environ["UV_CACHE_DIR"] = str(STATE / "cache")
    told = _pip_settings()
    if told.get("index-url") and not any(name in environ for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")):
        environ["UV_DEFAULT_INDEX"] = told["index-url"]
    if told.get("cert") and "SSL_CERT_FILE" not in environ:
        environ["SSL_CERT_FILE"] = told["cert"]
    return environ


def _pip_settings() -> dict[str, str]:
    """What pip on this machine is told by its files and its environment; the environment comes last and wins."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (line.partition("=") for line in answer.stdout.splitlines())
    pairs = [(name.rpartition(".")[2], value.strip("'\""), name.startswith(":env:")) for name, _, value in lines]
    return {name: value for name, value, _ in sorted(pairs, key=lambda pair: pair[2])}


def _run(command: list[str], problem: str, environ: dict[str, str] | None = None) -> None:
    """Run a command in the repository; SetupError when it fails."""
    if subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode:
        raise SetupError(problem)


def _user() -> str:
    return os.environ.get("USER") or f"user {os.getuid()}"


if __name__ == "__main__":
    sys.exit(main())
