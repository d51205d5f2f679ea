"""The peers' own environment: the project's must not depend on them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from benchmarks.places import BUILD, ROOT

_LOCK = ROOT / "locks" / "bench.txt"


def python() -> Path:
    """Its interpreter, with what the lock names installed."""
    environment = BUILD / "peers"
    interpreter = environment / "bin" / "python"
    mark = environment / "installed"
    wanted = hashlib.sha256(_LOCK.read_bytes()).hexdigest()
    if not mark.exists() or mark.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        subprocess.run(
            [
                *(interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                *("--require-hashes", "-r", _LOCK),
            ],
            check=True,
        )
        mark.write_text(wanted)
    return interpreter
