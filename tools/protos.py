"""Generates `gen/` from `protos/`: messages, typed gRPC code, and the descriptor set that routes are derived from.

`python -m tools.protos` does nothing while neither the contract nor a tool has changed. Code is generated aside and
swapped in, so a process that imports it at that moment sees the old or the new tree.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "protos"
TARGET = ROOT / "gen"
DESCRIPTORS = TARGET / "foyer.binpb"
VALIDATE = "buf/validate/validate.proto"
TOOLS = ("grpcio-tools", "mypy-protobuf", "protobuf", "protovalidate", "googleapis-common-protos")

AT_CWD = -100
RENAME_EXCHANGE = 2


class ProtosError(Exception):
    """The contract does not compile; the compiler's own words have been printed."""


def generate(force: bool = False) -> bool:
    """Bring `gen/` up to date; True when it was generated anew. Raises ProtosError when the contract is wrong."""
    wanted = _fingerprint()
    if not force and _is_current(wanted):
        return False
    state = ROOT / ".foyer"
    state.mkdir(exist_ok=True)
    with (state / "protos.lock").open("a") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        if not force and _is_current(wanted):
            return False
        with tempfile.TemporaryDirectory(dir=state, prefix="gen-") as folder:
            fresh = Path(folder) / "gen"
            fresh.mkdir()
            _compile(fresh, Path(folder))
            (fresh / ".stamp").write_text(wanted)
            _swap(fresh)
    return True


def _swap(fresh: Path) -> None:
    """Put the fresh tree in place of the old one, in one step where the system can exchange two folders."""
    if TARGET.exists():
        system = ctypes.CDLL(None, use_errno=True)
        exchange = getattr(system, "renameat2", None)
        if exchange and exchange(AT_CWD, os.fsencode(fresh), AT_CWD, os.fsencode(TARGET), RENAME_EXCHANGE) == 0:
            return
        TARGET.rename(fresh.with_name("old"))
    fresh.rename(TARGET)


def write_image(source: Path, image: Path) -> None:
    """Compile the protos under `source` into a descriptor set with imports and source info, as buf compares them."""
    with tempfile.TemporaryDirectory(prefix="foyer-protos-") as folder:
        imports = _import_set(Path(folder))
        _protoc(source, imports, [f"--descriptor_set_out={image}", "--include_imports", "--include_source_info"])


def _is_current(wanted: str) -> bool:
    stamp = TARGET / ".stamp"
    return stamp.exists() and stamp.read_text() == wanted


def _fingerprint() -> str:
    """Hash over the contract, this file and the versions of the tools."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name in TOOLS:
        digest.update(f"{name} {version(name)}\n".encode())
    for file in _sources(SOURCE):
        digest.update(f"{file}\0".encode() + (SOURCE / file).read_bytes())
    return digest.hexdigest()


def _sources(source: Path) -> list[str]:
    return sorted(str(file.relative_to(source)) for file in source.rglob("*.proto"))


def _compile(target: Path, scratch: Path) -> None:
    """Write everything generated into `target`."""
    imports = _import_set(scratch)
    outputs = [
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=readable_stubs,quiet:{target}",
        f"--mypy_grpc_out=readable_stubs,quiet:{target}",
        f"--descriptor_set_out={target / DESCRIPTORS.name}",
        "--include_imports",
        "--include_source_info",
    ]
    _protoc(SOURCE, imports, outputs, extra=[VALIDATE])
    for module in target.rglob("*_pb2_grpc.py"):
        # One is written for every file; where no service is declared it says nothing.
        if "Servicer" not in module.read_text():
            module.unlink()
            module.with_suffix(".pyi").unlink()


def _import_set(folder: Path) -> Path:
    """Descriptor set of the validation rules, whose wheel carries a descriptor and no .proto file."""
    from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2
    from protovalidate._gen.buf.validate import validate_pb

    result = descriptor_pb2.FileDescriptorSet()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        module.DESCRIPTOR.CopyToProto(result.file.add())
    result.file.add().ParseFromString(validate_pb._DESC.proto.to_binary())
    path = folder / "imports.binpb"
    path.write_bytes(result.SerializeToString())
    return path


def _protoc(source: Path, imports: Path, outputs: list[str], extra: list[str] | None = None) -> None:
    """Run protoc over all protos of `source`."""
    import google.api
    import grpc_tools

    files = _sources(source)
    command = [sys.executable, "-m", "grpc_tools.protoc"]
    command += [f"--descriptor_set_in={imports}", f"-I{source}"]
    command += [f"-I{Path(folder).parent.parent}" for folder in google.api.__path__]
    command += [f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    plugins = str(Path(sys.executable).parent)
    environ = {**os.environ, "PATH": plugins + os.pathsep + os.environ.get("PATH", "")}
    if shutil.which("protoc-gen-mypy", path=environ["PATH"]) is None:
        raise ProtosError("protoc-gen-mypy is missing; run `make setup`")
    if subprocess.run([*command, *outputs, *files, *(extra or [])], env=environ, check=False).returncode:
        raise ProtosError("the contract does not compile")


def main() -> int:
    """`python -m tools.protos [--force]`: answers a process exit code."""
    try:
        if generate(force="--force" in sys.argv[1:]):
            print("protos: gen/ is up to date", flush=True)
    except ProtosError as problem:
        print(f"protos: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
