"""The limit of what runs jobs: the same number of times by hand, and no queue, no metrics, no time limits.

Settings: ``at_once``, how many run at a time.
"""

from __future__ import annotations

import asyncio
import json
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

from benchmarks.contestants.contestant import Contestant, Counter, Producer
from benchmarks.contestants.http_server import address
from benchmarks.contestants.ledger import Ledger, clock
from benchmarks.contestants.order import PROGRAM, Order

_DEFAULT_AT_ONCE = 10

_REQUEST = (
    "POST {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: headrace\r\nContent-Type: application/json\r\nHeadrace-Job-Id: {}\r\n"
    "Headrace-Job-Queue: bench\r\nHeadrace-Job-Name: noop\r\nHeadrace-Job-Attempt: 1\r\nHeadrace-Job-Priority: 0\r\n"
    "Headrace-Job-Enqueued-At: 2026-01-02T03:04:05.678901+00:00\r\nContent-Length: {}\r\n\r\n{}"
)
_END = b"\r\n\r\n"
_SUCCESS = b"HTTP/1.1 200 "


class _Producer:
    """Has nothing to do: the jobs are numbers."""

    def prepare(self, numbers: Sequence[int]) -> None:
        del numbers

    async def enqueue(self, prepared: None) -> None:
        del prepared


class ByHand(ABC):
    """See `benchmarks.contestants.contestant.Contestant`."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._at_once = int(order.settings.get("at_once", _DEFAULT_AT_ONCE))
        self._unfinished = order.workload.jobs

    async def install(self) -> None:
        assert self._order.dsn, "a database is made, and left alone"

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[Producer]:
        yield _Producer()

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Counter]:
        async def remaining() -> int:
            return self._unfinished

        yield remaining

    @asynccontextmanager
    async def working(self, ledger: Ledger, *, waits: bool) -> AsyncIterator[asyncio.Task[None]]:
        assert not waits, "nobody enqueues"

        def handled(number: int) -> None:
            ledger.handled(number)
            self._unfinished -= 1

        ledger.receiving_at = clock()
        running = asyncio.create_task(self.run_all(handled))
        yield running
        await running

    @abstractmethod
    async def run_all(self, handled: Callable[[int], None]) -> None:
        """Run all jobs."""


class Calls(ByHand):
    """Each is a payload to decode and a coroutine to await, one after another."""

    async def run_all(self, handled: Callable[[int], None]) -> None:
        workload = self._order.workload
        payloads = [json.dumps(workload.payload(number)).encode() for number in range(workload.jobs)]

        async def noop(payload: bytes) -> None:
            handled(json.loads(payload)["number"])

        for payload in payloads:
            await noop(payload)


class Posts(ByHand):
    """Each is a request as our handler sends it, on connections that are kept."""

    async def run_all(self, handled: Callable[[int], None]) -> None:
        loop = asyncio.get_running_loop()
        requests = self._requests()

        async def client() -> None:
            done = loop.create_future()
            await loop.create_connection(lambda: _Client(requests, handled, done), *address(self._order.url))
            await done

        await asyncio.gather(*(client() for _ in range(self._at_once)))

    def _requests(self) -> Iterator[tuple[int, bytes]]:
        url = urlsplit(self._order.url)
        for number in range(self._order.workload.jobs):
            body = json.dumps(self._order.workload.payload(number))
            yield number, _REQUEST.format(url.path, url.netloc, number, len(body), body).encode()


class _Client(asyncio.Protocol):
    """Sends one request after another."""

    def __init__(
        self, requests: Iterator[tuple[int, bytes]], handled: Callable[[int], None], done: asyncio.Future[None]
    ) -> None:
        self._requests = requests
        self._handled = handled
        self._done = done
        self._number = 0
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are no subclass.
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.endswith(_END):
            return
        if not self._received.startswith(_SUCCESS):
            self._done.set_exception(RuntimeError(f"the server said {self._received[:100]!r}"))
            return
        self._received = b""
        self._handled(self._number)
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        try:
            self._number, request = next(self._requests)
        except StopIteration:
            self._transport.close()
            self._done.set_result(None)
        else:
            self._transport.write(request)


class Spawns(ByHand):
    """Each is a run of a program, by the system's own calls, in this one thread."""

    async def run_all(self, handled: Callable[[int], None]) -> None:
        self._run_all(handled)

    def _run_all(self, handled: Callable[[int], None]) -> None:
        numbers = iter(range(self._order.workload.jobs))
        running: dict[int, int] = {}
        while True:
            while len(running) < self._at_once and (number := next(numbers, None)) is not None:
                running[os.posix_spawn(PROGRAM, [PROGRAM], os.environ)] = number
            if not running:
                return
            child, status = os.waitpid(-1, 0)
            if status:
                raise RuntimeError(f"{PROGRAM} ended with wait status {status}")
            handled(running.pop(child))


_KINDS: dict[str, type[ByHand]] = {"python": Calls, "http": Posts, "exec": Spawns}


def create(order: Order) -> Contestant:
    """The contestant of this module."""
    return _KINDS[order.workload.handler](order)
