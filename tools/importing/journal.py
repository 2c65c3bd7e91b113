"""What an import has made already: a line for each thing, so that it can be taken up again where it ended."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import IO, Any, Self

VERSION = 1
LARGEST_JOURNAL_BYTES = 1024 * 1024 * 1024


class JournalError(Exception):
    """The journal cannot be used; the text says why and what to do."""


class Journal:
    """Ids of what was made, by section and key. Each line is written as soon as the gateway has answered."""

    def __init__(self, path: Path, chain_id: str, mapping_name: str) -> None:
        """Open or begin a journal. Raises JournalError when it is of another import or in use."""
        self.path = path
        self.ids: dict[tuple[str, str], str] = {}
        self._header = {"foyer_import": VERSION, "chain_id": chain_id, "mapping": mapping_name}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("a+b")
        except OSError as problem:
            raise JournalError(f"{path}: {problem.strerror or problem}") from problem
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def add(self, section: str, key: str, made_id: str) -> None:
        """Note that something was made."""
        self.ids[section, key] = made_id
        self._write([section, key, made_id])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            raise JournalError(f"{self.path}: another import is using it") from problem
        if self._file.seek(0, 2) > LARGEST_JOURNAL_BYTES:
            raise JournalError(f"{self.path}: larger than {LARGEST_JOURNAL_BYTES} bytes")
        self._file.seek(0)
        content = self._file.read()
        # A line that was cut off when the last run died: what it stood for is asked for again, with the same key.
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._file.truncate(len(whole))
        lines = whole.splitlines()
        if not lines:
            self._write(self._header)
            return
        try:
            header = json.loads(lines[0])
            entries = [json.loads(line) for line in lines[1:]]
            self.ids = {(section, key): made_id for section, key, made_id in entries}
        except (ValueError, TypeError) as problem:
            raise JournalError(f"{self.path}: is not a journal of an import") from problem
        if header != self._header:
            raise JournalError(
                f"{self.path}: belongs to another import ({header}), this one is {self._header}; "
                "name another --resume-file"
            )

    def _write(self, content: Any) -> None:
        self._file.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
