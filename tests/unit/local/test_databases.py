"""A queue's own Secret goes before the embedded database, and half of one is no choice."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_operator.core.model import ObjectKey
from headrace_operator.local.databases import embedded_queues, give_embedded, require_known_hosts
from headrace_operator.local.errors import InputError
from headrace_operator.local.manifests import Manifests

PG = ObjectKey("shop", "pg")


def manifests(*, secrets: dict[ObjectKey, dict[str, bytes]] | None = None, **postgres: Any) -> Manifests:
    spec = {"postgres": {"connection": {"secretRef": {"name": "pg", "key": "dsn"}}, **postgres}}
    queue = {"metadata": {"namespace": "shop", "name": "orders"}, "spec": spec}
    return Manifests(queues=[queue], secrets=dict(secrets or {}))


def test_without_its_secret_a_queue_lives_in_the_embedded_database() -> None:
    given = manifests(tls={"caSecretRef": {"name": "ca", "key": "ca.crt"}})
    queues = embedded_queues(given)
    assert queues == given.queues

    notes = give_embedded(given, queues, {"shop": "postgresql://here"})

    assert given.secrets == {PG: {"dsn": b"postgresql://here"}}
    assert notes == ["JobQueue orders: without meaning here and ignored: postgres.tls"]
    assert "tls" not in given.queues[0]["spec"]["postgres"]


def test_two_queues_may_name_two_keys_of_one_secret() -> None:
    given = manifests()
    second = manifests(connection={"secretRef": {"name": "pg", "key": "url"}}).queues
    give_embedded(given, given.queues + second, {"shop": "postgresql://here"})
    assert given.secrets == {PG: {"dsn": b"postgresql://here", "url": b"postgresql://here"}}


def test_with_its_secret_it_does_not() -> None:
    assert embedded_queues(manifests(secrets={PG: {"dsn": b"postgresql://there/db"}})) == []


def test_some_of_its_secrets_alone_are_refused() -> None:
    given = manifests(secrets={PG: {"dsn": b"x"}}, adminConnection={"secretRef": {"name": "owner", "key": "dsn"}})
    with pytest.raises(InputError, match="no Secret owner with the key dsn is among the manifests"):
        embedded_queues(given)


def test_a_secret_without_the_key_is_refused() -> None:
    with pytest.raises(InputError, match="no Secret pg with the key dsn"):
        embedded_queues(manifests(secrets={PG: {"url": b"x"}}))


@pytest.mark.parametrize(
    ("dsn", "is_fine"),
    [
        (b"postgresql://u:p@127.0.0.1:5432/db", True),
        (b"postgresql://u:p@[::1]:5432/db", True),
        (b"postgresql://u:p@db.example.com/db", True),
        (b"postgresql:///db?host=/var/run/postgresql", True),
        (b"postgresql://u:p@postgres:5432/db", False),
        (b"postgresql://u:p@postgres,db.example.com/db", True),
    ],
)
def test_a_host_that_only_the_cluster_knows_is_refused(dsn: bytes, is_fine: bool) -> None:
    given = manifests(secrets={PG: {"dsn": dsn}})
    if is_fine:
        require_known_hosts(given, lambda host: "." in host)
        return
    with pytest.raises(InputError, match="leads to the host postgres, which this machine does not know") as refused:
        require_known_hosts(given, lambda host: "." in host)
    assert "u:p" not in str(refused.value)


def test_a_dsn_that_is_none_is_refused_without_being_shown() -> None:
    with pytest.raises(InputError, match="holds no DSN with the scheme postgresql") as refused:
        require_known_hosts(manifests(secrets={PG: {"dsn": b"mysql://u:s3cret@h/db"}}), lambda _: True)
    assert "s3cret" not in str(refused.value)
