from __future__ import annotations

import asyncio
import pickle
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from contract.queue.bench import QUEUE, Bench, arrival, arrivals, made, names, standing
from contract.queue.needs import (
    ATOMIC,
    COUNTING,
    DELAYS,
    EXPIRY,
    FAIRNESS,
    GROUPS,
    KEYS,
    PRIORITIES,
    Part,
    needs,
)
from headrace.job import MAX_PAYLOAD_BYTES, InvalidJobError, NewJob
from headrace.queues.errors import UnsupportedCapabilityError
from support.verbs import complete, enqueue, retry

if TYPE_CHECKING:
    from headrace.queues.capabilities import Capabilities


def beyond(can: Capabilities) -> dict[str, NewJob]:
    """Jobs that ask for more than a backend has, by what they ask for."""
    window = can.max_deduplication_window_seconds
    asked = {
        "priority": (can.priorities, NewJob(priority=1)),
        "group": (can.groups, NewJob(group="g")),
        "fairness": (can.fairness, NewJob(fairness_key="tenant-123")),
        "expiry": (can.expiry, NewJob(expires_at=datetime(2100, 1, 1, tzinfo=UTC))),
        "key": (can.deduplicates_unfinished, NewJob(deduplication_key="k")),
        "window": (window >= 3600, NewJob(deduplication_key="k", deduplication_window_seconds=3600)),
        "delay": (can.max_enqueue_delay_seconds >= 86_400, NewJob(delay_seconds=86_400)),
        "moment": (can.max_enqueue_delay_seconds >= 86_400 * 365, NewJob(run_at=datetime(2100, 1, 1, tzinfo=UTC))),
        "payload": (can.max_payload_bytes >= MAX_PAYLOAD_BYTES, NewJob(payload=b"." * MAX_PAYLOAD_BYTES)),
    }
    return {what: job for what, (has, job) in asked.items() if not has}


class EnqueueContract(Part):
    async def test_a_job_arrives_as_it_was_sent(self, bench: Bench) -> None:
        await made(bench)
        job = NewJob(name="resize", payload=b"\x00\xff", content_type="image/png", headers={"traceparent": "00-é"})
        async with bench.queue() as queue:
            (job_id,) = await enqueue(queue, [job])
            (delivery,) = await arrival(queue)
            got = delivery.job
            assert not delivery.is_suspect
            assert (got.id, got.queue, got.name, got.payload) == (job_id, QUEUE, "resize", b"\x00\xff")
            assert (got.content_type, got.headers, got.attempt) == ("image/png", {"traceparent": "00-é"}, 1)
            assert (got.group, got.deduplication_key, got.priority, got.expires_at) == (None, None, 0, None)
            assert got.run_at == got.enqueued_at

    @needs(PRIORITIES, GROUPS, KEYS, EXPIRY)
    async def test_all_that_can_be_asked_for_arrives_with_the_job(self, bench: Bench) -> None:
        await made(bench)
        expires_at = datetime(2100, 1, 1, tzinfo=UTC)
        job = NewJob(priority=7, expires_at=expires_at, group="tenant-123", deduplication_key="picture-17")
        async with bench.queue() as queue:
            await queue.enqueue([job])
            (got,) = [delivery.job for delivery in await arrival(queue)]
        assert (got.group, got.deduplication_key) == ("tenant-123", "picture-17")
        assert (got.priority, got.expires_at) == (7, expires_at)

    @needs(FAIRNESS)
    async def test_a_fairness_key_arrives_with_the_job_and_survives_a_retry(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(fairness_key="tenant-123")])
            (delivery,) = await arrival(queue)
            assert delivery.job.fairness_key == "tenant-123"
            await retry(queue, delivery)
            (again,) = await arrival(queue)
            assert (again.job.fairness_key, again.job.attempt) == ("tenant-123", 2)

    async def test_what_a_newer_producer_put_into_the_envelope_arrives_and_survives_a_retry(self, bench: Bench) -> None:
        await made(bench)
        extra = {"locale": "de", "nested": {"list": [1, 2.5, None, True, "é"]}}
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(extra=extra)])
            (delivery,) = await arrival(queue)
            assert delivery.job.extra == extra
            await retry(queue, delivery)
            assert [again.job.extra for again in await arrival(queue)] == [extra]

    async def test_a_received_job_can_be_handed_to_another_process(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="plain"), NewJob(name="full", headers={"a": "b"}, extra={"c": 1})])
            received = [delivery.job for delivery in await arrivals(queue, 2)]
        assert pickle.loads(pickle.dumps(received)) == received

    async def test_ids_come_in_the_order_of_the_jobs_and_all_are_new(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            enqueued = await queue.enqueue([NewJob(name=f"{number:03}") for number in range(500)])
            assert all(job.is_new for job in enqueued)
            got = {delivery.job.id: delivery.job.name for delivery in await arrivals(queue, 500)}
        assert got == {job.id: f"{number:03}" for number, job in enumerate(enqueued)}

    async def test_nothing_to_enqueue_is_fine(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            assert await queue.enqueue([]) == []

    @pytest.mark.parametrize(
        ("jobs", "complaint"),
        [
            (None, "list of NewJob, not NoneType"),
            (NewJob(), "list of NewJob, not NewJob"),
            (iter([NewJob()]), "list of NewJob, not list_iterator"),
            ([NewJob(), None], "list of NewJob, not of NoneType"),
            ("resize", "list of NewJob, not of str"),
            ([{"name": "resize"}], "list of NewJob, not of dict"),
        ],
    )
    async def test_what_are_no_jobs_is_refused_and_stops_nobody_elses(
        self, bench: Bench, jobs: Any, complaint: str
    ) -> None:
        await made(bench)
        async with bench.queue() as queue:
            with pytest.raises(InvalidJobError, match=complaint):
                await queue.enqueue(jobs)
            assert await enqueue(queue, [NewJob()])
            assert len(await arrivals(queue, 1)) == 1

    async def test_calls_at_once_each_get_their_own_ids(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            can = queue.capabilities
            kinds = [
                NewJob(),
                NewJob(delay_seconds=0.001 if can.max_enqueue_delay_seconds else 0),
                NewJob(group="g" if can.groups else None),
                NewJob(deduplication_key="k" if can.deduplicates_unfinished else None),
            ]
            calls = [
                [structs.replace(kind, name=f"{number}/{place}") for place in range(number % 3)]
                for number in range(40)
                for kind in kinds[number % 4 : number % 4 + 1]
            ]
            answers = await asyncio.gather(*(enqueue(queue, jobs) for jobs in calls))
            expected = {
                job_id: job.name
                for jobs, ids in zip(calls, answers, strict=True)
                for job, job_id in zip(jobs, ids, strict=True)
            }
            got: dict[str, str] = {}
            while len(got) < len(expected):
                deliveries = await arrival(queue, 100)
                got |= {delivery.job.id: delivery.job.name for delivery in deliveries}
                await complete(queue, deliveries)
        # Of jobs with the same key the first stands for all.
        assert set(got) == set(expected)
        assert [answer for answer, jobs in zip(answers, calls, strict=True) if len(answer) != len(jobs)] == []
        assert all(got[job_id] == name for job_id, name in expected.items() if int(name.split("/")[0]) % 4 != 3)

    async def test_what_a_backend_lacks_is_refused_before_anything_is_enqueued(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            for job in beyond(queue.capabilities).values():
                with pytest.raises(UnsupportedCapabilityError):
                    await queue.enqueue([NewJob(name="before"), job])
            await queue.enqueue([NewJob(name="after")])
            assert names(await arrival(queue)) == ["after"]
            assert await queue.receive(10) == []

    @needs(PRIORITIES, GROUPS, KEYS, EXPIRY, DELAYS, COUNTING)
    async def test_what_a_backend_has_it_takes(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue(
                [
                    NewJob(priority=1),
                    NewJob(delay_seconds=60),
                    NewJob(group="g"),
                    NewJob(deduplication_key="k"),
                    NewJob(expires_at=datetime(2100, 1, 1, tzinfo=UTC)),
                ]
            )
            depth = await standing(queue)
            assert (depth.ready, depth.delayed) == (4, 1)

    @needs(ATOMIC, COUNTING)
    async def test_others_see_all_jobs_of_a_call_or_none(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as producer, bench.queue() as other:
            enqueuing = asyncio.create_task(producer.enqueue([NewJob()] * 2500))
            seen = {0}
            while not enqueuing.done():
                seen.add((await standing(other)).ready)
                await asyncio.sleep(0)
            seen.add((await standing(other)).ready)
            assert seen == {0, 2500}
            assert len(await enqueuing) == 2500

    async def test_every_byte_arrives(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            payload = bytes(range(256)) * 256
            await queue.enqueue([NewJob(payload=payload, content_type="application/octet-stream")])
            assert [delivery.job.payload for delivery in await arrival(queue)] == [payload]

    async def test_the_largest_payload_arrives(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            largest = queue.capabilities.max_payload_bytes
            text, octets = b"." * largest, bytes(range(256)) * (largest * 3 // 4 // 256)
            await queue.enqueue([NewJob(payload=text), NewJob(payload=octets)])
            assert {delivery.job.payload for delivery in await arrivals(queue, 2)} == {text, octets}
