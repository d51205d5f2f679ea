"""What the benchmarks of the worker stand on: nothing is measured here, but what is measured is seen to be done."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.arena import BrokenError, all_handled
from benchmarks.busy import busy_cores
from benchmarks.contestants import by_hand, http_server
from benchmarks.contestants.ledger import Ledger
from benchmarks.contestants.order import Handler, Order, Workload
from benchmarks.contestants.stand_ins.ours import StandIn
from benchmarks.sqs_arena import Delay
from headrace.queues.settlement import Complete
from support.postgres import free_port


def order(handler: Handler, *, jobs: int, at_once: int = 3) -> Order:
    return Order(
        verb="drain",
        dsn="postgresql://127.0.0.1/unused",
        workload=Workload(jobs=jobs, handler=handler),
        settings={"at_once": at_once},
        url=f"http://127.0.0.1:{free_port()}/jobs",
    )


async def test_a_stand_in_hands_each_job_out_once_and_counts_what_is_completed() -> None:
    stand_in = StandIn(Workload(jobs=5))

    taken = [await stand_in.receive(2) for _ in range(4)]
    await stand_in.settle([Complete(delivery=delivery) for delivery in taken[0]])

    assert [len(deliveries) for deliveries in taken] == [2, 2, 1, 0]
    assert {delivery.job.id for deliveries in taken for delivery in deliveries} == set("01234")
    assert {delivery.job.payload for delivery in taken[0]} == {b'{"number":3}', b'{"number":4}'}
    assert stand_in.unfinished == 3


@pytest.mark.parametrize("handler", ["python", "exec"])
async def test_by_hand_every_job_is_run_once(handler: Handler) -> None:
    contestant, ledger = by_hand.create(order(handler, jobs=10)), Ledger()

    async with contestant.counting() as remaining, contestant.working(ledger, waits=False) as worker:
        before = await remaining()
        await worker
        after = await remaining()

    assert (before, after) == (10, 0)
    assert sorted(ledger.numbers) == list(range(10))


async def test_requests_by_hand_reach_the_server_once_each() -> None:
    posts = order("http", jobs=20)
    contestant, server, ledger = by_hand.create(posts), http_server.create(posts), Ledger()

    async with server.serving(), contestant.working(ledger, waits=False) as worker:
        await worker

    assert sorted(server.numbers) == sorted(ledger.numbers) == list(range(20))


REQUESTS = b"".join(
    b"POST /jobs HTTP/1.1\r\nHost: x\r\nheadrace-job-id: %d\r\nContent-Length: 9\r\n\r\nheadrace!" % number
    for number in (7, 8)
)


@pytest.mark.parametrize(
    "pieces",
    [lambda data: [data], lambda data: [data[:30], data[30:90], data[90:]], lambda data: [data[:-1], data[-1:]]],
)
async def test_the_server_tells_requests_apart_however_they_arrive(pieces: Callable[[bytes], list[bytes]]) -> None:
    told = order("http", jobs=2)
    server = http_server.create(told)

    async with server.serving():
        reader, writer = await asyncio.open_connection(*http_server.address(told.url))
        for piece in pieces(REQUESTS):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        for _ in range(2):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()

    assert server.numbers == [7, 8]


async def test_a_job_that_fails_ends_the_wait_for_the_others() -> None:
    ledger = Ledger()
    ledger.expect(2)
    working = asyncio.create_task(asyncio.Event().wait())

    ledger.handled(1)
    ledger.failed("the server said 500")

    with pytest.raises(RuntimeError, match="the server said 500"):
        await ledger.reached(working)  # type: ignore[arg-type]
    working.cancel()


async def test_the_proxy_before_sqs_counts_each_call_however_it_is_cut_and_forwards_it() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    request = b"POST / HTTP/1.1\r\nX-Amz-Target: AmazonSQS.ReceiveMessage\r\nContent-Length: 0\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        writer.close()

    port = free_port()
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server, Delay(f"http://127.0.0.1:{port}", 0.0).running() as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.endpoint_url.rpartition(":")[2]))
        for cut in (30, 45):
            writer.write(request[:cut])
            await writer.drain()
            await asyncio.sleep(0)
            writer.write(request[cut:])
            assert await reader.readexactly(len(answer)) == answer
        assert await reader.read() == b""
        writer.close()
    assert proxy.calls == {"ReceiveMessage": 2}


class Worker:
    """A process that says from time to time how many jobs it has handled."""

    def __init__(self, *counts: int) -> None:
        self._counts = list(counts)

    async def heard(self) -> dict[str, str]:
        if not self._counts:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return {"event": "handled", "count": str(self._counts.pop(0))}


async def test_several_processes_are_done_when_they_have_handled_all_jobs_between_them() -> None:
    async with asyncio.timeout(20):
        await all_handled([Worker(2, 5), Worker(), Worker(1, 3)], 8)


async def test_a_process_that_fails_beside_others_ends_the_measurement() -> None:
    class Broken(Worker):
        async def heard(self) -> dict[str, str]:
            raise BrokenError("it ended with status 1")

    async with asyncio.timeout(20):
        with pytest.raises(BrokenError, match="status 1"):
            await all_handled([Worker(2), Broken()], 8)


def test_cores_are_busy_for_as_long_as_they_are_to_be() -> None:
    with busy_cores() as spinners:
        assert len(spinners) == len(os.sched_getaffinity(0))
        assert all(Path(f"/proc/{spinner}").exists() for spinner in spinners)
    assert not any(Path(f"/proc/{spinner}").exists() for spinner in spinners)
