"""What grows with the number of objects, on one stage that is filled step by step."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from operator_bench import gauges
from operator_bench.figures import Figure
from operator_bench.stage import Pair, standing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from operator_bench.stage import Stage

_SHARES = (0.2, 0.5, 1.0)
"""Of all pairs, those that are there at each step."""

_QUIET_SECONDS = 45.0


async def growth(size: int, say: Callable[[str], None]) -> Sequence[Figure]:
    """Idle queues on one DSN, more and more of them."""
    figures: list[Figure] = []
    known: list[Pair] = []
    async with standing(users=1) as stage:
        for share in _SHARES:
            number = max(round(size * share), 1)
            new = [Pair.number(index, dsns=1) for index in range(len(known), number)]
            known += new
            for figure in await _step(stage, new, number):
                say(f"{figure.column} {figure.name}: {figure.value:.3g} {figure.unit}")
                figures.append(figure)
    return figures


async def _step(stage: Stage, new: Sequence[Pair], number: int) -> list[Figure]:
    """Add the new ones, start the operator over all of them, and let a while go by."""
    before, cpu_before = gauges.monotonic(), gauges.cpu_seconds(stage.pid)
    took = await stage.create(new)
    ready = await stage.until_ready(new) - before
    cpu_per_pair = (gauges.cpu_seconds(stage.pid) - cpu_before) / len(new)
    await asyncio.to_thread(stage.operator.stop)
    began = gauges.monotonic()
    starting = asyncio.create_task(asyncio.to_thread(stage.operator.start))
    await starting
    waiting = asyncio.create_task(stage.longest_wait(_QUIET_SECONDS))
    started = await stage.until_sampled(number) - began
    cpu_started, start_wait = gauges.cpu_seconds(stage.pid), await waiting
    await asyncio.sleep(_QUIET_SECONDS)
    first = await stage.reading()
    quiet_wait = await stage.longest_wait(_QUIET_SECONDS)
    last = await stage.reading()
    passed = last.at - first.at
    asked = gauges.monotonic()
    await stage.page()
    page = gauges.monotonic() - asked
    values = (
        ("created, by 16 clients", took, "s"),
        ("all of them Ready after the first was created", ready, "s"),
        ("processor time to make a pair Ready", 1000 * cpu_per_pair, "ms"),
        ("all known after a start", started, "s"),
        ("processor time of a start", cpu_started, "s"),
        ("longest wait for an answer at a start", start_wait, "s"),
        ("processor, idle", (last.cpu_seconds - first.cpu_seconds) / passed, "cores"),
        ("API requests a second, idle", (last.requests - first.requests) / passed, ""),
        ("longest wait for an answer, idle", quiet_wait, "s"),
        ("page of metrics", page, "s"),
        ("memory", gauges.memory_mib(stage.pid), "MiB"),
    )
    return [Figure(name=name, value=value, unit=unit, column=f"{number:,}") for name, value, unit in values]
