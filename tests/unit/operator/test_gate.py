"""With the gate closed nothing is written, while depths are read and autoscalers are told of them."""

from __future__ import annotations

from headrace_operator.core.model import QueueDepth
from support.jumping_loop import run_jumping
from support.memory_cluster import MemoryCluster, SetClock
from support.memory_process import QUEUE, Process, cluster_of


def writes(cluster: MemoryCluster) -> list[tuple[str, ...]]:
    """Since the last call."""
    written = [*cluster.journal, *cluster.events]
    cluster.journal.clear()
    cluster.events.clear()
    return written


def test_whoever_loses_the_gate_writes_no_more_and_goes_on_serving() -> None:
    process = Process(SetClock())
    cluster = cluster_of(process)

    async def story() -> None:
        process.show(cluster)
        await process.pass_by()
        await process.count(20)
        assert ("scale", "2") in writes(cluster)
        process.controllers.gate.close()
        await process.count(90)
        assert writes(cluster) == []
        assert process.desired_workers() == [9]
        process.controllers.gate.open()
        await process.pass_by()
        assert ("scale", "9") in writes(cluster)

    run_jumping(process.lead(cluster, story))


def test_whoever_stands_by_from_the_start_reads_what_is_bound_and_writes_nothing() -> None:
    clock = SetClock()
    leader, other = Process(clock), Process(clock)
    other.controllers.gate.close()
    cluster = cluster_of(leader)

    async def lead() -> None:
        leader.show(cluster)
        await leader.pass_by()
        await leader.count(20)

    async def stand_by() -> None:
        other.backend.depth = QueueDepth(ready=50)
        other.show(cluster)
        await other.pass_by()
        await other.count(50)
        assert writes(cluster) == []
        assert other.backend.attempts == 0
        assert list(other.backend.followed) == [QUEUE]
        assert other.desired_workers() == [5]

    async def both() -> None:
        await leader.lead(cluster, lead)
        writes(cluster)
        await other.lead(cluster, stand_by)

    run_jumping(both())
