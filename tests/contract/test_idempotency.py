from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis, RedisCluster

from contract.idempotency_contract import IdempotencyContract
from headrace.idempotency import store_from_url
from headrace.idempotency.memory import MemoryIdempotencyStore, Record
from support.redis import running_cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from headrace.idempotency.base import IdempotencyStore
    from support.redis import ClusterSetup

_numbers = itertools.count(1)


class MemoryBench:
    def __init__(self) -> None:
        self.now = 0.0
        self._records: dict[str, Record] = {}

    def store(self, *, prefix: str = "") -> MemoryIdempotencyStore:
        return MemoryIdempotencyStore(prefix=prefix, records=self._records, clock=lambda: self.now)

    async def pass_time(self, seconds: float) -> None:
        self.now += seconds


class RedisBench:
    """A prefix of its own on a server that others may use."""

    def __init__(self, url: str, admin: Redis | RedisCluster, *, mode: str = "Standalone") -> None:
        self._url = url
        self._admin = admin
        self._mode = mode
        self.prefix = f"test:{next(_numbers)}:"

    def store(self, *, prefix: str = "") -> IdempotencyStore:
        return store_from_url(self._url, mode=self._mode, prefix=self.prefix + prefix)

    async def keys(self) -> list[bytes]:
        return [key async for key in self._admin.scan_iter(match=f"{self.prefix}*", count=1000)]

    async def pass_time(self, seconds: float) -> None:
        for key in await self.keys():
            left = await self._admin.pttl(key) - round(1000 * seconds)
            await (self._admin.pexpire(key, left) if left > 0 else self._admin.delete(key))

    async def clear(self) -> None:
        for key in await self.keys():
            await self._admin.delete(key)


@asynccontextmanager
async def redis_bench(url: str) -> AsyncIterator[RedisBench]:
    async with Redis.from_url(url, protocol=2) as admin:
        bench = RedisBench(url, admin)
        await bench.clear()
        yield bench
        await bench.clear()


class TestMemory(IdempotencyContract):
    @pytest.fixture
    def bench(self) -> MemoryBench:
        return MemoryBench()


class TestStandalone(IdempotencyContract):
    @pytest.fixture
    async def bench(self, redis_url: str) -> AsyncIterator[RedisBench]:
        async with redis_bench(redis_url) as bench:
            yield bench


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterSetup]:
    with running_cluster() as cluster:
        yield cluster


class TestCluster(IdempotencyContract):
    @pytest.fixture
    async def bench(self, cluster: ClusterSetup) -> AsyncIterator[RedisBench]:
        async with RedisCluster(host="127.0.0.1", port=cluster.primaries[0].port, protocol=2) as admin:
            yield RedisBench(cluster.url, admin, mode="Cluster")
