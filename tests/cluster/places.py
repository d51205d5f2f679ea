"""Where the harness keeps what it makes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = REPOSITORY / "build"
KUBECONFIG = BUILD / "kubeconfig"
NODE_SOURCES = Path(__file__).resolve().parent / "node"


def cache() -> Path:
    """Return the user's cache folder of this project: compiled tools outlive a clone and a `make clean`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "headrace"


def fingerprint(*parts: str | Path) -> str:
    """Return a short hash of texts and of files or whole folders of files (by name and content)."""
    digest = hashlib.sha256()
    for part in parts:
        for name, content in _contents(part):
            digest.update(f"{len(name)} {name} {len(content)} ".encode())
            digest.update(content)
    return digest.hexdigest()[:12]


def _contents(part: str | Path) -> Iterable[tuple[str, bytes]]:
    if isinstance(part, str):
        return [("", part.encode())]
    if part.is_file():
        return [(part.name, part.read_bytes())]
    files = sorted(path for path in part.rglob("*") if path.is_file())
    return [(str(path.relative_to(part)), path.read_bytes()) for path in files]


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process at a time make `name`; the kernel frees the lock of a process that was killed."""
    folder = cache() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
