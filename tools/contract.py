"""Checks the contract with buf: `python -m tools.contract` lints it and looks for breaking changes.

Compared is what was released: the last tag, or on a branch without one, `main`.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tools.protos import ROOT, SOURCE, ProtosError, write_image


def check() -> bool:
    """Lint the contract and compare it with the released one; prints what is wrong. Raises ProtosError."""
    with tempfile.TemporaryDirectory(prefix="foyer-contract-") as name:
        folder = Path(name)
        image = folder / "image.binpb"
        write_image(SOURCE, image)
        clean = _buf(folder, "lint", str(image))
        released = _released(folder)
        if released is None:
            print("contract: nothing released to compare with")
            return clean
        return _buf(folder, "breaking", str(image), "--against", str(released)) and clean


def _released(folder: Path) -> Path | None:
    """Image of the released contract; None when there is none."""
    tag = _git("describe", "--tags", "--abbrev=0")
    reference = tag or (b"main" if _git("rev-parse", "main") not in (b"", _git("rev-parse", "HEAD")) else b"")
    archive = _git("archive", reference.decode(), "protos") if reference else b""
    if not archive:
        return None
    print(f"contract: compared with {reference.decode()}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        # The filter came with 3.11.4; the archive is our own repository's.
        files.extraction_filter = getattr(tarfile, "data_filter", None)
        files.extractall(folder / "released")
    image = folder / "released.binpb"
    write_image(folder / "released" / "protos", image)
    return image


def _buf(folder: Path, *arguments: str) -> bool:
    """Run buf, with its cache in a folder of its own; False when it found something."""
    program = Path(sys.executable).parent / "buf"
    environ = {**os.environ, "BUF_CACHE_DIR": str(folder / "cache"), "HOME": str(folder)}
    command = [str(program), *arguments, "--config", str(ROOT / "buf.yaml")]
    return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode == 0


def _git(*arguments: str) -> bytes:
    """What git says; empty when it fails, or is not there."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    except OSError:
        return b""
    output = answer.stdout
    return (output if arguments[0] == "archive" else output.strip()) if answer.returncode == 0 else b""


def main() -> int:
    """Check the contract; answers a process exit code."""
    try:
        return 0 if check() else 1
    except ProtosError as problem:
        print(f"contract: {problem}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
