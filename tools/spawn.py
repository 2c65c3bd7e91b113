"""Starts a program that does not outlive its parent: `python -I -S tools/spawn.py SIGNAL PARENT USER -- program ...`.

A program of its own because the kernel forgets a parent-death signal when the user changes, and because code between
fork and exec of a process with threads may hang. SIGNAL is sent when the parent ends, PARENT is its pid, USER is
`uid:gid` to drop to or `-`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1


def wrap(command: list[str], death_signal: int, user: tuple[int, int] | None = None) -> list[str]:
    """The command that starts `command` bound to this process: to be started from a thread that lives as long."""
    drop = f"{user[0]}:{user[1]}" if user else "-"
    return [
        *(sys.executable, "-I", "-S", str(Path(__file__).resolve())),
        *(str(int(death_signal)), str(os.getpid()), drop, "--"),
        *command,
    ]


def main(arguments: list[str]) -> None:
    """Drop to the user, ask for the signal, become the program."""
    death_signal, parent, user = arguments[:3]
    command = arguments[4:]
    # Before dropping: the new user may not be able to read this Python.
    system = ctypes.CDLL(None) if sys.platform == "linux" else None
    if user != "-":
        uid, gid = (int(part) for part in user.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if system is not None:
        system.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
