from __future__ import annotations

from support.kubectl import eventually
from support.operator_world import World


async def test_a_running_operator_is_healthy_ready_and_measured(world: World) -> None:
    world.apply_ready_queue()
    assert world.operator.get("/healthz") == "ok\n"
    assert world.operator.get("/readyz") == "ok\n"
    assert 'headrace_operator_reconciles_total{kind="JobQueue",outcome="succeeded"}' in world.operator.get("/metrics")


async def test_the_depth_of_a_queue_without_workers_is_published_by_the_operator(world: World) -> None:
    world.apply_ready_queue()
    await world.enqueue(7)
    labels = f'namespace="{world.kubectl.namespace}",queue="work"'
    eventually(lambda: f"background_jobs_queue_depth{{{labels}}} 7.0" in world.operator.get("/metrics"))
