from __future__ import annotations

import sys

import pytest

from headrace.idempotency import key_prefix, store_from_url
from headrace.idempotency.base import ClaimState, Hold, IdempotencyConfigurationError
from headrace.idempotency.place import RedisMode, RedisPlace
from support.certificates import Authority


def place(url: str, mode: str = "Standalone", **options: str) -> RedisPlace:
    return RedisPlace.from_url(url, mode=mode, **options)


class TestUrl:
    def test_one_server(self) -> None:
        assert place("redis://host") == RedisPlace(mode=RedisMode.STANDALONE, addresses=(("host", 6379),))
        found = place("redis://us%40er:p%2F%40ss@host:1234/5")
        assert (found.addresses, found.database) == ((("host", 1234),), 5)
        assert (found.username, found.password) == ("us@er", "p/@ss")

    def test_a_password_needs_no_user(self) -> None:
        found = place("redis://:secret@host")
        assert (found.username, found.password) == (None, "secret")

    def test_ipv6(self) -> None:
        found = place("redis://user:secret@[::1]:1234")
        assert found.addresses == (("::1", 1234),)
        assert str(found) == "Redis at [::1]:1234"

    def test_tls_with_an_authority(self) -> None:
        certificate = Authority().certificate
        found = place("rediss://host", ca_certificates=certificate)
        assert found.has_tls
        assert found.ca_certificates == certificate

    def test_sentinels_and_their_own_credentials(self) -> None:
        found = place(
            "redis://user:secret@h1:1,h2/3?sentinel_username=watcher&sentinel_password=p%26w",
            "Sentinel",
            sentinel_master="shop",
        )
        assert (found.addresses, found.database, found.sentinel_master) == ((("h1", 1), ("h2", 26379)), 3, "shop")
        assert (found.sentinel_username, found.sentinel_password) == ("watcher", "p&w")

    def test_nodes_of_a_cluster(self) -> None:
        found = place("redis://user:secret@h1:1,h2/0", "Cluster")
        assert found.addresses == (("h1", 1), ("h2", 6379))

    def test_nothing_that_is_shown_holds_a_secret(self) -> None:
        found = place("redis://u:hunter2@h1?sentinel_password=hunter3", "Sentinel", sentinel_master="shop")
        assert "hunter" not in repr(found) + str(found)


class TestMistakes:
    @pytest.mark.parametrize(
        ("url", "mode", "options", "message"),
        [
            ("hunter2", "Standalone", {}, "no scheme redis or rediss: write redis://USER:PASSWORD@HOST:PORT/DATABASE"),
            ("http://u:hunter2@h", "Standalone", {}, "no scheme redis or rediss"),
            ("redis://u:hunter2@", "Standalone", {}, "lacks a host"),
            ("redis://u:hunter2@h:port", "Standalone", {}, "can't be read: write redis://"),
            ("redis://u:hun#ter2@h", "Standalone", {}, "can't be read|a part after #"),
            ("redis://u:pw@h#hunter2", "Standalone", {}, "has a part after #: .* with %23 for # in a password"),
            ("redis://u:pw@h?hunter2=1", "Standalone", {}, "remove what follows the \\?, and write %3F"),
            ("redis://u:pw@h/hunter2", "Standalone", {}, "must be a number such as 0"),
            ("redis://u:hunter2@h1,h2", "Standalone", {}, "several hosts, .* set the mode to Sentinel or Cluster"),
            ("redis://u:hunter2@h", "Sentinels", {}, "mode 'Sentinels' is none of Redis: use Standalone, Sentinel or"),
            ("redis://u:hunter2@h", "Sentinel", {}, "needs the name of the primary .*: set the sentinel master"),
            ("redis://u:hunter2@h", "Cluster", {"sentinel_master": "shop"}, "the mode is Cluster: remove it, or set"),
            (
                "redis://h?password=hunter2",
                "Sentinel",
                {"sentinel_master": "shop"},
                "use sentinel_username and sentinel_password only",
            ),
            ("redis://u:hunter2@h/1", "Cluster", {}, "has database 0 alone: remove the number"),
            ("redis://u:hunter2@h", "Standalone", {"ca_certificates": "hunter2"}, "begin it with rediss://"),
            ("rediss://u:hunter2@h", "Standalone", {"ca_certificates": "hunter2"}, "are no PEM: they must begin with"),
        ],
    )
    def test_each_is_said_with_its_fix_and_no_secret(
        self, url: str, mode: str, options: dict[str, str], message: str
    ) -> None:
        with pytest.raises(IdempotencyConfigurationError, match=message) as caught:
            store_from_url(url, mode=mode, **options)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    def test_without_the_client_library_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("redis", "links"):
            monkeypatch.delitem(sys.modules, f"headrace.idempotency.{module}", raising=False)
        monkeypatch.setitem(sys.modules, "redis", None)
        with pytest.raises(IdempotencyConfigurationError, match=r"pip install 'headrace\[redis\]'"):
            store_from_url("redis://host")


async def test_stores_in_memory_share_what_one_process_knows() -> None:
    async with (
        store_from_url("memory://", prefix="shared:") as one,
        store_from_url("memory://", prefix="shared:") as two,
    ):
        await one.finish([Hold("order-17", "ours")], ttl_seconds=60)
        (claim,) = await two.claim([Hold("order-17", "theirs")], lease_seconds=20)
        assert claim.state is ClaimState.FINISHED


def test_the_prefix_of_a_queue_keeps_its_keys_apart_and_spread_over_a_cluster() -> None:
    assert key_prefix("shop", "orders") == "headrace:idempotency:shop:orders:"
    assert key_prefix("a:b", "c") != key_prefix("a", "b:c")
    assert not set("{}") & set(key_prefix("{shop}", "{orders}"))
