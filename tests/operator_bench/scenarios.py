"""What is measured of the operator, each on a stage of its own."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace import NewJob
from headrace.queues import from_url
from operator_bench import gauges
from operator_bench.figures import Figure
from operator_bench.growth import growth
from operator_bench.stage import Pair, standing
from operator_bench.workers import address, pages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from operator_bench.stage import Stage

    Say = Callable[[str], None]

_QUIET_SECONDS = 60.0
"""A window in which nothing is done to anything; it begins when as much time has passed since the last change."""

_INTERVAL_SECONDS = 5.0
"""How often pools want samples, by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorScenario:
    """One measurement."""

    id: str
    title: str
    measure: Callable[[int, Say], Awaitable[Sequence[Figure]]]
    is_extra: bool = False
    """Whether it is measured only where it is asked for by its id; the page shows what it gave the last time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a time has cost."""

    seconds: float
    cores: float
    memory_mib: float
    writes: float
    requests: float
    logins: int
    connections: int


async def look_at(stage: Stage, seconds: float) -> Window:
    """Let time go by, and tell what it has cost."""
    before = await stage.reading()
    await asyncio.sleep(seconds)
    after = await stage.reading()
    passed = after.at - before.at
    return Window(
        seconds=passed,
        cores=(after.cpu_seconds - before.cpu_seconds) / passed,
        memory_mib=gauges.memory_mib(stage.pid),
        writes=after.writes - before.writes,
        requests=after.requests - before.requests,
        logins=after.logins - before.logins,
        connections=await gauges.connections(stage.server_dsn),
    )


def pairs(size: int, *, dsns: int) -> list[Pair]:
    """Queues and pools on databases that answer."""
    return [Pair.number(index, dsns=dsns) for index in range(size)]


def idle(dsns: int) -> Callable[[int, Say], Awaitable[Sequence[Figure]]]:
    """Queues in which nothing happens."""

    async def measure(size: int, say: Say) -> Sequence[Figure]:
        async with standing(users=dsns) as stage:
            many = pairs(size, dsns=dsns)
            took = await stage.apply(many)
            applied_at = gauges.monotonic()
            say(f"applied in {took:.1f} s")
            after = max(await stage.until_ready(many) - applied_at, 0.0)
            say(f"all Ready {after:.1f} s later")
            await asyncio.to_thread(stage.operator.stop)
            began = gauges.monotonic()
            await asyncio.to_thread(stage.operator.start)
            started = await stage.until_sampled(size) - began
            say(f"all known {started:.1f} s after a start")
            await asyncio.sleep(_QUIET_SECONDS)
            window = await look_at(stage, _QUIET_SECONDS)
            return [
                Figure(name="kubectl apply", value=took, unit="s"),
                Figure(name="all Ready after its end", value=after, unit="s", wanted=max(0.2 * took, 1.0)),
                Figure(name="all known after a start", value=started, unit="s", wanted=60),
                *_costs(window, objects=2 * size, cores=0.05),
                Figure(name="memory", value=window.memory_mib, unit="MiB", wanted=200),
                Figure(name="connections", value=window.connections, wanted=dsns),
                Figure(name="logins in the window", value=window.logins, wanted=0),
            ]

    return measure


async def busy(size: int, say: Say) -> Sequence[Figure]:
    """A tenth of the queues have a worker that works."""
    dsns = max(size // 10, 1)
    working = pairs(size, dsns=dsns)[: max(size // 10, 1)]
    async with standing(users=dsns) as stage, pages([(pair.key.namespace, pair.key.name) for pair in working]):
        many = pairs(size, dsns=dsns)
        await stage.apply(many)
        await stage.until_ready(many)
        for pair in working:
            await stage.patch_pool(pair.key, {"autoscaling": {"mode": "Direct", "minReplicas": 1, "maxReplicas": 1}})
        await stage.run_pods([(pair.key, address(number)) for number, pair in enumerate(working)])
        say(f"{len(working)} of {size} have a worker")
        await asyncio.sleep(_QUIET_SECONDS)
        looking = asyncio.create_task(look_at(stage, _QUIET_SECONDS))
        ages: list[float] = []
        while not looking.done():
            ages += await stage.ages([pair.key for pair in working])
            await asyncio.wait([looking], timeout=_INTERVAL_SECONDS)
        window, age = await looking, gauges.quantile(ages, 0.99)
        return [
            *_costs(window, objects=2 * size, cores=0.15),
            Figure(name="memory", value=window.memory_mib, unit="MiB"),
            Figure(name="logins in the window", value=window.logins, wanted=0),
            Figure(
                name="age of a sample that an autoscaler is shown, p99",
                value=age,
                unit="s",
                wanted=1.5 * _INTERVAL_SECONDS,
            ),
        ]


async def hostile(size: int, say: Say) -> Sequence[Figure]:
    """A fifth of the queues are on databases that take connections and say nothing, and one pod serves a megabyte."""
    dsns = max(size // 10, 1)
    healthy = pairs(size - size // 5, dsns=dsns)
    dead = [Pair.number(index, dsns=dsns, dead=True) for index in range(size // 5)]
    bad = healthy[0]
    async with standing(users=dsns) as stage, pages([], hostile=1):
        await stage.apply(healthy)
        await stage.until_ready(healthy)
        # A hundred each: of fewer the slowest one alone would be the p99.
        chosen = random.Random(1).sample(healthy[1:], min(200, len(healthy) - 1))
        half = len(chosen) // 2
        alone = await _wakes(stage, chosen[:half])
        say(f"woken after {gauges.quantile(alone, 0.5):.2f} s (p50), {gauges.quantile(alone, 0.99):.2f} s (p99)")
        await stage.patch_pool(bad.key, {"autoscaling": {"mode": "Direct", "minReplicas": 1, "maxReplicas": 1}})
        await stage.run_pods([(bad.key, address(0))])
        await stage.apply(dead)
        await asyncio.sleep(_QUIET_SECONDS)
        window = await look_at(stage, _QUIET_SECONDS)
        beside = await _wakes(stage, chosen[half:])
        say(f"beside: {gauges.quantile(beside, 0.5):.2f} s (p50), {gauges.quantile(beside, 0.99):.2f} s (p99)")
        before, after = gauges.quantile(alone, 0.99), gauges.quantile(beside, 0.99)
        return [
            Figure(name="wake, p50", value=gauges.quantile(alone, 0.5), unit="s"),
            Figure(name="wake, p99", value=before, unit="s"),
            Figure(name="wake beside them, p50", value=gauges.quantile(beside, 0.5), unit="s"),
            Figure(
                name="wake beside them, p99",
                value=after,
                unit="s",
                wanted=max(1.25 * before, before + 0.5),
            ),
            # A dead pair is asked about three times a minute: its Secrets, and whether it is there before it is tried.
            *_costs(window, objects=2 * size, cores=None, requests=max(size / 50, 1.0)),
        ]


async def _wakes(stage: Stage, chosen: Sequence[Pair]) -> list[float]:
    """How long after its first job each of these pools had a worker wanted, one after another."""
    took = []
    for pair in chosen:
        await asyncio.sleep(random.uniform(0.1, 0.5))
        async with from_url(stage.dsn, pair.key.name) as queue:
            began = gauges.monotonic()
            await queue.enqueue([NewJob(name="work")])
        async with asyncio.timeout(120):
            await stage.pools.until(lambda key=pair.key: key in stage.pools.replicas)  # type: ignore[misc]
        took.append(stage.pools.replicas[pair.key] - began)
    return took


def _costs(window: Window, *, objects: int, cores: float | None, requests: float | None = None) -> list[Figure]:
    per_object = window.writes / objects * 30 / window.seconds
    return [
        Figure(name="processor", value=window.cores, unit="cores", wanted=cores),
        Figure(name="API writes an object in 30 s", value=per_object, wanted=1),
        Figure(name="API requests a second", value=window.requests / window.seconds, wanted=requests),
    ]


SCENARIOS = (
    OperatorScenario(id="idle-one", title="Idle, all on one DSN", measure=idle(1)),
    OperatorScenario(id="idle-hundred", title="Idle, on 100 DSNs", measure=idle(100)),
    OperatorScenario(id="busy", title="A tenth of them busy, on a tenth as many DSNs", measure=busy),
    OperatorScenario(id="hostile", title="A fifth of them dead, and a hostile page", measure=hostile),
    OperatorScenario(id="growth", title="On the way to 10,000", measure=growth, is_extra=True),
)
