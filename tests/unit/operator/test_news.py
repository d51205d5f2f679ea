"""What the watch shows leads to looks, and what waits for it asks nobody meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.jumping_loop import run_jumping
from support.memory_cluster import SetClock
from support.memory_process import POOL, QUEUE, Process, cluster_of

if TYPE_CHECKING:
    import pytest

    from headrace_operator.core.model import ObjectKey
    from support.memory_cluster import Manifest


def test_a_pool_without_its_queue_asks_for_it_more_and_more_rarely_and_goes_on_at_once_when_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = Process(SetClock())
    cluster = cluster_of(process)
    queue, pool = cluster.find("JobQueue", QUEUE), cluster.find("JobWorkerPool", POOL)
    assert queue is not None
    assert pool is not None
    asked: list[ObjectKey] = []
    get = cluster.get

    async def noted(api_version: str, kind: str, key: ObjectKey) -> Manifest | None:
        asked.append(key)
        return (
            None
            if kind == "JobQueue" and process.controllers.objects.get(kind, key) is None
            else await get(api_version, kind, key)
        )

    async def story() -> None:
        monkeypatch.setattr(cluster, "get", noted)
        process.controllers.show(pool)
        for _ in range(60):
            await process.pass_by()
        # Ten minutes: every five seconds would be 120.
        assert asked.count(QUEUE) < 20
        process.controllers.show(queue)
        await process.pass_by()
        assert cluster.find("Deployment", POOL) is not None

    run_jumping(process.lead(cluster, story))
