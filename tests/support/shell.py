"""The command ``headrace`` in a process of its own, as a shell runs it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any


async def headrace(
    *arguments: str, dsn: str = "", stdin: str | bytes = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run it; standard input is no terminal."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "headrace", *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        check=False,
        env={**os.environ, "HEADRACE_DSN": dsn, **environment},
    )
    assert b"Traceback (most recent" not in done.stderr, done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


async def headrace_json(*arguments: str, dsn: str) -> Any:
    """Its answer, for programs; it must succeed."""
    done = await headrace(*arguments, "--output", "json", dsn=dsn)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)
