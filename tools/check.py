"""`make check`: format, lint, types, contract and tidiness. All are run, so that one run tells all that is wrong."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("chassis", "services", "gateway", "tools", "tests", "bench")


def steps() -> dict[str, list[str]]:
    """The checks by name, each a command line."""
    python = sys.executable
    packages = [name for name in PACKAGES if any((ROOT / name).rglob("*.py"))]
    found = {
        "format": [python, "-m", "ruff", "format", "--check", "--quiet", "."],
        "lint": [python, "-m", "ruff", "check", "--quiet", "."],
        "contract": [python, "-m", "tools.contract"],
        "types": [python, "-m", "mypy", "--no-error-summary", *packages],
    }
    if (ROOT / "tests" / "tidy").is_dir():
        found["tidy"] = [python, "-m", "pytest", "-q", "--no-header", "tests/tidy"]
    return found


def main() -> int:
    """Run all checks; answers a process exit code."""
    failed = []
    for name, command in steps().items():
        started = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        print(f"check: {name} {'is fine' if code == 0 else 'FAILED'} ({time.monotonic() - started:.1f} s)", flush=True)
        if code:
            failed.append(name)
    if failed:
        print(f"check: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
