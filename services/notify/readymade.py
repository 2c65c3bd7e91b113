"""The ready-made templates, in the files of templates/: what is said when a chain has not written its own."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from services.notify.domain import LANGUAGES, VARIABLES

FOLDER = Path(__file__).resolve().parent / "templates"
CHANNELS = ("email", "in_app")

Key = tuple[str, str, str]
"""Event type, channel, language."""


@dataclass(frozen=True, slots=True)
class Text:
    """Subject and body of a template."""

    subject: str
    body: str


@functools.cache
def readymade() -> Mapping[Key, Text]:
    """All of them, read once. Raises KeyError when one is missing, and errors of the files as they come."""
    found: dict[Key, Text] = {}
    for language in LANGUAGES:
        content = yaml.safe_load((FOLDER / f"{language}.yaml").read_text(encoding="utf-8"))
        for event_type in VARIABLES:
            for channel in CHANNELS:
                text = content[event_type][channel]
                found[event_type, channel, language] = Text(text["subject"], text["body"])
    return found
