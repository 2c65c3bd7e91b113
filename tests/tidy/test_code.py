"""The rules of the house that a reader would otherwise have to watch: imports, sizes, names, transactions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = ("chassis", "services", "gateway", "tools", "bench", "tests")
MOST_FILE_LINES = 500
MOST_FUNCTION_LINES = 70
FIRST_PARTY = {"chassis", "services", "gateway", "tools", "bench", "tests"}
# What decisions may know: values, clocks and the names of refusals, but no session, bus or client.
DOMAIN_MAY_IMPORT = {"chassis.errors", "chassis.money", "chassis.clock", "chassis.ids"}
FORBIDDEN_NAMES = re.compile(r"(Manager|Helper|Utils?)s?$")


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")) if "gen" not in path.parts]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def first_party(path: Path) -> set[str]:
    return {module for module in imports(path) if module.split(".")[0] in FIRST_PARTY}


@pytest.mark.parametrize("path", files("chassis"), ids=name)
def test_chassis_knows_nothing_of_the_business(path: Path) -> None:
    wrong = {module for module in first_party(path) if module.split(".")[0] != "chassis"}
    wrong |= {m for m in imports(path) if re.match(r"foyer\.(?!common\b|options)\w+\.v1", m)}
    assert not wrong


@pytest.mark.parametrize("path", files("services"), ids=name)
def test_a_service_imports_no_other_service(path: Path) -> None:
    own = path.relative_to(ROOT / "services").parts[0]
    wrong = {m for m in first_party(path) if m.split(".")[0] not in ("chassis", "services")}
    wrong |= {m for m in first_party(path) if m.startswith("services.") and m.split(".")[1] != own}
    assert not wrong


@pytest.mark.parametrize("path", files("gateway"), ids=name)
def test_the_gateway_imports_no_service(path: Path) -> None:
    assert not {module for module in first_party(path) if module.split(".")[0] not in ("chassis", "gateway")}


@pytest.mark.parametrize("path", [p for p in files("services") if p.name == "domain.py"], ids=name)
def test_decisions_touch_no_outside(path: Path) -> None:
    modules = {module for module in first_party(path) if module.startswith("chassis.")}
    wrong = {m for m in modules if m not in DOMAIN_MAY_IMPORT and m.rpartition(".")[0] not in DOMAIN_MAY_IMPORT}
    assert not wrong
    assert not [node for node in ast.walk(tree(path)) if isinstance(node, ast.Await | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", files(*CODE), ids=name)
def test_sizes(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_FILE_LINES, "split it by noun"
    long = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in functions(path)}
    assert not {f: lines for f, lines in long.items() if lines > MOST_FUNCTION_LINES}


@pytest.mark.parametrize("path", files("services"), ids=name)
def test_only_the_chassis_commits(path: Path) -> None:
    calls = [n for n in ast.walk(tree(path)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    assert not [call.lineno for call in calls if call.func.attr in ("commit", "rollback", "acquire")]  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", files("services"), ids=name)
def test_no_remote_call_in_a_unit(path: Path) -> None:
    """A function that is given a Unit must not reach for the clients, the bus, or a mail server."""
    for function in functions(path):
        arguments = [*function.args.args, *function.args.kwonlyargs]
        if not any(isinstance(a.annotation, ast.Name) and a.annotation.id == "Unit" for a in arguments):
            continue
        reached = {n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute)}
        assert not reached & {"clients", "bus", "publish_many"}, f"{function.name} calls out of its transaction"


@pytest.mark.parametrize("path", files("chassis", "services", "gateway", "tools"), ids=name)
def test_names_say_what_a_thing_is(path: Path) -> None:
    assert not FORBIDDEN_NAMES.search(path.stem.title())
    classes = [node.name for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    assert not [found for found in classes if FORBIDDEN_NAMES.search(found)]


@pytest.mark.parametrize("path", sorted((ROOT / "services").iterdir()), ids=lambda path: path.name)
def test_every_service_has_the_same_shape(path: Path) -> None:
    if not path.is_dir() or path.name.startswith("_"):
        return
    for part in (
        "__main__.py",
        "service.py",
        "domain.py",
        "models.py",
        "events.py",
        "migrations/versions",
        "README.md",
    ):
        assert (path / part).exists(), f"{path.name} lacks {part}"
