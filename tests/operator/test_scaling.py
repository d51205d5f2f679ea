"""Scaling with the load: real jobs in a real queue, real autoscalers, but no pods to work the jobs off."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from support.kubectl import eventually
from support.operator_world import POOL, QUEUE, World
from support.postgres import PostgresServer


def autoscaling(mode: str, **changes: Any) -> dict[str, Any]:
    """Quick to follow and quick to sleep."""
    return {"mode": mode, "maxReplicas": 5, "sampleIntervalSeconds": 1, "scaleToZeroAfterSeconds": 2, **changes}


def steady(world: World, replicas: int, *, looks: int = 4) -> None:
    """The number is still there after the operator was made to look at the pool so often."""

    def looked_at() -> int:
        return world.operator.read_log().count(f"JobWorkerPool {world.kubectl.namespace}/{POOL}: looked at")

    for look in range(looks):
        before = looked_at()
        world.kubectl.run("annotate", "jwp", POOL, f"look={look}", "--overwrite")
        eventually(lambda: looked_at() > before, what="a look")  # noqa: B023 - it is waited for here
    world.wait_replicas(replicas)


def condition(world: World, type_: str) -> tuple[str, str]:
    found = world.kubectl.condition("jobworkerpool", POOL, type_)
    return found["status"], found["reason"]


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
async def test_a_pool_goes_from_zero_to_n_and_back(world: World, mode: str) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling=autoscaling(mode))
    world.wait_replicas(0)
    assert condition(world, "ScaledToZero")[0] == "True"
    world.wait_condition("jobworkerpool", POOL, "Ready", status="True", reason="AtZero")

    await world.enqueue(25)
    world.wait_replicas(3)
    await world.enqueue(15)
    world.wait_replicas(4)
    await world.enqueue(100)
    world.wait_replicas(5)
    world.wait_condition("jobworkerpool", POOL, "ScalingLimited", status="True", reason="TooManyReplicas")
    world.wait_condition("jobworkerpool", POOL, "ScalingActive", status="True")
    assert condition(world, "ScaledToZero")[0] == "False"

    await world.work_off()
    world.wait_replicas(0)
    assert condition(world, "ScaledToZero")[0] == "True"
    await world.enqueue(1)
    world.wait_replicas(1)
    reasons = {event["reason"] for event in world.events(POOL)}
    assert {"Woken", "Idle"} <= reasons


async def test_in_mode_hpa_the_autoscaler_is_ours_and_reads_the_queue(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling=autoscaling("HPA", minReplicas=1))
    await world.enqueue(20)
    world.wait_replicas(2)
    hpa = world.kubectl.get("hpa", POOL)
    assert hpa["spec"]["scaleTargetRef"] == {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "JobWorkerPool",
        "name": POOL,
    }
    assert (hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]) == (1, 5)
    active = [each for each in hpa["status"]["conditions"] if each["type"] == "ScalingActive"]
    assert active[0]["status"] == "True"


async def test_in_mode_hpa_a_tenth_more_counts_as_in_mode_direct(world: World) -> None:
    world.apply_ready_queue()
    await world.enqueue(100)
    world.apply_pool(autoscaling=autoscaling("HPA", maxReplicas=20))
    world.wait_replicas(10)
    world.wait_object("hpa", POOL, lambda seen: seen.get("status", {}).get("desiredReplicas") == 10, within_seconds=60)
    await world.enqueue(1)
    world.wait_replicas(11, within_seconds=60)


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
async def test_pools_on_one_queue_share_its_load(world: World, mode: str) -> None:
    world.apply_ready_queue()
    await world.enqueue(40)
    world.apply_pool("other", autoscaling={"mode": "Off"}, replicas=5)
    world.apply_pool(autoscaling=autoscaling(mode))
    world.wait_replicas(2)
    await world.enqueue(40)
    world.wait_replicas(4, within_seconds=60)


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
async def test_a_pool_of_several_queues_follows_what_they_hold_together_and_can_be_given_others(
    world: World, mode: str
) -> None:
    world.apply_ready_queue()
    world.apply_ready_queue("urgent")
    several = [{"name": "urgent"}, {"name": QUEUE}]
    world.apply_pool(queueRefs=several, autoscaling=autoscaling(mode))
    world.wait_replicas(0)
    await world.enqueue(5, "urgent")
    await world.enqueue(15)
    world.wait_replicas(2)
    assert world.kubectl.get("jwp", POOL)["status"]["queues"] == f"urgent, {QUEUE}"
    world.kubectl.run("patch", "jwp", POOL, "--type=merge", '-p={"spec":{"queueRefs":[{"name":"urgent"}]}}')
    world.wait_object(
        "deployment",
        POOL,
        lambda seen: "binding" in [volume["name"] for volume in seen["spec"]["template"]["spec"]["volumes"]],
    )
    await world.work_off("urgent")
    world.wait_replicas(0)


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
async def test_a_pool_restored_without_its_status_wakes(world: World, mode: str) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling=autoscaling(mode))
    world.wait_replicas(0)
    stored = world.kubectl.get("jwp", POOL)
    world.kubectl.delete("jwp", POOL)
    world.wait_gone("deployment", POOL)
    await world.enqueue(25)
    kept = {name: stored["metadata"][name] for name in ("name", "annotations")}
    world.kubectl.apply({**stored, "metadata": kept, "status": {}})
    world.wait_replicas(3)


async def test_a_zero_of_the_operators_that_is_switched_to_off_is_one_worker(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling=autoscaling("Direct"))
    world.wait_replicas(0)
    world.apply_pool(autoscaling={"mode": "Off"})
    world.wait_replicas(1)
    assert condition(world, "ScaledToZero") == ("False", "HasWorkers")


async def test_a_minimum_holds_whatever_the_load(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling=autoscaling("Direct", minReplicas=2))
    world.wait_replicas(2)
    world.wait_condition("jobworkerpool", POOL, "ScalingLimited", status="True", reason="TooFewReplicas")


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
async def test_a_zero_by_hand_stays_zero_until_a_hand_lifts_it(world: World, mode: str) -> None:
    world.apply_ready_queue()
    await world.enqueue(25)
    world.apply_pool(autoscaling=autoscaling(mode))
    world.wait_replicas(3)
    world.kubectl.run("scale", "jwp", POOL, "--replicas=0")
    world.wait_replicas(0)
    world.wait_condition("jobworkerpool", POOL, "Paused", status="True", reason="PausedAtZero")
    await world.enqueue(25)
    steady(world, 0)
    assert condition(world, "ScaledToZero") == ("False", "PausedAtZero")

    world.kubectl.run("scale", "jwp", POOL, "--replicas=1")
    world.wait_replicas(5)
    world.wait_condition("jobworkerpool", POOL, "Paused", status="False")


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
async def test_a_paused_queue_gets_no_worker_until_it_is_resumed(world: World, mode: str) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling=autoscaling(mode))
    world.wait_replicas(0)
    world.kubectl.run("annotate", "jobqueue", QUEUE, "headrace.dev/paused=true")
    world.wait_condition("jobqueue", QUEUE, "Ready", status="True", reason="Paused")
    await world.enqueue(500)
    world.wait_object(
        "jobworkerpool", POOL, lambda seen: seen["status"].get("scaling", {}).get("reason") == "QueuePaused"
    )
    steady(world, 0)
    world.kubectl.run("annotate", "jobqueue", QUEUE, "headrace.dev/paused-")
    world.wait_replicas(5)


async def test_the_annotation_stops_scaling_and_its_end_resumes_it(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling=autoscaling("HPA"))
    await world.enqueue(15)
    world.wait_replicas(2)
    world.kubectl.run("annotate", "jwp", POOL, "headrace.dev/paused=true")
    world.wait_condition("jobworkerpool", POOL, "Paused", status="True", reason="Paused")
    world.wait_gone("hpa", POOL)
    await world.enqueue(25)
    steady(world, 2)
    world.kubectl.run("annotate", "jwp", POOL, "headrace.dev/paused-")
    world.wait_replicas(4)
    world.wait_object("hpa", POOL, lambda _: True)


async def test_a_pool_paused_at_zero_by_the_annotation_wakes_after_it(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling=autoscaling("Direct"))
    world.wait_replicas(0)
    world.kubectl.run("annotate", "jwp", POOL, "headrace.dev/paused=true")
    world.wait_condition("jobworkerpool", POOL, "Paused", status="True")
    await world.enqueue(5)
    steady(world, 0)
    world.kubectl.run("annotate", "jwp", POOL, "headrace.dev/paused-")
    world.wait_replicas(1)


async def test_the_mode_can_be_switched(world: World) -> None:
    world.apply_ready_queue()
    await world.enqueue(15)
    world.apply_pool(autoscaling=autoscaling("HPA"))
    world.wait_replicas(2)
    world.wait_object("hpa", POOL, lambda _: True)
    world.apply_pool(autoscaling=autoscaling("Direct"))
    world.wait_gone("hpa", POOL)
    await world.enqueue(10)
    world.wait_replicas(3)
    world.apply_pool(autoscaling={"mode": "Off"})
    world.wait_condition("jobworkerpool", POOL, "ScalingActive", status="False", reason="ManualScaling")
    await world.enqueue(100)
    world.kubectl.run("scale", "jwp", POOL, "--replicas=1")
    world.wait_replicas(1)
    world.apply_pool(autoscaling=autoscaling("HPA"))
    world.wait_replicas(5)


async def test_an_autoscaler_of_somebody_else_is_told_of(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling=autoscaling("Direct"))
    world.wait_condition("jobworkerpool", POOL, "ScalingActive", status="True")
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": POOL}
    mine = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 2}
    world.kubectl.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "mine"},
            "spec": mine,
        }
    )
    told = world.wait_condition("jobworkerpool", POOL, "ScalingActive", status="False", reason="ForeignAutoscaler")
    assert "HorizontalPodAutoscaler mine" in told["message"]
    world.kubectl.delete("hpa", "mine")
    world.wait_condition("jobworkerpool", POOL, "ScalingActive", status="True")


async def test_in_mode_off_an_autoscaler_of_the_deployment_is_told_of_and_not_fought(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling={"mode": "Off"}, replicas=1)
    world.wait_replicas(1)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": POOL}
    mine = {"scaleTargetRef": target, "minReplicas": 3, "maxReplicas": 4}
    world.kubectl.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "mine"},
            "spec": mine,
        }
    )
    world.wait_object("deployment", POOL, lambda seen: seen["spec"]["replicas"] == 3, within_seconds=60)
    told = world.wait_condition("jobworkerpool", POOL, "ScalingActive", status="False", reason="ForeignAutoscaler")
    assert f"scale JobWorkerPool {POOL}" in told["message"]
    world.wait_object("jwp", POOL, lambda seen: seen["status"]["replicas"] == 3)
    assert world.kubectl.get("deployment", POOL)["spec"]["replicas"] == 3
    world.kubectl.delete("hpa", "mine")
    world.wait_replicas(1)


async def test_lost_signals_hold_the_number(world: World, own_postgres: PostgresServer) -> None:
    world = replace(world, dsn=own_postgres.dsn)
    world.apply_ready_queue()
    await world.enqueue(25)
    world.apply_pool(autoscaling=autoscaling("Direct"))
    world.wait_replicas(3)
    own_postgres.stop()
    world.wait_condition("jobworkerpool", POOL, "ScalingActive", status="False", reason="BackendUnreachable")
    world.wait_replicas(3)
    own_postgres.start()
    world.wait_condition("jobworkerpool", POOL, "ScalingActive", status="True")
    await world.work_off()
    world.wait_replicas(0)


async def test_a_restarted_operator_goes_on_where_it_was(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool("busy", autoscaling=autoscaling("Direct"))
    world.wait_replicas(0, "busy")
    await world.enqueue(25)
    world.wait_replicas(3, "busy")
    world.apply_queue("empty")
    world.apply_pool(queue="empty", autoscaling=autoscaling("HPA"))
    world.wait_replicas(0)
    world.apply_pool("paused", autoscaling=autoscaling("Direct"))
    world.wait_replicas(2, "paused")
    world.kubectl.run("scale", "jwp", "paused", "--replicas=0")
    world.wait_replicas(0, "paused")

    assert world.operator.stop() == 0
    world.operator.start()
    await world.enqueue(10, "empty")
    world.wait_replicas(1)
    world.wait_replicas(3, "busy")
    world.wait_replicas(0, "paused")


async def test_a_job_wakes_a_pool_at_zero_long_before_its_queue_is_counted_again(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling=autoscaling("Direct", sampleIntervalSeconds=3600))
    world.wait_replicas(0)
    connection = await asyncpg.connect(world.dsn)
    try:
        while not await connection.fetchval("SELECT count(*) FROM headrace.waiters"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    finally:
        await connection.close()
    await world.enqueue(25)
    world.wait_replicas(3, within_seconds=15)


async def test_what_happens_while_the_operator_is_away_is_made_up_for(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling=autoscaling("Direct"))
    world.wait_replicas(0)
    assert world.operator.stop() == 0
    await world.enqueue(25)
    world.apply_queue("new")
    world.operator.start()
    world.wait_replicas(3)
    world.wait_condition("jobqueue", "new", "Ready", status="True")


async def test_what_others_do_to_our_autoscaler_is_undone(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling={"mode": "HPA", "maxReplicas": 4})
    world.wait_object("hpa", POOL, lambda seen: seen["spec"]["maxReplicas"] == 4)
    patch = '{"spec":{"maxReplicas":40}}'
    world.kubectl.run("patch", "hpa", POOL, "--type=merge", f"--patch={patch}")
    world.wait_object("hpa", POOL, lambda seen: seen["spec"]["maxReplicas"] == 4)
