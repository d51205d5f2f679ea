"""The page of metrics, which takes a second with some thousand queues."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import aiohttp
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace_operator.endpoints import serving

if TYPE_CHECKING:
    from collections.abc import Iterator


class SlowCollector(Collector):
    """Takes until it is told to end."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.may_end = threading.Event()

    def describe(self) -> list[GaugeMetricFamily]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        self.has_begun.set()
        assert self.may_end.wait(30), "nobody else had a turn"
        yield GaugeMetricFamily("queues", "How many there are.", value=10_000)


async def test_while_a_page_is_made_everything_else_goes_on() -> None:
    slow, registry = SlowCollector(), CollectorRegistry()
    registry.register(slow)
    serving_all_well = serving(
        "127.0.0.1:0", registry=registry, health_problem=lambda: None, readiness_problem=lambda: None
    )
    async with serving_all_well as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def page() -> str:
            async with session.get("/metrics") as answer:
                return await answer.text()

        making = asyncio.create_task(page())
        await asyncio.to_thread(slow.has_begun.wait, 30)
        async with session.get("/healthz") as answer:
            assert answer.status == 200
        slow.may_end.set()
        assert "queues 10000.0" in await making
