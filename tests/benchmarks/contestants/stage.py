"""One process of a contestant: `python -m benchmarks.contestants.stage NAME ORDER`.

Speaks JSON, a line a message. It says ``ready`` once it could begin, begins at a line on standard input, and says
``done`` when its figures are in the order's file. Times are those of one clock, so that those of several processes can
be put together.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import logging
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import uvloop

from benchmarks.contestants import crowd
from benchmarks.contestants.apps.notes import DSN_VARIABLE, NOTES_VARIABLE
from benchmarks.contestants.contestant import Claimer, Contestant, Counter, MissingError, Startable, Taking
from benchmarks.contestants.http_server import HttpServer
from benchmarks.contestants.ledger import Ledger, clock
from benchmarks.contestants.order import CALLERS, CHUNKS, Order

Figures = dict[str, Any]
Performer = Contestant | Claimer | HttpServer

# Beside other processes nobody knows which job is the last: after so long without one, who started them is told.
_QUIET_SECONDS = 0.01
_LOOK_SECONDS = 0.001
# Until a worker's start is over and it only waits.
_SETTLE_SECONDS = 8.0
_WAKE_PAUSE_SECONDS = (0.06, 0.14)
_WAKE_WARM_UP = 10
_CLAIM_WARM_UP = 200
_TAKE_WARM_UP = 20


async def fill(contestant: Contestant, order: Order) -> Figures:
    """Make the tables and enqueue."""
    await contestant.install()
    await begin()
    async with contestant.producing() as producer:
        for start in range(0, order.workload.jobs, order.workload.per_call):
            end = min(start + order.workload.per_call, order.workload.jobs)
            await producer.enqueue(producer.prepare(range(start, end)))
    return {}


async def count(contestant: Contestant, order: Order) -> Figures:
    """How many jobs the database holds."""
    del order
    await begin()
    async with contestant.counting() as remaining:
        return {"remaining": await remaining()}


async def enqueue_many(contestant: Contestant, order: Order) -> Figures:
    """Enqueue, many in a call, one call after another."""
    await contestant.install()
    async with contestant.producing() as producer, contestant.counting() as remaining:
        step = order.workload.per_call
        calls = [producer.prepare(range(start, start + step)) for start in range(0, order.workload.jobs, step)]
        await begin()
        started = clock()
        for call in calls:
            await producer.enqueue(call)
        seconds = clock() - started
        return {"seconds": seconds, "remaining": await remaining()}


async def enqueue_concurrent(contestant: Contestant, order: Order) -> Figures:
    """Enqueue one job a call, from many callers, each of which waits for its own."""
    await contestant.install()
    async with contestant.producing() as producer, contestant.counting() as remaining:
        calls = iter([producer.prepare([number]) for number in range(order.workload.jobs)])

        async def caller() -> None:
            for call in calls:
                await producer.enqueue(call)

        await begin()
        started = clock()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        seconds = clock() - started
        return {"seconds": seconds, "remaining": await remaining()}


async def drain(contestant: Contestant, order: Order) -> Figures:
    """Work until the database holds no job any more."""
    ledger = Ledger()
    async with contestant.counting() as remaining:
        await remaining()
        await begin()
        ledger.expect(order.workload.jobs)
        async with contestant.working(ledger, waits=False) as worker:
            if order.alone:
                await ledger.reached(worker)
            else:
                await _all_handled(ledger, worker)
            await _emptied(remaining)
            completed_at = clock()
    return {
        "receiving_at": ledger.receiving_at,
        "completed_at": completed_at,
        "numbers": ledger.numbers,
    }


async def drain_some(contestant: Contestant, order: Order) -> Figures:
    """Work until some of the jobs are handled, then stop."""
    ledger = Ledger()
    async with contestant.counting() as remaining:
        await begin()
        ledger.expect(order.some)
        async with contestant.working(ledger, waits=True) as worker:
            await ledger.reached(worker)
        return {
            "receiving_at": ledger.receiving_at,
            "completed_at": ledger.marks[0],
            "numbers": ledger.numbers,
            "remaining": await remaining(),
        }


async def drain_chunks(contestant: Contestant, order: Order) -> Figures:
    """One worker; chunk after chunk enqueued at once and worked off. Each is timed from its first job to its last."""
    ledger = Ledger()
    size = order.workload.jobs // CHUNKS
    rates = []
    await contestant.install()
    async with contestant.producing() as producer, contestant.counting() as remaining:
        await begin()
        async with contestant.working(ledger, waits=True) as worker:
            for chunk in range(CHUNKS):
                first = chunk * size
                ledger.expect(first + 1)
                enqueuing = asyncio.create_task(producer.enqueue(producer.prepare(range(first, first + size))))
                await ledger.reached(worker)
                ledger.expect(first + size)
                await ledger.reached(worker)
                rates.append((size - 1) / (ledger.marks[-1] - ledger.marks[-2]))
                await enqueuing
                await _emptied(remaining)
    return {"rates": rates, "numbers": ledger.numbers}


async def beside(contestant: Taking, order: Order) -> Figures:
    """Request jobs and complete them, alone, and then beside others who hold as many as ``some``; each when told."""
    await fill(contestant, order)
    async with contestant.taking() as taker:
        for held in (0, order.some):
            await taker.hold(held)
            for _ in range(_TAKE_WARM_UP):
                await (await taker.take())()
            await begin()
            for _ in range(order.samples):
                await (await taker.take())()
            await begin()
    return {}


async def idle(contestant: Contestant, order: Order) -> Figures:
    """A worker on an empty queue, from ``ready`` until told to stop."""
    del order
    await contestant.install()
    async with contestant.working(Ledger(), waits=True) as worker:
        await asyncio.sleep(_SETTLE_SECONDS)
        await begin()
        if worker.done():
            await worker
            raise RuntimeError("the worker stopped by itself")
    return {}


async def wake(contestant: Contestant, order: Order) -> Figures:
    """Seconds from the call that enqueues a job to the job's start, on a worker that waits."""
    await contestant.install()
    ledger = Ledger()
    seconds = []
    pauses = random.Random(300)
    async with contestant.producing() as producer, contestant.working(ledger, waits=True) as worker:
        await begin()
        await asyncio.sleep(1.0)
        for number in range(order.samples + _WAKE_WARM_UP):
            await asyncio.sleep(pauses.uniform(*_WAKE_PAUSE_SECONDS))
            job = producer.prepare([number])
            ledger.expect(number + 1)
            started = clock()
            await producer.enqueue(job)
            await ledger.reached(worker)
            seconds.append(ledger.marks[-1] - started)
    return {"seconds": seconds[_WAKE_WARM_UP:], "numbers": ledger.numbers}


async def claim(claimer: Claimer, order: Order) -> Figures:
    """Seconds that a call takes which claims a batch of new keys."""
    seconds = []
    size = int(order.settings["batch"])
    async with claimer.claiming() as claims:
        await begin()
        for sample in range(order.samples + _CLAIM_WARM_UP):
            names = [f"{sample}-{number}" for number in range(size)]
            keys, tokens = [f"order-{name}" for name in names], [f"token-{name}" for name in names]
            started = clock()
            free = await claims(keys, tokens)
            seconds.append(clock() - started)
            if free != size:
                raise RuntimeError(f"{free} of {size} new keys were claimed")
    return {"seconds": seconds[_CLAIM_WARM_UP:]}


async def overhead(contestant: Contestant, order: Order) -> Figures:
    """Processor time of a worker whose jobs are ready-made."""
    ledger = Ledger()
    ledger.expect(order.workload.jobs)
    # Jobs that wait in this very process would be looked through again and again.
    gc.freeze()
    async with contestant.counting() as remaining:
        await begin()
        started = time.process_time()
        async with contestant.working(ledger, waits=False) as worker:
            await ledger.reached(worker)
            await _emptied(remaining)
            seconds = time.process_time() - started
    return {"seconds": seconds, "numbers": ledger.numbers}


async def sleep(contestant: Contestant, order: Order) -> Figures:
    """The memory of a worker all of whose jobs sleep at once; then they wake and end."""
    ledger = Ledger()
    ledger.alarm = asyncio.Event()
    ledger.expect(order.workload.jobs)
    await begin()
    async with contestant.working(ledger, waits=True) as worker:
        await ledger.reached(worker)
        resident_bytes = _resident_bytes()
        ledger.alarm.set()
        async with contestant.counting() as remaining:
            await _emptied(remaining)
    return {"resident_bytes": resident_bytes, "numbers": ledger.numbers}


async def start(contestant: Startable, order: Order) -> Figures:
    """Seconds from the worker's own command to the start of the job that waits for it; again and again."""
    await contestant.install()
    seconds = []
    numbers = []
    async with contestant.producing() as producer, contestant.counting() as remaining:
        await begin()
        for number in range(order.samples):
            await producer.enqueue(producer.prepare([number]))
            started = clock()
            with _launched(contestant.command(), order.dsn) as (worker, notes):
                first = await asyncio.to_thread(notes.readline)
                if not first:
                    raise RuntimeError("the worker ended and ran no job")
                await _emptied(remaining)
                worker.terminate()
                lines = [first, *await asyncio.to_thread(notes.readlines)]
                if status := await asyncio.to_thread(worker.wait):
                    raise RuntimeError(f"the worker ended with status {status}")
            seconds.append(json.loads(first)["at"] - started)
            numbers += [json.loads(line)["number"] for line in lines]
    return {"seconds": seconds, "numbers": numbers}


async def serve(server: HttpServer, order: Order) -> Figures:
    """A server, from ``ready`` until told to stop."""
    del order
    async with server.serving():
        await begin()
    return {"numbers": server.numbers}


VERBS: Mapping[str, Callable[[Any, Order], Awaitable[Figures]]] = {
    "fill": fill,
    "count": count,
    "enqueue_many": enqueue_many,
    "enqueue_concurrent": enqueue_concurrent,
    "drain": drain,
    "drain_some": drain_some,
    "drain_chunks": drain_chunks,
    "beside": beside,
    "idle": idle,
    "wake": wake,
    "claim": claim,
    "overhead": overhead,
    "sleep": sleep,
    "start": start,
    "serve": serve,
}


async def begin() -> None:
    """Say that all is ready, and wait for the word."""
    say({"event": "ready"})
    await asyncio.to_thread(sys.stdin.readline)


def say(message: Mapping[str, str]) -> None:
    """One message, on one line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


@contextmanager
def _launched(command: Sequence[str], dsn: str) -> Iterator[tuple[subprocess.Popen[bytes], TextIO]]:
    """A worker by its own command, and what its jobs note; it does not outlive the context."""
    reading, writing = os.pipe()
    worker = subprocess.Popen(
        command,
        env=os.environ | {DSN_VARIABLE: dsn, NOTES_VARIABLE: str(writing)},
        pass_fds=[writing],
        stdout=subprocess.DEVNULL,
    )
    os.close(writing)
    with os.fdopen(reading) as notes, worker:
        try:
            yield worker, notes
        finally:
            worker.kill()


async def _emptied(remaining: Counter) -> None:
    """Wait until the database holds no job; the last outcomes are about to be reported."""
    while True:
        if not await remaining():
            return
        await asyncio.sleep(_LOOK_SECONDS)


async def _all_handled(ledger: Ledger, worker: asyncio.Task[None]) -> None:
    """Say how many were handled here, each time that it was quiet for a moment, until told that this is all of them.

    The database is not asked: its server would spend a third of its time on counting what is left.
    """
    told = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    said = 0
    while not told.done():
        before = len(ledger.numbers)
        await asyncio.wait({told}, timeout=_QUIET_SECONDS)
        if worker.done():
            await worker  # It may end with the queue, but not with an error.
        if said != before == len(ledger.numbers):
            said = before
            say({"event": "handled", "count": str(said)})


def _resident_bytes() -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


async def _perform(performer: Performer, order: Order) -> Mapping[str, str]:
    try:
        figures = await VERBS[order.verb](performer, order)
    except MissingError as missing:
        return {"event": "missing", "what": str(missing)}
    Path(order.report).write_text(json.dumps(figures))  # noqa: ASYNC240 - all is over
    return {"event": "done"}


def main() -> None:
    """Do what the arguments say."""
    name, text = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING)
    order = Order.from_json(text)
    performer: Performer = importlib.import_module(f"benchmarks.contestants.{name}").create(order)
    if order.verb == "crowd":
        crowd.work(performer, order, say)
    else:
        say(uvloop.run(_perform(performer, order)))


if __name__ == "__main__":
    main()
