"""The folder of one supervisor: its database, its processes, and the lock that keeps a second one out."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headrace_operator.local.errors import InputError
from headrace_operator.local.processes import Ledger, end_started_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a full disk."""

_LOCK = "lock"
_LEDGER = "processes.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A supervisor's own folder, while it has it."""

    path: Path
    is_kept: bool
    """Whether it stays when the supervisor ends."""
    ledger: Ledger
    leftovers: int
    """How many processes of earlier supervisors were ended."""


@contextmanager
def folder(given: Path | None) -> Iterator[Folder]:
    """The given folder, made where it isn't there; or a temporary one, gone afterwards.

    Raises
    ------
    InputError
        Where it can't be had, or another supervisor has it.
    """
    with ExitStack() as stack:
        leftovers = 0
        try:
            if given is None:
                shelf = _shelf()
                with _locked(shelf / _LOCK, waits=True):
                    leftovers = _clear(shelf)
                    path = Path(tempfile.mkdtemp(dir=shelf))
                    lock = stack.enter_context(_locked(path / _LOCK))
                stack.callback(shutil.rmtree, path, ignore_errors=True)
            else:
                path = given.expanduser().absolute()
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not (path / _LOCK).exists() and any(path.iterdir()):
                    # What is ours in a folder is removed and made anew by its name.
                    raise InputError(f"{path}: holds other files: give an empty folder, or a new one, with --data-dir")
                lock = stack.enter_context(_locked(path / _LOCK))
        except PermissionError as error:
            raise InputError(f"{error.filename}: may not be written: give another folder with --data-dir") from None
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"{error.filename}: is no folder: give another with --data-dir") from None
        except OSError as error:
            if error.errno in FULL:
                raise
            raise InputError(f"{error.filename}: {error.strerror}: give another folder with --data-dir") from None
        if lock is None:
            raise InputError(f"another headrace-operator dev works in {path}: end it, or give another --data-dir")
        ledger = Ledger(path / _LEDGER)
        leftovers += _end_leftovers(path)
        yield Folder(path=path, is_kept=given is not None, ledger=ledger, leftovers=leftovers)


def _shelf() -> Path:
    """Where this user's temporary folders stand, so that a later start finds those of one that was killed."""
    shelf = Path(tempfile.gettempdir()) / f"headrace-dev-{os.getuid()}"
    # PostgreSQL, which refuses to be root, passes through root's.
    shelf.mkdir(mode=0o711 if os.getuid() == 0 else 0o700, exist_ok=True)
    if shelf.is_symlink() or shelf.stat().st_uid != os.getuid():
        raise InputError(f"{shelf} is somebody else's: give a folder of your own with --data-dir")
    return shelf


def _clear(shelf: Path) -> int:
    """Remove the folders of supervisors that are gone, and end what they left running."""
    ended = 0
    for path in shelf.iterdir():
        if path.is_dir():
            # Its own supervisor may just be removing it.
            with suppress(FileNotFoundError), _locked(path / _LOCK) as lock:
                if lock is not None:
                    ended += _end_leftovers(path)
                    shutil.rmtree(path, ignore_errors=True)
    return ended


def _end_leftovers(path: Path) -> int:
    # Workers first: they end what they have started.
    return Ledger(path / _LEDGER).end_leftovers() + end_started_at(path)


@contextmanager
def _locked(file: Path, *, waits: bool = False) -> Iterator[IO[bytes] | None]:
    """The lock, which the kernel frees with its process; None where somebody has it."""
    with file.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        yield lock
