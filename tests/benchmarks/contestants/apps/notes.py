"""How a worker that was started by its own command says that a job has begun. Standard library only."""

from __future__ import annotations

import json
import os
import time

DSN_VARIABLE = "BENCH_DSN"
NOTES_VARIABLE = "BENCH_NOTES"


def note(number: int) -> None:
    """This job has begun, now: a line down the pipe that the environment names."""
    line = json.dumps({"number": number, "at": time.monotonic()}) + "\n"
    os.write(int(os.environ[NOTES_VARIABLE]), line.encode())
