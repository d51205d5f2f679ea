"""Sentinels and Clusters: the store follows the primary, and says what it can't follow."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from headrace.idempotency import store_from_url
from headrace.idempotency.base import (
    Claim,
    ClaimState,
    Hold,
    IdempotencyConfigurationError,
    IdempotencyUnavailableError,
)
from support.idempotency_page import documented_rule
from support.redis import PRIMARY, node_id, running_cluster, running_sentinels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from headrace.idempotency.base import IdempotencyStore
    from support.redis import ClusterSetup, RedisServer, SentinelSetup

PATIENCE_SECONDS = 30.0
CLAIMED = Claim(ClaimState.CLAIMED, 0.0)
HOLDS = [Hold(f"order-{number}", f"token-{number}") for number in range(100)]


async def claimed_again(store: IdempotencyStore, *holds: Hold) -> list[Claim]:
    """What is answered once somebody answers."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await store.claim(holds, lease_seconds=20)
        except IdempotencyUnavailableError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


class TestSentinelFailover:
    @pytest.mark.parametrize("fault", ["stop", "pause"])
    async def test_the_store_follows_the_primary(self, fault: str) -> None:
        with running_sentinels() as setup:
            await self.follows(setup, fault)

    async def follows(self, setup: SentinelSetup, fault: str) -> None:
        async with store_from_url(setup.url, mode="Sentinel", sentinel_master=PRIMARY) as store:
            assert await store.claim(HOLDS, lease_seconds=60) == [CLAIMED] * 100
            await store.finish(HOLDS[:50], ttl_seconds=60)
            setup.primary.command("WAIT", 1, 5000)
            getattr(setup.primary, fault)()
            answers = await claimed_again(store, *(Hold(key, "other") for key, _ in HOLDS))
            assert [claim.state for claim in answers] == [ClaimState.FINISHED] * 50 + [ClaimState.IN_PROGRESS] * 50
            assert await store.finish(HOLDS, ttl_seconds=60) == [True] * 100


class TestSentinels:
    async def test_one_that_answers_is_enough_and_none_is_no_mistake_of_ours(self) -> None:
        with running_sentinels() as setup:
            with pytest.raises(
                IdempotencyConfigurationError, match="the Sentinels know no such primary: set the senti"
            ):
                async with store_from_url(setup.url, mode="Sentinel", sentinel_master="mymaster"):
                    pass
            for sentinel in setup.sentinels[:2]:
                sentinel.stop()
            async with store_from_url(setup.url, mode="Sentinel", sentinel_master=PRIMARY) as store:
                assert await store.claim(HOLDS, lease_seconds=20) == [CLAIMED] * 100
            setup.sentinels[2].stop()
            async with store_from_url(setup.url, mode="Sentinel", sentinel_master=PRIMARY) as store:
                with pytest.raises(IdempotencyUnavailableError, match=r"Redis shop \(Sentinels at .*\) can't be reach"):
                    await store.claim(HOLDS, lease_seconds=20)

    async def test_a_server_is_no_sentinel(self, own_redis: RedisServer) -> None:
        with pytest.raises(IdempotencyConfigurationError, match="what answers is no Sentinel"):
            async with store_from_url(own_redis.url, mode="Sentinel", sentinel_master=PRIMARY):
                pass

    async def test_sentinels_with_a_password_of_their_own(self) -> None:
        user = "user watcher on >hunter2 -@all +sentinel|get-master-addr-by-name"
        with running_sentinels("requirepass hunter3", user) as setup:
            for parameters, works in {
                "?sentinel_username=watcher&sentinel_password=hunter2": True,
                "?sentinel_password=hunter3": True,
                "?sentinel_password=hunter4": False,
                "": False,
            }.items():
                store = store_from_url(setup.url + parameters, mode="Sentinel", sentinel_master=PRIMARY)
                if works:
                    async with store:
                        assert await store.extend(HOLDS[:1], lease_seconds=20) == [False]
                else:
                    with pytest.raises(IdempotencyConfigurationError, match="the Sentinels refuse us") as caught:
                        await store.__aenter__()
                    assert "hunter" not in str(caught.value)


@pytest.fixture(scope="module")
def setup() -> Iterator[ClusterSetup]:
    with running_cluster() as setup:
        yield setup


class TestCluster:
    async def test_a_node_of_it_is_no_server_alone(self, setup: ClusterSetup) -> None:
        for server in setup.primaries:
            with pytest.raises(
                IdempotencyConfigurationError, match="is one node of a Cluster: set the mode to Cluster"
            ):
                async with store_from_url(server.url) as store:
                    await store.claim(HOLDS, lease_seconds=20)

    async def test_keys_are_found_while_and_after_their_slots_move(self, setup: ClusterSetup) -> None:
        source, target, _ = setup.primaries
        for server in setup.primaries:
            server.command("ACL", "SETUSER", "headrace", *documented_rule("acl-cluster", "hunter2").split())
        url = setup.url.replace("redis://", "redis://headrace:hunter2@")
        async with store_from_url(url, mode="Cluster") as store:
            await store.claim(HOLDS, lease_seconds=60)
            key_slots = {source.command("CLUSTER", "KEYSLOT", f"headrace:idempotency:{hold.key}") for hold in HOLDS}
            slots = [slot for slot in key_slots if isinstance(slot, int) and slot <= 5460]
            for slot in slots:
                target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", node_id(source))
                source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", node_id(target))
            assert await store.extend(HOLDS, lease_seconds=60) == [True] * 100, "nothing has moved yet"
            for slot in slots:
                keys = source.command("CLUSTER", "GETKEYSINSLOT", slot, 100)
                assert isinstance(keys, list)
                source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            assert await store.extend(HOLDS, lease_seconds=60) == [True] * 100, "by ASK"
            for slot in slots:
                for server in setup.primaries:
                    server.command("CLUSTER", "SETSLOT", slot, "NODE", node_id(target))
            assert await store.finish(HOLDS, ttl_seconds=60) == [True] * 100, "by MOVED"
            answers = await store.claim([Hold(key, "other") for key, _ in HOLDS], lease_seconds=60)
            assert {claim.state for claim in answers} == {ClaimState.FINISHED}

    async def test_the_store_follows_a_failover(self, setup: ClusterSetup) -> None:
        holds = [Hold(f"mail-{number}", f"token-{number}") for number in range(100)]
        async with store_from_url(setup.url, mode="Cluster") as store:
            assert await store.claim(holds, lease_seconds=60) == [CLAIMED] * 100
            await store.finish(holds[:50], ttl_seconds=60)
            setup.primaries[0].command("WAIT", 1, 5000)
            setup.primaries[0].pause()
            answers = await claimed_again(store, *(Hold(key, "other") for key, _ in holds))
            assert [claim.state for claim in answers] == [ClaimState.FINISHED] * 50 + [ClaimState.IN_PROGRESS] * 50
            assert await store.finish(holds, ttl_seconds=60) == [True] * 100
