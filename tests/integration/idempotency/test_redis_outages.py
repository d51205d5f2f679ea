"""What a store in Redis makes of servers that die, fall silent, lose their memory, or may not write."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from headrace.idempotency import store_from_url
from headrace.idempotency.base import Claim, ClaimState, Hold, IdempotencyUnavailableError
from headrace.idempotency.links import MAX_CONNECTIONS
from support.postgres import free_port
from support.redis import running_redis
from support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.idempotency.base import IdempotencyStore
    from support.redis import RedisServer

CLAIMED = Claim(ClaimState.CLAIMED, 0.0)
OURS, THEIRS = Hold("order-17", "ours"), Hold("order-17", "theirs")


async def claim(store: IdempotencyStore, *holds: Hold) -> list[Claim]:
    return await store.claim(holds, lease_seconds=20)


async def states(store: IdempotencyStore, *holds: Hold) -> list[ClaimState]:
    return [answer.state for answer in await claim(store, *holds)]


@pytest.fixture
async def proxy(own_redis: RedisServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(own_redis.port).running() as proxy:
        yield proxy


def at(port: int) -> IdempotencyStore:
    return store_from_url(f"redis://127.0.0.1:{port}")


class TestDeath:
    async def test_a_worker_starts_without_the_server_and_finds_it_later(
        self, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        own_redis.stop()
        async with at(own_redis.port) as store:
            assert f"Redis at 127.0.0.1:{own_redis.port} can't be reached: " in caplog.text
            for verb in (claim(store, OURS), store.finish([OURS], ttl_seconds=60), store.release([OURS])):
                with pytest.raises(IdempotencyUnavailableError, match="can't be reached"):
                    await verb
            own_redis.start()
            assert await claim(store, OURS) == [CLAIMED]
            assert store.may_evict is False

    async def test_a_host_that_has_no_address_is_no_mistake_of_ours(self) -> None:
        async with store_from_url("redis://nowhere.invalid") as store:
            with pytest.raises(IdempotencyUnavailableError, match="can't be reached"):
                await claim(store, OURS)

    async def test_a_server_that_was_started_anew_is_used_at_once_and_knows_nothing(
        self, own_redis: RedisServer
    ) -> None:
        async with at(own_redis.port) as store:
            await claim(store, OURS)
            own_redis.stop()
            own_redis.start()
            # The pooled connection is stale, and the server has no scripts; neither is seen.
            assert await store.extend([OURS], lease_seconds=20) == [False]
            assert await store.finish([OURS], ttl_seconds=60) == [True], "nobody else has it"
            assert await states(store, THEIRS) == [ClaimState.FINISHED]

    async def test_a_server_that_dies_before_it_answers_leaves_nothing_half_done_for_the_next_call(
        self, own_redis: RedisServer, proxy: TcpProxy
    ) -> None:
        holds = [Hold(f"order-{number}", "ours") for number in range(1000)]
        async with at(proxy.port) as store:
            proxy.hold_answers()
            claiming = asyncio.create_task(claim(store, *holds))
            await asyncio.sleep(0.1)
            own_redis.stop()
            with pytest.raises(IdempotencyUnavailableError):
                await claiming
            own_redis.start()
            assert await claim(store, *holds) == [CLAIMED] * 1000


class TestSilence:
    async def test_a_silent_server_is_given_up_within_seconds(self, own_redis: RedisServer) -> None:
        async with at(own_redis.port) as store:
            own_redis.pause()
            calls = [asyncio.create_task(claim(store, Hold(f"order-{number}", "ours"))) for number in range(40)]
            answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), timeout=10)
            assert [type(answer) for answer in answers] == [IdempotencyUnavailableError] * 40
            assert "does not answer in time" in str(answers[0])
            own_redis.resume()
            assert await states(store, OURS, THEIRS) == [ClaimState.CLAIMED, ClaimState.IN_PROGRESS]

    async def test_a_server_silent_from_the_start_does_not_hold_a_worker_up(self, own_redis: RedisServer) -> None:
        own_redis.pause()
        async with asyncio.timeout(10), at(own_redis.port) as store:
            own_redis.resume()
            assert await claim(store, OURS) == [CLAIMED]

    async def test_a_connection_that_died_in_silence_is_replaced_within_the_call(self, proxy: TcpProxy) -> None:
        async with at(proxy.port) as store:
            await asyncio.gather(*(claim(store, Hold(f"order-{number}", "ours")) for number in range(MAX_CONNECTIONS)))
            proxy.silence()
            assert await claim(store, OURS) == [CLAIMED]
            assert await states(store, THEIRS) == [ClaimState.IN_PROGRESS]

    async def test_a_lost_answer_is_asked_for_again_and_the_claim_is_still_ours(self, proxy: TcpProxy) -> None:
        async with at(proxy.port) as store:
            proxy.hold_answers()
            assert await claim(store, OURS) == [CLAIMED]
            proxy.hold_answers()
            assert await store.finish([OURS], ttl_seconds=60) == [True]

    async def test_a_cancelled_call_leaves_no_answer_behind_for_the_next(
        self, own_redis: RedisServer, proxy: TcpProxy
    ) -> None:
        async with at(proxy.port) as store, at(own_redis.port) as other:
            await claim(other, THEIRS)
            proxy.hold_answers()
            call = asyncio.create_task(claim(store, OURS))
            await asyncio.sleep(0.1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            proxy.resume()
            assert await claim(store, Hold("order-18", "ours")) == [CLAIMED]


class TestBounds:
    async def test_however_many_calls_there_are_at_once_connections_are_few(self, own_redis: RedisServer) -> None:
        before = connections_received(own_redis)
        async with at(own_redis.port) as store:
            await asyncio.gather(*(claim(store, Hold(f"order-{number}", "ours")) for number in range(200)))
            assert connections_received(own_redis) - before <= MAX_CONNECTIONS + 1, "one is the question's own"

    async def test_a_server_that_takes_no_more_clients_is_unavailable(self) -> None:
        with running_redis("maxclients 1") as server:
            async with at(server.port) as one, at(server.port) as other:
                assert await claim(one, OURS) == [CLAIMED]
                with pytest.raises(IdempotencyUnavailableError, match="maxclients"):
                    await claim(other, THEIRS)


class TestNoWrites:
    async def test_a_replica_is_unavailable_until_it_is_promoted(self, own_redis: RedisServer) -> None:
        async with at(own_redis.port) as store:
            await claim(store, OURS)
            own_redis.command("REPLICAOF", "127.0.0.1", free_port())
            with pytest.raises(IdempotencyUnavailableError, match="is a replica, and takes no writes"):
                await claim(store, THEIRS)
            own_redis.command("REPLICAOF", "NO", "ONE")
            assert await states(store, THEIRS) == [ClaimState.IN_PROGRESS]

    async def test_after_a_failover_behind_one_name_the_new_primary_is_found(self, own_redis: RedisServer) -> None:
        # A connection to the old primary would stay on it for ever.
        with running_redis() as successor:
            proxy = TcpProxy(own_redis.port)
            async with proxy.running(), at(proxy.port) as store:
                await claim(store, OURS)
                own_redis.command("REPLICAOF", "127.0.0.1", successor.port)
                proxy._target_port = successor.port
                assert await claim(store, Hold("order-18", "ours")) == [CLAIMED]

    async def test_a_full_server_is_unavailable_and_running_claims_are_still_extended_and_released(
        self, own_redis: RedisServer
    ) -> None:
        async with at(own_redis.port) as store:
            await claim(store, OURS, Hold("order-18", "ours"))
            own_redis.command("CONFIG", "SET", "maxmemory", "1")
            for verb in (claim(store, THEIRS), store.finish([OURS], ttl_seconds=60)):
                with pytest.raises(IdempotencyUnavailableError, match="is out of memory"):
                    await verb
            assert await store.extend([OURS], lease_seconds=20) == [True]
            assert await store.release([Hold("order-18", "ours")]) == [True]
            own_redis.command("CONFIG", "SET", "maxmemory", "0")
            assert await store.finish([OURS], ttl_seconds=60) == [True]

    async def test_too_few_replicas_is_unavailable(self, own_redis: RedisServer) -> None:
        own_redis.command("CONFIG", "SET", "min-replicas-to-write", "1")
        async with at(own_redis.port) as store:
            with pytest.raises(IdempotencyUnavailableError, match="has too few replicas"):
                await claim(store, OURS)


class TestEviction:
    @pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
    async def test_a_server_that_may_forget_keys_is_warned_of_once(
        self, own_redis: RedisServer, caplog: pytest.LogCaptureFixture, policy: str
    ) -> None:
        own_redis.command("CONFIG", "SET", "maxmemory", "100mb")
        own_redis.command("CONFIG", "SET", "maxmemory-policy", policy)
        async with at(own_redis.port) as store:
            assert store.may_evict is True
            await claim(store, OURS)
            own_redis.stop()
            own_redis.start()
            await claim(store, THEIRS)
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert policy in warnings[0]
        assert "Set maxmemory-policy to noeviction" in warnings[0]

    async def test_the_first_who_reach_the_server_warn_once_however_many_they_are(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with running_redis("maxmemory 100mb", "maxmemory-policy allkeys-lru") as server:
            server.stop()
            async with at(server.port) as store:
                server.start()
                await asyncio.gather(*(claim(store, Hold(f"order-{number}", "ours")) for number in range(40)))
                assert store.may_evict is True
        assert sum("maxmemory-policy" in record.getMessage() for record in caplog.records) == 1

    @pytest.mark.parametrize("lines", [["maxmemory 100mb"], ["maxmemory-policy allkeys-lru"]])
    async def test_where_nothing_is_evicted_nothing_is_said(
        self, caplog: pytest.LogCaptureFixture, lines: list[str]
    ) -> None:
        with running_redis(*lines) as server:
            async with at(server.port) as store:
                assert store.may_evict is False
        assert not caplog.records


def connections_received(server: RedisServer) -> int:
    stats = server.command("INFO", "stats")
    assert isinstance(stats, dict)
    return int(stats["total_connections_received"])
