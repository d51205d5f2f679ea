"""Events in a real API: what happens again is no other Event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from headrace_operator.core.model import EventType
from headrace_operator.kubernetes import KubernetesApi
from headrace_operator.kubernetes.events import Events
from support.operator_world import QUEUE, World

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def told(world: World, reason: str) -> list[tuple[int, str]]:
    """What the Events say of a queue that nobody but the test tells of: counts and messages."""
    return [(event["count"], event["message"]) for event in world.events(QUEUE) if event["reason"] == reason]


async def record(events: Events, queue: dict[str, Any], message: str, reason: str = "Load") -> None:
    await events.record(queue, EventType.NORMAL, reason, message)


async def test_what_happens_again_within_minutes_is_told_by_one_event_that_counts(world: World) -> None:
    world.apply_queue()
    queue = world.kubectl.get("jobqueue", QUEUE)
    clock = [NOW]
    async with KubernetesApi(str(world.kubectl.kubeconfig)) as api:
        events = Events(api, lambda: clock[0])
        for number in range(1, 6):
            await record(events, queue, f"step {number}")
            clock[0] += timedelta(seconds=15)
        await record(events, queue, "at zero", "AtZero")
        assert told(world, "Load") == [(5, "step 5")]
        assert told(world, "AtZero") == [(1, "at zero")]
        clock[0] += timedelta(minutes=10)
        await record(events, queue, "much later")
        assert sorted(told(world, "Load")) == [(1, "much later"), (5, "step 5")]


async def test_an_operator_that_was_started_anew_goes_on_with_the_event_that_there_is(world: World) -> None:
    world.apply_queue()
    queue = world.kubectl.get("jobqueue", QUEUE)
    async with KubernetesApi(str(world.kubectl.kubeconfig)) as api:
        await record(Events(api, lambda: NOW), queue, "before")
        await record(Events(api, lambda: NOW), queue, "after")
    assert told(world, "Load") == [(1, "after")]


async def test_an_event_that_somebody_deleted_is_made_anew(world: World) -> None:
    world.apply_queue()
    queue = world.kubectl.get("jobqueue", QUEUE)
    async with KubernetesApi(str(world.kubectl.kubeconfig)) as api:
        events = Events(api, lambda: NOW)
        await record(events, queue, "first")
        world.kubectl.run("delete", "events", "--all")
        await record(events, queue, "lost")
        await record(events, queue, "second")
    assert told(world, "Load") == [(1, "second")]
