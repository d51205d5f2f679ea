"""A worker within one's own process: `headrace.working`."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import headrace
from headrace import App, AppError, Context, QueueError, RetryPolicy, new_job
from headrace.metrics import Metrics
from headrace.queues.memory import MemoryQueue, process_backend
from support.postgres import free_port
from support.sqs import CREDENTIALS, queues_on
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headrace.job import NewJob
    from headrace.queues.base import Depth
    from support.elasticmq import ElasticMq

URL = "memory://"


class Shop:
    """An application, and what its jobs did."""

    def __init__(self) -> None:
        self.app = App()
        self.ran: list[Any] = []
        self.started = asyncio.Event()
        self.may_end = asyncio.Event()
        self.app.job("note")(self.note)
        self.app.job("wait")(self.wait)

    async def note(self, payload: Any) -> None:
        self.ran.append(payload)

    async def wait(self, payload: Any) -> None:
        self.started.set()
        await self.may_end.wait()
        self.ran.append(payload)


@pytest.fixture
def shop() -> Iterator[Shop]:
    process_backend.cache_clear()
    yield Shop()
    process_backend.cache_clear()


async def enqueue(*jobs: NewJob) -> None:
    async with headrace.from_url(URL, "orders") as queue:
        await queue.enqueue(jobs)


async def depth() -> Depth:
    return (await process_backend().depths(["orders"]))["orders"]


async def test_jobs_run_for_as_long_as_the_block_lasts(shop: Shop) -> None:
    async with headrace.working(shop.app, URL, "orders") as worker:
        await eventually(lambda: worker.is_ready, what="the worker works")
        await enqueue(new_job("note", 17))
        await eventually(lambda: shop.ran == [17], what="the job ran")
    assert not worker.is_ready
    await worker.ended()
    await enqueue(new_job("note", 18))
    await asyncio.sleep(0)
    assert shop.ran == [17]
    assert (await depth()).ready == 1


async def test_leaving_the_block_lets_what_runs_finish(shop: Shop) -> None:
    async with headrace.working(shop.app, URL, "orders", slots=1) as worker:
        await enqueue(new_job("wait", 17), new_job("note", 18))
        await shop.started.wait()
        assert worker.running == 1
        asyncio.get_running_loop().call_later(0.05, shop.may_end.set)
    assert shop.ran == [17]
    assert (await depth()).ready == 1, "what was not started went back"


async def test_what_runs_too_long_is_handed_back_uncharged(shop: Shop) -> None:
    async with headrace.working(shop.app, URL, "orders", drain_timeout_seconds=0):
        await enqueue(new_job("wait", 17))
        await shop.started.wait()
    assert shop.ran == []
    (entry,) = process_backend().place("orders").entries.values()
    assert (entry.job.attempt, entry.lease) == (0, None)


async def test_leaving_it_cancelled_hands_back_at_once(shop: Shop) -> None:
    async def serve() -> None:
        async with headrace.working(shop.app, URL, "orders", drain_timeout_seconds=3600):
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    await enqueue(new_job("wait", 17))
    await shop.started.wait()
    serving.cancel()
    await asyncio.sleep(0.01)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert (await depth()).ready == 1


async def test_an_error_within_the_block_comes_out_after_the_drain(shop: Shop) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with headrace.working(shop.app, URL, "orders"):
            await enqueue(new_job("wait", 17))
            await shop.started.wait()
            asyncio.get_running_loop().call_later(0.05, shop.may_end.set)
            raise ZeroDivisionError
    assert shop.ran == [17]


async def test_it_may_be_stopped_before_the_block_ends(shop: Shop) -> None:
    async with headrace.working(shop.app, URL, "orders") as worker:
        worker.stop()
        await worker.ended()
        assert not worker.is_ready


async def test_leaving_the_block_of_one_that_was_stopped_lets_what_runs_finish(shop: Shop) -> None:
    async with headrace.working(shop.app, URL, "orders") as worker:
        await enqueue(new_job("wait", 17))
        await shop.started.wait()
        worker.stop()
        asyncio.get_running_loop().call_later(0.05, shop.may_end.set)
    assert shop.ran == [17]


def test_it_works_in_a_thread_and_touches_no_signals(shop: Shop) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    working: list[headrace.Working] = []
    ready = threading.Event()

    async def work() -> None:
        async with headrace.working(shop.app, URL, "orders") as worker:
            working.append(worker)
            await enqueue(new_job("note", 17))
            await eventually(lambda: shop.ran == [17], what="the job ran")
            ready.set()
            await worker.ended()

    thread = threading.Thread(target=asyncio.run, args=[work()])
    thread.start()
    assert ready.wait(30)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    working[0].stop()
    thread.join(30)
    assert not thread.is_alive()


async def test_a_backend_that_is_away_holds_nobody_up(shop: Shop) -> None:
    url = f"postgresql://user:secret@127.0.0.1:{free_port()}/shop"
    async with asyncio.timeout(30), headrace.working(shop.app, url, "orders") as worker:
        assert not worker.is_ready


async def test_several_share_a_page_of_metrics_and_keys_are_kept_where_they_are_told(shop: Shop) -> None:
    metrics = Metrics()
    async with (
        headrace.working(shop.app, URL, "orders", metrics=metrics, redis_url="memory://"),
        headrace.working(shop.app, URL, "mails", metrics=metrics),
    ):
        await enqueue(new_job("note", 17, idempotency_key="once"))
        await eventually(lambda: shop.ran == [17], what="the job ran")
        await enqueue(new_job("note", 18, idempotency_key="once"))
        await eventually(
            lambda: b'idempotency_hits_total{namespace="",queue="orders"} 1.0' in metrics.render(), what="hit"
        )
    assert shop.ran == [17]
    assert b'background_jobs_slots{namespace="",queue="mails"} 10.0' in metrics.render()


async def test_a_fault_of_the_workers_own_is_told_at_once_and_raised_at_the_end(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(self: MemoryQueue, limit: int, **options: Any) -> Sequence[Any]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(MemoryQueue, "receive", broken)
    with caplog.at_level(logging.ERROR), pytest.raises(ExceptionGroup, match="unhandled errors"):  # noqa: PT012
        async with headrace.working(shop.app, URL, "orders") as worker:
            await eventually(lambda: "works no more" in caplog.text, what="it is said")
            assert not worker.is_ready


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        ({"slots": 0}, ValueError, "slots 0: must be 1 or more"),
        ({"url": "mysql://db"}, QueueError, "no queue backend for mysql"),
        ({"schema": "jobs"}, QueueError, "schema: no option of memory"),
    ],
)
async def test_what_cannot_work_is_refused_where_the_block_begins(
    shop: Shop, arguments: dict[str, Any], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        async with headrace.working(shop.app, **{"url": URL, "queue": "orders", **arguments}):
            raise AssertionError


async def test_an_annotation_that_no_payload_can_have_is_refused_where_the_block_begins() -> None:
    app = App()

    @app.job("resize")
    def resize(payload: set[list[int]]) -> None: ...

    with pytest.raises(AppError, match="job 'resize': no payload can be decoded"):
        async with headrace.working(app, URL, "orders"):
            raise AssertionError


def test_without_a_workers_packages_it_says_what_to_install() -> None:
    program = """
import asyncio, sys
sys.modules["prometheus_client"] = None
import headrace
async def main():
    async with headrace.working(headrace.App(), "memory://", "orders"): ...
try:
    asyncio.run(main())
except headrace.QueueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "a worker needs prometheus_client: pip install 'headrace[worker]'\n"


async def test_on_sqs_failures_are_counted_in_the_redis_that_is_given(elasticmq: ElasticMq, redis_url: str) -> None:
    app, ran = App(), list[tuple[str, int]]()

    @app.job("twice", retry=RetryPolicy(initial_delay_seconds=0, max_retries=3))
    async def twice(_payload: Any, context: Context) -> None:
        ran.append((context.job.id, context.attempt))
        if context.attempt < 3:
            raise ValueError("not yet")

    async with queues_on(elasticmq) as sqs:
        await sqs.made()
        url = sqs.server.url(sqs.prefix + "orders")
        how: dict[str, Any] = {"redis_url": redis_url, "namespace": sqs.prefix, "wait_time_seconds": 1, **CREDENTIALS}
        how["endpoint_url"] = sqs.proxy.endpoint_url
        async with headrace.working(app, url, "orders", **how):
            async with headrace.from_url(url, "orders", **CREDENTIALS) as queue:
                (job,) = await queue.enqueue([new_job("twice")])
            await eventually(lambda: len(ran) == 3, what="three attempts")
        assert ran == [(job.id, 1), (job.id, 2), (job.id, 3)]
        assert sqs.proxy.calls["SendMessageBatch"] == 0, "without a count elsewhere, the message is sent anew"
        async with sqs.queue() as queue:
            assert await queue.receive(1) == []
