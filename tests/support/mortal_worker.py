"""Workers that kill themselves at a chosen step: `python -m support.mortal_worker PLACE REDIS LEDGER STEPS KILLS`.

A step is the moment before or after a call of the queue's or the idempotency store's, or one within the handler. For
each step and kill there is a queue of its own with two jobs, and a worker that is killed at that step. Afterwards,
workers that live on find what was left. What happened is in the ledger, a line each: ``started KEY``, ``finished KEY``.

Forks from a process that has everything imported and nothing open: a kill takes a tenth of a second.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from headrace import App, RetryPolicy, new_job
from headrace.idempotency import failure_counts_in, store_from_url
from headrace.job import IDEMPOTENCY_KEY_HEADER
from headrace.metrics import Metrics
from headrace.runtime.handlers.python import PythonHandler
from headrace.runtime.idempotency_guard import Idempotency
from headrace.runtime.worker import Worker
from support.mortal_places import place_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.idempotency.base import IdempotencyStore

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 0.2
_TIMEOUT_SECONDS = 60.0
_AT_ONCE = 20


class Steps:
    """Counts steps, and ends the process at one of them; None: at none."""

    def __init__(self, deadly: int | None) -> None:
        self._left = deadly

    def __call__(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


class Stepping:
    """Another object, of which some methods have a step before and after them."""

    def __init__(
        self, inner: Any, steps: Steps, names: frozenset[str], tell: Callable[..., None] | None = None
    ) -> None:
        self._inner = inner
        self._steps = steps
        self._names = names
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._names:
            return found

        async def stepping(*arguments: Any, **named: Any) -> Any:
            if name != "receive":  # When there is room to ask for more depends on the clock.
                self._steps()
            result = await found(*arguments, **named)
            if self._tell is not None:
                self._tell(name, arguments, result)
            # A look that found nothing is no step: how many there are depends on the clock.
            if result != []:
                self._steps()
            return result

        return stepping

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._inner.__aexit__(*error)


class Ledger:
    """Lines in a file; each is written by one call, and a kill can't take it back."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, what: str, key: str) -> None:
        os.write(self._descriptor, f"{what} {key}\n".encode())

    def finishes(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        if name == "finish":
            for hold, is_recorded in zip(arguments[0], result, strict=True):
                if is_recorded:
                    self.write("finished", hold.key)


class Bench:
    """The backend, the store, and what the workers on them note."""

    def __init__(self, url: str, redis_url: str, ledger: Path) -> None:
        self.place = place_at(url)
        self.redis_url = redis_url
        self.ledger = Ledger(ledger)

    def store(self) -> IdempotencyStore:
        return store_from_url(self.redis_url)

    async def set_up(self, queues: list[str]) -> None:
        await self.place.make(queues)
        for queue in queues:
            async with self.place.queue(queue) as opened:
                await opened.enqueue([new_job("charge", idempotency_key=f"{queue}/{number}") for number in range(2)])

    async def work(self, queue: str, *, deadly: int | None) -> None:
        """Until the queue is empty, or to death."""
        steps = Steps(deadly)
        app = App()

        @app.job("charge")
        async def charge(payload: Any, context: Any) -> None:
            key = context.headers[IDEMPOTENCY_KEY_HEADER]
            self.ledger.write("started", key)
            steps()
            await asyncio.sleep(0)
            self.ledger.write("charged", key)
            steps()

        async with self.store() as store:
            connected = self.place.queue(queue, failure_counts_in(store))
            stepping: Any = Stepping(connected, steps, frozenset({"receive", "settle"}))
            mortal: Any = Stepping(store, steps, frozenset({"claim", "finish", "release"}), self.ledger.finishes)
            worker = Worker(
                stepping,
                PythonHandler(app, threads=1),
                Metrics().of("", queue),
                slots=2,
                poll_interval_seconds=0.1,
                retry=RetryPolicy(initial_delay_seconds=0.05),
                idempotency=Idempotency(store=mortal),
                heartbeat_seconds=HEARTBEAT_SECONDS,
            )
            working = asyncio.create_task(worker.run())
            async with asyncio.timeout(_TIMEOUT_SECONDS), self.place.looking(queue) as is_empty:
                while True:
                    if await is_empty():
                        break
                    await asyncio.sleep(0.02)
            worker.stop()
            await working

    async def recover(self, queues: list[str]) -> None:
        waiting = iter(queues)

        async def one_after_another() -> None:
            for queue in waiting:
                await self.work(queue, deadly=None)

        await asyncio.gather(*(one_after_another() for _ in range(_AT_ONCE)))


def in_child(run: Callable[[], None]) -> int:
    """Fork; the child's wait status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        run()
        os._exit(0)
    except BaseException:
        log.exception("a worker failed")
        os._exit(1)


def main() -> None:
    url, redis_url, ledger, steps, kills = sys.argv[1:]
    logging.basicConfig(level=logging.ERROR)
    places = list(itertools.product(range(1, int(steps) + 1), range(int(kills))))
    queues = [f"step-{step}-{number}" for step, number in places]

    def bench() -> Bench:
        return Bench(url, redis_url, Path(ledger))

    assert in_child(lambda: asyncio.run(bench().set_up(queues))) == 0, "set up"
    killed = 0
    for (step, _), queue in zip(places, queues, strict=True):
        status = in_child(lambda queue=queue, step=step: asyncio.run(bench().work(queue, deadly=step)))  # type: ignore[misc]
        assert status == 0 or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL), f"{queue}: {status}"
        killed += status != 0
    assert in_child(lambda: asyncio.run(bench().recover(queues))) == 0, "recovery"
    print(killed)


if __name__ == "__main__":
    main()
