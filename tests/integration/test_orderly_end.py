"""A benchmark or a soak that is told to stop leaves no server behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from support.worker_process import eventually

TESTS = Path(__file__).parents[1]

_PROGRAM = """
import asyncio
from support.postgres import running_server
from support.signals import end_orderly_on_sigterm

async def main():
    with running_server() as server:
        print(server.process.pid, flush=True)
        await asyncio.sleep(600)

end_orderly_on_sigterm()
asyncio.run(main())
"""


async def test_however_often_it_is_told() -> None:
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])},
    )
    assert program.stdout is not None
    server = int(await program.stdout.readline())
    program.send_signal(signal.SIGTERM)
    await eventually(lambda: not _ignores_nothing(program.pid), what="told")
    program.send_signal(signal.SIGTERM)
    assert await program.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


def _ignores_nothing(pid: int) -> bool:
    """Whether it has yet to take note: from then on it ignores the signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    return not ignored & 1 << signal.SIGTERM - 1
