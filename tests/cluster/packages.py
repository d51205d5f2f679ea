"""Debian packages that the harness needs: announced, asked for first where somebody can answer, installed as root."""

from __future__ import annotations

import os
import shutil
import sys

from cluster.errors import ClusterError
from cluster.processes import run
from cluster.progress import say, step


def provide(commands: tuple[str, ...], *, packages: tuple[str, ...], why: str) -> None:
    """See to it that `commands` are there, by installing `packages` where one is not.

    Parameters
    ----------
    why
        What they are for, as it is told to the person whose machine it is.
    """
    missing = [command for command in commands if not shutil.which(command)]
    if not missing:
        return
    names = " ".join(packages)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ClusterError(f"{', '.join(missing)} is missing ({why}): install it, or run this as root on Debian")
    say(f"{why}: Debian's {names} will be installed")
    if sys.stdin.isatty() and input("Install? [Y/n] ").strip().lower() not in ("", "y", "yes"):
        raise ClusterError(f"not installed without your consent: install {names} yourself, then run this again")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"install {names}"):
        run(["apt-get", "update", "-qq"], environment=quiet, failure="apt-get can't update its lists: mend its sources")
        run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
            environment=quiet,
            failure=f"apt-get can't install {names}: install them by hand",
        )
