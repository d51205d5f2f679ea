"""Many processes of a contestant on one queue: forked from one that has imported everything, so that they begin soon.

Standard input and output are the first process's, which works itself on nothing: it says ``ready`` once all have asked
for jobs, and a line on standard input, or its end, ends them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.contestants.contestant import Contestant
from benchmarks.contestants.ledger import Ledger
from benchmarks.contestants.order import Order

# Connecting all at once is not what is measured.
_STAGGER_SECONDS = 0.05
_BEGUN = b"+"
_LOOK_SECONDS = 0.05


def work(contestant: Any, order: Order, say: Callable[[Mapping[str, str]], None]) -> None:
    """Be the crowd, until told to stop."""
    gc.collect()
    gc.freeze()
    begun_end, begun = os.pipe()
    stopping, stopping_end = os.pipe()
    reports = [Path(f"{order.report}-{number}") for number in range(order.workers)]
    children = []
    for report in reports:
        child = os.fork()
        if not child:
            os.close(stopping_end)
            os._exit(_child(contestant, report, begun, stopping))
        children.append(child)
        time.sleep(_STAGGER_SECONDS)
    os.close(begun)
    try:
        for _ in children:
            # Who ends this one before is not to leave a hundred others behind.
            ready, _, _ = select.select([begun_end, sys.stdin], [], [])
            if begun_end not in ready or os.read(begun_end, 1) != _BEGUN:
                raise RuntimeError("not all processes have begun")
        say({"event": "ready"})
        sys.stdin.readline()
    finally:
        os.close(stopping_end)
        failed = [child for child in children if os.waitpid(child, 0)[1]]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(children)} processes failed")
    figures = [json.loads(report.read_text()) for report in reports]
    for report in reports:
        report.unlink()
    Path(order.report).write_text(json.dumps(figures))
    say({"event": "done"})


def _child(contestant: Contestant, report: Path, begun: int, stopping: int) -> int:
    try:
        uvloop.run(_worker(contestant, report, begun, stopping))
    except BaseException:  # noqa: BLE001 - it must not run into its parent's code
        traceback.print_exc()
        return 1
    return 0


async def _worker(contestant: Contestant, report: Path, begun: int, stopping: int) -> None:
    ledger = Ledger()
    ledger.times = []
    async with contestant.working(ledger, waits=True) as worker:
        while not ledger.receiving_at and not worker.done():  # noqa: ASYNC110 - no contestant tells
            await asyncio.sleep(_LOOK_SECONDS)
        os.write(begun, _BEGUN)
        stopped = asyncio.create_task(asyncio.to_thread(os.read, stopping, 1))
        await asyncio.wait({stopped, worker}, return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            raise RuntimeError("the worker stopped by itself")
    report.write_text(json.dumps({"numbers": ledger.numbers, "times": ledger.times}))  # noqa: ASYNC240 - all is over
