"""Credentials, rights, TLS and modes: what is asked of a server, and what is said where it won't do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from headrace.idempotency import key_prefix, store_from_url
from headrace.idempotency.base import ClaimState, Hold, IdempotencyConfigurationError
from support.certificates import Authority
from support.idempotency_page import documented_rule
from support.redis import running_redis, running_tls_redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.redis import RedisServer

PASSWORD = "hunter2%/@"
QUOTED = "hunter2%25%2F%40"


async def works(url: str, **options: str) -> bool | None:
    hold = Hold("order-17", "ours")
    async with store_from_url(url, prefix=key_prefix("shop", "orders"), **options) as store:
        assert [claim.state for claim in await store.claim([hold], lease_seconds=20)] == [ClaimState.CLAIMED]
        assert await store.extend([hold], lease_seconds=20) == [True]
        assert await store.finish([hold], ttl_seconds=0.001) == [True]
        assert await store.release([hold]) == [False]
        return store.may_evict


async def refused(url: str, **options: str) -> str:
    with pytest.raises(IdempotencyConfigurationError) as caught:
        async with store_from_url(url, **options):
            pass
    message = str(caught.value)
    assert "hunter2" not in message
    assert caught.value.__cause__ is None
    return message


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    rule = documented_rule("acl", PASSWORD)
    with running_redis(
        f"user headrace {rule}",
        f"user blind {rule.replace('+info', '')}",
        f"user reader on >{PASSWORD} ~* -@all +evalsha +eval +get",
        f"user stranger on >{PASSWORD} ~other:* +@all",
        "user default off",
    ) as server:
        yield server


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def tls_server(authority: Authority) -> Iterator[RedisServer]:
    rule = documented_rule("acl", PASSWORD)
    with running_tls_redis(authority, "tls-auth-clients no", f"user headrace {rule}", "user default off") as server:
        yield server


class TestAcl:
    def url(self, server: RedisServer, user: str, password: str = QUOTED) -> str:
        return f"redis://{user}:{password}@127.0.0.1:{server.port}/0"

    async def test_the_documented_rule_is_enough(self, server: RedisServer) -> None:
        assert await works(self.url(server, "headrace")) is False

    @pytest.mark.parametrize("command", ["evalsha", "eval", "set", "get", "pexpire", "pttl", "del"])
    async def test_and_nothing_in_it_is_too_much(self, command: str) -> None:
        rule = documented_rule("acl", PASSWORD).replace(f"+{command} ", "")
        with (
            running_redis(f"user headrace {rule}") as server,
            pytest.raises(IdempotencyConfigurationError, match="forbids its user 'headrace'"),
        ):
            async with store_from_url(self.url(server, "headrace"), prefix=key_prefix("shop", "orders")) as store:
                # Only a claim that meets another's asks how long that one lasts.
                await store.claim([Hold("a", "ours"), Hold("a", "theirs")], lease_seconds=20)

    async def test_without_the_right_to_ask_nothing_is_said_of_eviction(self, server: RedisServer) -> None:
        assert await works(self.url(server, "blind")) is None

    async def test_a_wrong_password_is_said_at_the_start(self, server: RedisServer) -> None:
        message = await refused(self.url(server, "headrace", "hunter23"))
        assert "refuses the user or the password: mend the URL" in message

    async def test_an_unknown_user_too(self, server: RedisServer) -> None:
        assert "refuses the user or the password" in await refused(self.url(server, "nobody"))

    async def test_no_password_where_one_is_wanted(self, server: RedisServer) -> None:
        message = await refused(server.url)
        assert "wants a password: put it into the URL" in message

    async def test_a_password_where_there_is_none(self, own_redis: RedisServer) -> None:
        message = await refused(f"redis://:hunter2@127.0.0.1:{own_redis.port}")
        assert "knows no password for its default user" in message

    @pytest.mark.parametrize("user", ["reader", "stranger"])
    async def test_missing_rights_are_said_at_the_start_with_the_rule(self, server: RedisServer, user: str) -> None:
        message = await refused(self.url(server, user))
        assert f"forbids its user '{user}'" in message
        assert "+evalsha +eval +set +get +pexpire +pttl +del, and ~ with the prefix" in message

    async def test_what_goes_wrong_later_is_said_by_the_call(self, own_redis: RedisServer) -> None:
        own_redis.command("ACL", "SETUSER", "headrace", "on", ">hunter2", "~*", "+@all")
        async with store_from_url(f"redis://headrace:hunter2@127.0.0.1:{own_redis.port}") as store:
            own_redis.command("ACL", "SETUSER", "headrace", "-set")
            with pytest.raises(IdempotencyConfigurationError, match="forbids its user"):
                await store.claim([Hold("order-17", "ours")], lease_seconds=20)


class TestTls:
    async def test_a_verified_server_with_user_and_password(
        self, tls_server: RedisServer, authority: Authority
    ) -> None:
        url = f"rediss://headrace:{QUOTED}@127.0.0.1:{tls_server.port}"
        assert await works(url, ca_certificates=authority.certificate) is False

    async def test_a_server_of_an_unknown_authority_is_refused(self, tls_server: RedisServer) -> None:
        url = f"rediss://headrace:{QUOTED}@127.0.0.1:{tls_server.port}"
        for options in ({}, {"ca_certificates": Authority().certificate}):
            message = await refused(url, **options)
            assert "has a certificate that can't be verified" in message
            assert "give the CA certificates that signed it" in message

    async def test_a_server_under_another_name_is_refused(self, tls_server: RedisServer, authority: Authority) -> None:
        message = await refused(f"rediss://localhost:{tls_server.port}", ca_certificates=authority.certificate)
        assert "connect by a name that it is made for" in message

    async def test_a_server_that_shares_no_cipher_with_us_is_refused(self, authority: Authority) -> None:
        with running_tls_redis(
            authority, "tls-auth-clients no", "tls-protocols TLSv1.2", "tls-ciphers AES128-SHA"
        ) as old:
            message = await refused(old.url, ca_certificates=authority.certificate)
            assert "refuses our TLS (SSLV3_ALERT_HANDSHAKE_FAILURE)" in message


class TestModes:
    async def test_a_server_alone_is_no_cluster(self, own_redis: RedisServer) -> None:
        message = await refused(own_redis.url, mode="Cluster")
        assert "is no Cluster: set the mode to Standalone" in message

    async def test_a_database_that_is_not_there(self, own_redis: RedisServer) -> None:
        assert "has no database of that number" in await refused(f"{own_redis.url}/99")

    async def test_data_of_another_kind_under_our_prefix(self, own_redis: RedisServer) -> None:
        own_redis.command("SADD", "headrace:idempotency:order-17", "x")
        async with store_from_url(own_redis.url) as store:
            with pytest.raises(IdempotencyConfigurationError, match="let nothing else use the prefix"):
                await store.claim([Hold("order-17", "ours")], lease_seconds=20)
