"""The processor time of a database server: of its sessions, of those that have ended, and of what it does by itself."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# As proc(5) counts them, from the first field after the command's name.
_PARENT = 1
_OWN = (11, 12)
_OF_ENDED_CHILDREN = (13, 14)


def server_seconds(postmaster: int) -> float:
    """User and system time so far of this process and of all that it has started."""
    fields = _fields(postmaster)
    if fields is None:
        raise ProcessLookupError(f"no process {postmaster}")
    ticks = sum(int(fields[place]) for place in (*_OWN, *_OF_ENDED_CHILDREN))
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _fields(int(entry.name))
            if fields is not None and int(fields[_PARENT]) == postmaster:
                ticks += sum(int(fields[place]) for place in _OWN)
    return ticks / _TICKS_PER_SECOND


def _fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None  # It has just ended.
    return text[text.rindex(")") + 2 :].split()
