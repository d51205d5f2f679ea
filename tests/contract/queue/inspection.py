from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from contract.queue.bench import (
    OWNER,
    QUEUE,
    Bench,
    cancel,
    dead,
    errors,
    jobs_of,
    kept,
    killed,
    listed,
    made,
    names,
    pause,
    purge,
    received_one,
    record_of,
    recover_stuck,
    redrive,
    refused,
    retry_now,
    twice_lost,
    working,
)
from contract.queue.needs import (
    CANCELLATION,
    DEAD_LETTERS,
    DELAYS,
    ERRORS,
    GROUPS,
    HOUSEKEEPING,
    JOBS,
    KEYS,
    ORDER,
    PAUSES,
    PRIORITIES,
    QUEUES,
    STUCK,
    TIME,
    WINDOWS,
    Part,
    needs,
)
from headrace.job import NewJob
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.errors import QueueNotFoundError
from headrace.queues.inspection import (
    Cancel,
    DeadLetters,
    JobFilter,
    JobState,
    Pause,
    Pauses,
    Purge,
    Queues,
    RecoverStuck,
    Redrive,
    RetryNow,
    Stuck,
    require,
)
from support.verbs import complete, dead_letter, enqueue, retry

if TYPE_CHECKING:
    pass


@needs(QUEUES, PAUSES, JOBS, DEAD_LETTERS, TIME, HOUSEKEEPING, DELAYS, PRIORITIES, GROUPS, ERRORS, CANCELLATION)
class InspectContract(Part):
    async def test_queues_are_listed_with_what_they_hold(self, bench: Bench) -> None:
        await made(bench, max_retries=7)
        await bench.provisioner.ensure("letters", QueueSettings(), Owner(namespace="post", name="letters", uid="2"))
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(), NewJob(delay_seconds=60)])
        await pause(bench, paused=True)
        queues = require(await bench.inspector(), Queues)
        letters, orders = await queues.queues()
        again = await queues.queue(QUEUE)
        assert (again.name, again.owner, again.settings) == (orders.name, orders.owner, orders.settings)
        assert (letters.name, letters.owner) == ("letters", Owner(namespace="post", name="letters", uid="2"))
        assert (letters.depth.ready, letters.depth.delayed, letters.paused_by_hand) == (0, 0, False)
        assert (orders.name, orders.owner, orders.settings.max_retries) == (QUEUE, OWNER, 7)
        assert (orders.depth.ready, orders.depth.delayed, orders.paused_by_hand) == (1, 1, True)

    @needs(STUCK)
    async def test_a_queue_that_does_not_exist_is_said(self, bench: Bench) -> None:
        await made(bench)
        inspector = await bench.inspector()
        jobs = await jobs_of(bench)
        assert isinstance(inspector, Queues)
        assert isinstance(inspector, Pauses)
        assert isinstance(inspector, DeadLetters)
        assert isinstance(inspector, Stuck)
        for asked in (
            inspector.queue("nowhere"),
            inspector.pause("nowhere", Pause(paused=True)),
            jobs.job("nowhere", "1"),
            jobs.jobs("nowhere", JobFilter()),
            jobs.cancel("nowhere", Cancel(job_id="1")),
            jobs.retry_now("nowhere", RetryNow(job_id="1")),
            inspector.redrive("nowhere", Redrive()),
            inspector.purge("nowhere", Purge()),
            inspector.recover_stuck("nowhere", RecoverStuck(older_than_seconds=0)),
        ):
            with pytest.raises(QueueNotFoundError, match="nowhere"):
                await asked

    @needs(ORDER)
    async def test_a_job_is_known_wherever_it_stands(self, bench: Bench) -> None:
        await made(bench, completed_retention_seconds=60)
        async with AsyncExitStack() as stack:
            queue = await stack.enter_async_context(bench.queue())
            (died,) = await killed(queue, NewJob(name="dead"))
            completed, cancelled = await enqueue(queue, [NewJob(name="completed"), NewJob(name="cancelled")])
            await complete(queue, await queue.receive(1))
            await cancel(bench, cancelled)
            running, blocked = await enqueue(queue, [NewJob(name=name, group="g") for name in ("running", "blocked")])
            await queue.receive(1)
            worker, lost = await working(bench, stack), await working(bench, stack)
            (suspect,) = await twice_lost(bench, lost, worker, NewJob(name="suspect"))
            ready, delayed = await enqueue(lost, [NewJob(name="ready"), NewJob(name="delayed", delay_seconds=60)])
            states: dict[str, JobState] = {
                suspect: "suspect",
                died: "dead",
                completed: "completed",
                cancelled: "cancelled",
                running: "running",
                blocked: "blocked",
                ready: "ready",
                delayed: "delayed",
            }
            for job_id, state in states.items():
                record = await record_of(bench, job_id)
                assert (record.job.id, record.job.name, record.state) == (job_id, state, state)
                assert (record.holder is not None) == (state == "running")
                assert (record.ended_at is not None) == (state in {"dead", "completed", "cancelled"})
                assert await listed(bench, JobFilter(state=state)) == [state]
            assert (await record_of(bench, running)).job.attempt == 1, "the attempt under way"
            record = await record_of(bench, died)
            assert (record.job.attempt, record.reason) == (1, "Broken")
            assert [(failed.failure.error, failed.failure.traceback) for failed in record.failures] == [
                ("disk on fire", "Traceback: …")
            ]
            assert await listed(bench) == [
                *("running", "suspect", "ready"),
                *("delayed", "blocked"),
                *("cancelled", "completed"),
            ], "the dead only where they are asked for"

    @pytest.mark.parametrize("job_id", ["0", "987654321", "no number", "", "-1", "9" * 30, "٣"])
    async def test_there_is_no_job_of_such_an_id(self, bench: Bench, job_id: str) -> None:
        await made(bench)
        assert await (await jobs_of(bench)).job(QUEUE, job_id) is None
        assert await cancel(bench, job_id) is None
        assert not await retry_now(bench, job_id)

    async def test_jobs_are_listed_as_they_would_be_claimed_then_those_that_wait(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue(
                [
                    NewJob(name="later", delay_seconds=120),
                    NewJob(name="soon", delay_seconds=60),
                    NewJob(name="second"),
                    NewJob(name="first", priority=5),
                    NewJob(name="third", group="g"),
                    NewJob(name="behind", group="g"),
                ]
            )
            # Before anybody has looked at the group, and after.
            for _ in range(2):
                assert await listed(bench) == ["first", "second", "third", "soon", "later", "behind"]
                assert await listed(bench, JobFilter(), limit=4) == ["first", "second", "third", "soon"]
                await kept(queue)

    async def test_filters_must_all_hold(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            old, _ = await enqueue(queue, [NewJob(name="a", payload=b"1"), NewJob(name="b")])
            await bench.pass_time(3600)
            new, delayed = await enqueue(queue, [NewJob(name="a", payload=b"2"), NewJob(name="a", delay_seconds=60)])

            async def ids(which: JobFilter) -> list[str]:
                return [record.job.id for record in await (await jobs_of(bench)).jobs(QUEUE, which)]

            assert await ids(JobFilter(name="a")) == [old, new, delayed]
            assert await ids(JobFilter(name="a", older_than_seconds=1800)) == [old]
            assert await ids(JobFilter(state="delayed")) == [delayed]
            assert await ids(JobFilter(ids=(delayed, new, "no number"))) == [new, delayed]
            assert await ids(JobFilter(ids=(delayed, new), state="ready")) == [new]
            assert await ids(JobFilter(reason="Broken")) == []

    async def test_a_delayed_job_can_be_made_due_and_a_dead_one_put_back(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            (died,) = await killed(queue, NewJob(name="dead"))
            delayed, ready, running = await enqueue(
                queue,
                [NewJob(name="delayed", delay_seconds=60), NewJob(name="ready"), NewJob(name="running", priority=9)],
            )
            await queue.receive(1)
            assert await retry_now(bench, delayed)
            assert await retry_now(bench, died)
            assert not await retry_now(bench, ready)
            assert not await retry_now(bench, running)
            assert sorted(names(await queue.receive(10))) == ["dead", "delayed", "ready"]

    async def test_redriven_jobs_keep_their_ids_and_have_all_attempts_before_them(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        async with bench.queue() as queue:
            ids = await killed(queue, NewJob(name="a", priority=3), NewJob(name="b"))
            assert await redrive(bench) == 2
            assert await redrive(bench) == 0
            deliveries = await queue.receive(10)
            assert [(delivery.job.id, delivery.job.attempt) for delivery in deliveries] == [(ids[0], 1), (ids[1], 1)]
            await retry(queue, deliveries[0], error="still burning")
        assert errors(await record_of(bench, ids[0])) == [
            "disk on fire",
            "still burning",
        ]

    async def test_only_what_is_meant_is_redriven_or_purged(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await killed(queue, NewJob(name="old"))
            await bench.pass_time(3600)
            (by_id,) = await killed(queue, NewJob(name="x"))
            await killed(queue, NewJob(name="by-name"))
            await killed(queue, NewJob(name="by-reason"), reason="Expired")
            await queue.enqueue([NewJob(name="alive", delay_seconds=60)])
            for act in (redrive, purge):
                assert await act(bench, JobFilter(name="by-name", reason="Expired")) == 0
                assert await act(bench, JobFilter(state="delayed")) == 0
                assert await act(bench, JobFilter(name="alive")) == 0
            assert await purge(bench, JobFilter(name="by-name")) == 1
            for which, name in (
                (JobFilter(ids=(by_id, "999", "nonsense")), "x"),
                (JobFilter(reason="Expired"), "by-reason"),
                (JobFilter(older_than_seconds=1800), "old"),
            ):
                assert await redrive(bench, which) == 1
                # It has its old place, before where a slow connection's receiver looks every time.
                assert names(await queue.receive(10, wait_seconds=5)) == [name]
            assert await dead(bench) == []

    @needs(GROUPS)
    async def test_a_redriven_job_goes_behind_the_head_of_its_group(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="first", group="g"), NewJob(name="second", group="g")])
            await dead_letter(queue, await received_one(queue), reason="Broken")
            second = await received_one(queue)
            await queue.enqueue([NewJob(name="third", group="g")])
            assert await redrive(bench) == 1
            assert await queue.receive(10) == [], "one at a time"
            await complete(queue, [second])
            for name in ("first", "third"):
                delivery = await received_one(queue)
                assert delivery.job.name == name
                await complete(queue, [delivery])

    @needs(KEYS, WINDOWS)
    async def test_a_redriven_job_takes_its_key_again_where_it_is_free(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            (kept,) = await killed(queue, NewJob(deduplication_key="kept", deduplication_window_seconds=60))
            (free,) = await killed(queue, NewJob(deduplication_key="free"))
            (lost,) = await killed(queue, NewJob(deduplication_key="lost"))
            await queue.enqueue([NewJob(deduplication_key="lost")])
            assert await redrive(bench) == 2
            assert await enqueue(queue, [NewJob(deduplication_key=key) for key in ("kept", "free")]) == [kept, free]
            assert (await record_of(bench, lost)).state == "dead", "another has its key"
            assert not await retry_now(bench, lost)

    async def test_a_redriven_job_has_as_long_to_start_as_a_new_one(self, bench: Bench) -> None:
        await made(bench, message_retention_seconds=60)
        async with bench.queue() as queue:
            (job_id,) = await enqueue(queue, [NewJob()])
            await bench.pass_time(61)
            assert (await kept(queue)).expired == 1
            assert await redrive(bench, JobFilter(reason="Expired")) == 1
            await bench.pass_time(50)
            assert (await received_one(queue)).job.id == job_id

    @needs(STUCK, ORDER)
    async def test_what_nobody_keeps_alive_can_be_put_back_by_hand(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            alive, silent = await working(bench, stack), await working(bench, stack)
            held, stuck = await enqueue(alive, [NewJob(name="held"), NewJob(name="stuck")])
            await alive.receive(1)
            late = await received_one(silent)
            await bench.pass_time(100)
            await alive.keep_alive()
            assert await recover_stuck(bench, 200) == []
            assert await recover_stuck(bench, 60) == [stuck]
            assert await recover_stuck(bench, 60) == []
            assert ((await record_of(bench, stuck)).state, (await record_of(bench, held)).state) == (
                "ready",
                "running",
            )
            assert refused(await complete(silent, [late])) == [late]
            assert (await silent.keep_alive()).lost == set(), "it knows by now"

    async def test_what_was_enqueued_when_and_with_what_survives_a_death_and_a_redrive(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        async with bench.queue() as queue:
            (job_id,) = await enqueue(queue, [NewJob(headers={"a": "b"}, extra={"c": [1]}, group="g")])
            held = await received_one(queue)
            before = held.job
            await retry(queue, held)
            assert (await record_of(bench, job_id)).job.extra == {"c": [1]}
            assert await redrive(bench) == 1
            after = (await received_one(queue)).job
        assert (after.id, after.headers, after.extra, after.group) == (job_id, {"a": "b"}, {"c": [1]}, "g")
        assert after.attempt == 1
        assert after.enqueued_at == before.enqueued_at
