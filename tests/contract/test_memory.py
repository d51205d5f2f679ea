from __future__ import annotations

import pytest

from contract.queue.bench import LEASE_SECONDS, QUEUE
from contract.queue.needs import Offer
from contract.queue.suite import QueueContract
from headrace.queues.memory import MemoryBackend, MemoryInspector, MemoryQueue


class MemoryBench:
    def __init__(self) -> None:
        backend = MemoryBackend()
        self.backend = self.provisioner = self.backlog = backend

    @classmethod
    def offer(cls) -> Offer:
        bench = cls()
        return Offer(name="memory", queue=bench.queue(), inspector=MemoryInspector(bench.backend), moves_time=True)

    def queue(self, name: str = QUEUE, *, lease_seconds: float = LEASE_SECONDS) -> MemoryQueue:
        return MemoryQueue(self.backend, name, lease_seconds=lease_seconds)

    async def pass_time(self, seconds: float) -> None:
        self.backend.pass_time(seconds)

    async def inspector(self) -> MemoryInspector:
        return MemoryInspector(self.backend)


class TestMemory(QueueContract):
    offer = MemoryBench.offer

    @pytest.fixture
    def bench(self) -> MemoryBench:
        return MemoryBench()
