"""A real disk that is soon full."""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def small_disk(megabytes: int, *, owner: str | None = None) -> Iterator[Path]:
    """A file system of this size: the owner's alone (a user's name), else everybody's.

    Raises
    ------
    RuntimeError
        Without root, who alone may mount it: what it is for would go untested.
    """
    if os.geteuid() != 0:
        raise RuntimeError("mounting a small disk needs root: run this test as root")
    access = "mode=1777" if owner is None else f"mode=0700,uid={owner}"
    # Not below a test's own folder, which a server's user can't reach.
    with tempfile.TemporaryDirectory(prefix="headrace-disk-") as directory:
        mounting = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}M,{access}", "tmpfs", directory]
        subprocess.run(mounting, check=True, capture_output=True)
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)


def fill(disk: Path) -> Path:
    """Fill it to the last byte; gives the file whose removal frees it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler
