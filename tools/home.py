"""The platform's home folder (FOYER_HOME): what is where in it, its secrets, and the lock of the one supervisor."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LONGEST_SOCKET_FOLDER = 80
ROLES = ("foyer_owner", "foyer_app", "foyer_system")


class HomeError(Exception):
    """The home folder cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Home:
    """Folders and files of one local platform."""

    path: Path

    @property
    def run(self) -> Path:
        """Pid files `<name>.pid` of everything the supervisor started."""
        return self.path / "run"

    @property
    def log(self) -> Path:
        """Output of each process."""
        return self.path / "log"

    @property
    def mail(self) -> Path:
        """Messages the mail catcher took, newest 1,000."""
        return self.path / "mail"

    @property
    def postgres(self) -> Path:
        """PostgreSQL's folder."""
        return self.path / "postgres"

    @property
    def nats(self) -> Path:
        """NATS's folder."""
        return self.path / "nats"

    @property
    def demo(self) -> Path:
        """Addresses and keys of the demo chain; there while all is ready."""
        return self.path / "demo.json"

    def sockets(self) -> Path:
        """Folder of the services' unix sockets; elsewhere when this one's path is too long for a socket."""
        if len(os.fsencode(self.run)) < LONGEST_SOCKET_FOLDER:
            return self.run
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"foyer-{os.getuid()}-{name}"

    def make(self) -> None:
        """Make the folders. Raises HomeError when they cannot be written or the sockets' belongs to somebody else."""
        try:
            for folder in (self.path, self.run, self.log, self.mail, self.postgres, self.nats):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.run, self.log, self.mail, self.nats):
                folder.chmod(0o700)
            sockets = self.sockets()
            sockets.mkdir(mode=0o700, exist_ok=True)
            found = sockets.lstat()
        except OSError as problem:
            raise HomeError(f"{self.path} (FOYER_HOME) cannot be used: {problem}") from problem
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise HomeError(f"{sockets} must be a folder of this user that nobody else can enter")

    def lock(self) -> IO[str]:
        """Take the folder for this process, for as long as the answer is open. Raises HomeError when it is taken."""
        file = (self.path / "up.lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            text = f"{self.path} is in use by another `make up` (process {holder}): stop it, or set FOYER_HOME"
            raise HomeError(text) from problem
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        return file

    def secrets(self) -> dict[str, str]:
        """Passwords of the roles and servers and the platform secret, made at random the first time.

        Keys: `platform` (hex), `postgres`, `nats` and each of ROLES. Raises HomeError when they are lost but a database
        made with them is there.
        """
        file = self.path / "secrets.json"
        if file.exists():
            found: dict[str, str] = json.loads(file.read_text())
            return found
        if (self.postgres / "data" / "PG_VERSION").exists():
            raise HomeError(f"{file} is missing although there is a database: bring it back, or delete {self.path}")
        made = {name: secrets.token_urlsafe(24) for name in ("postgres", "nats", *ROLES)}
        made["platform"] = secrets.token_hex(32)
        scratch = file.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        scratch.touch(mode=0o600)
        scratch.write_text(json.dumps(made, indent=2) + "\n")
        scratch.replace(file)
        return made
