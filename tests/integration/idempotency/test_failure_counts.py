"""Failed attempts of messages, counted in a real Redis beside idempotency's keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from headrace.idempotency import failure_counts_in, key_prefix, scripts, store_from_url
from headrace.idempotency.base import DEFAULT_PREFIX, Hold, stored_failures
from headrace.idempotency.failure_counts import KEPT_SECONDS
from headrace.idempotency.redis import RedisIdempotencyStore

if TYPE_CHECKING:
    from support.redis import RedisServer


async def test_each_failure_is_counted_and_forgotten_by_message(redis_url: str) -> None:
    async with store_from_url(redis_url, prefix=key_prefix("shop", "one")) as store:
        counts = failure_counts_in(store)
        assert counts is not None
        assert await counts.read(["a", "b"]) == [0, 0]
        assert await counts.add(["a"]) == [1]
        assert await counts.add(["b", "a"]) == [1, 2]
        assert await counts.read(["b", "unheard of", "a"]) == [1, 0, 2]
        await counts.forget(["a", "unheard of"])
        assert await counts.read(["a", "b"]) == [0, 1]
        assert await counts.add([]) == []
        await counts.forget(["b"])


async def test_queues_are_apart_and_no_key_of_an_application_is_a_count(redis_url: str) -> None:
    async with (
        store_from_url(redis_url, prefix=key_prefix("shop", "two")) as store,
        store_from_url(redis_url, prefix=key_prefix("shop", "three")) as other,
    ):
        counts, others = failure_counts_in(store), failure_counts_in(other)
        assert counts is not None
        assert others is not None
        assert await counts.add(["a"]) == [1]
        assert await others.read(["a"]) == [0]
        hold = Hold("failures:a", "token")
        await store.claim([hold], lease_seconds=10)
        assert await counts.read(["a"]) == [1]
        await store.release([hold])
        await counts.forget(["a"])


async def test_a_count_whose_answer_was_lost_is_counted_once(redis_url: str) -> None:
    async with store_from_url(redis_url, prefix=key_prefix("shop", "four")) as store:
        assert isinstance(store, RedisIdempotencyStore)
        for _ in range(2):
            asked = await store.count_failures(scripts.COUNT_FAILURE, ["a"], "token", ttl_seconds=60)
            assert asked == [1]
        assert await store.count_failures(scripts.COUNT_FAILURE, ["a"], "another", ttl_seconds=60) == [2]


async def test_a_count_is_kept_for_as_long_as_a_queue_keeps_its_message(own_redis: RedisServer) -> None:
    async with store_from_url(own_redis.url) as store:
        counts = failure_counts_in(store)
        assert counts is not None
        await counts.add(["a"])
    left_seconds = own_redis.command("TTL", stored_failures(DEFAULT_PREFIX, "a"))
    assert isinstance(left_seconds, int)
    assert KEPT_SECONDS - 60 < left_seconds <= KEPT_SECONDS == 14 * 86_400


async def test_a_store_that_is_away_is_told_as_an_operating_systems_error(own_redis: RedisServer) -> None:
    async with store_from_url(own_redis.url) as store:
        counts = failure_counts_in(store)
        assert counts is not None
        own_redis.stop()
        with pytest.raises(OSError, match="Redis"):
            await counts.add(["a"])


async def test_a_store_in_memory_counts_nothing_for_others() -> None:
    async with store_from_url("memory://") as store:
        assert failure_counts_in(store) is None
    assert failure_counts_in(None) is None
