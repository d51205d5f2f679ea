"""A backend that takes a part of a call: nothing is lost, and nothing is said to be done that is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contract.queue.bench import QUEUE, arrivals, made, names
from contract.queue.needs import FAULTS, PARTS, Part, needs
from headrace.job import NewJob
from headrace.queues.errors import PartlyEnqueuedError
from headrace.queues.settlement import Complete, DeadLetter, Settled

if TYPE_CHECKING:
    from contract.queue.bench import FaultyBench


@needs(FAULTS)
class FaultContract(Part):
    @needs(PARTS)
    async def test_what_of_a_call_was_not_enqueued_is_named_and_nothing_else_is_missing(
        self, bench: FaultyBench
    ) -> None:
        await made(bench)
        jobs = [NewJob(name=f"{number}") for number in range(5)]
        async with bench.queue() as queue:
            async with bench.faulty():
                with pytest.raises(PartlyEnqueuedError, match="jobs were not enqueued, the first at place") as raised:
                    await queue.enqueue(jobs)
            done, failed = raised.value.done, raised.value.failed
            assert min(len(done), len(failed)) > 0
            assert sorted([*done, *failed]) == [0, 1, 2, 3, 4], "each job is in one of the two"
            assert all(failed.values()), "why"
            again = await queue.enqueue([jobs[place] for place in failed])
            ids = {place: each.id for place, each in done.items()}
            ids |= {place: each.id for place, each in zip(failed, again, strict=True)}
            got = await arrivals(queue, 5)
            assert sorted(names(got)) == ["0", "1", "2", "3", "4"], "each once"
            assert {delivery.job.name: delivery.job.id for delivery in got} == {
                f"{place}": job_id for place, job_id in ids.items()
            }

    async def test_what_the_backend_did_not_take_is_still_held_and_can_be_settled_again(
        self, bench: FaultyBench
    ) -> None:
        await made(bench)
        async with bench.queue() as queue, bench.queue(QUEUE) as other:
            await queue.enqueue([NewJob()] * 4)
            one, two, three, four = await arrivals(queue, 4)
            taken = [Complete(delivery=one), Complete(delivery=three)]
            left = [DeadLetter(delivery=two, reason="Broken"), DeadLetter(delivery=four, reason="Broken")]
            async with bench.faulty():
                settled = await queue.settle([taken[0], left[0], taken[1], left[1]])
            assert (settled.accepted, settled.refused, settled.dead_lettered) == (2, (), ())
            assert {each.delivery.job.id for each in settled.unsettled} == {two.job.id, four.job.id}
            assert settled.error, "why"
            assert await other.receive(10) == [], "nobody else is given them"
            assert await queue.settle(settled.unsettled) == Settled(accepted=2, dead_lettered=settled.unsettled)
            assert await other.receive(10) == []
