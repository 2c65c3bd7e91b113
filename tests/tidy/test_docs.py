"""Documentation stays true where a machine can see it: links lead somewhere, verbs explain themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SKIPPED = {".venv", ".foyer", "gen", "var", "node_modules", ".git", ".pytest_cache"}
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")


def pages() -> list[Path]:
    return [p for p in sorted(ROOT.rglob("*.md")) if not SKIPPED & set(p.relative_to(ROOT).parts)]


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        assert (page.parent / target).exists(), f"{target} is not there"


def test_the_map_is_whole() -> None:
    for page in ("README.md", "README.zh-CN.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"):
        assert (ROOT / page).exists()
    for page in ("tour.md", "architecture.md", "events.md", "runbook.md", "glossary.md", "decisions/README.md"):
        assert (ROOT / "docs" / page).exists()


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = (folder / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in folder.glob("[0-9]*.md") if page.name not in listed]


def test_make_verbs_explain_themselves() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    verbs = re.findall(r"^([a-z-]+):.*$", text, re.MULTILINE)
    explained = re.findall(r"^([a-z-]+):.*## .+$", text, re.MULTILINE)
    assert set(verbs) == set(explained)
    assert len(verbs) <= 15
    for verb in ("setup", "up", "test", "check", "bench", "fault", "help"):
        assert verb in verbs


def test_nothing_names_a_machine() -> None:
    pattern = re.compile(r"/(?:root|home/[a-z]+)/|py[p]i\.org|registry\.npm")
    names = ("*.py", "*.md", "*.txt", "*.toml", "*.yaml", "Makefile")
    found = [
        path.relative_to(ROOT).as_posix()
        for name in names
        for path in ROOT.rglob(name)
        if not SKIPPED & set(path.relative_to(ROOT).parts) and pattern.search(path.read_text(encoding="utf-8"))
    ]
    assert not found
