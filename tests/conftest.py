from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contract.queue.needs import Part, missing
from support import elasticmq as elasticmqs
from support import moto as motos
from support import postgres, redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a promise of the contract, with a word in the log, where the backend says that it lacks what it takes.

    Here, since the contract is also run where a backend stands behind something else, a pooler say.
    """
    suite = getattr(item, "cls", None)
    if isinstance(item, pytest.Function) and isinstance(suite, type) and issubclass(suite, Part):
        offer = suite.offer()  # type: ignore[attr-defined]
        if lacks := missing(suite, item.originalname, offer):
            pytest.skip(f"{offer.name} has no {', no '.join(lacks)}")


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """A PostgreSQL server's maintenance database, shared by the whole run."""
    with postgres.maintenance_dsn() as dsn:
        yield dsn


@pytest.fixture
async def database_dsn(postgres_dsn: str) -> AsyncIterator[str]:
    """A fresh, empty database."""
    async with postgres.fresh_database(postgres_dsn) as dsn:
        yield dsn


@pytest.fixture
def own_postgres() -> Iterator[postgres.PostgresServer]:
    """A server that the test may stop and start."""
    with postgres.running_server() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis server, shared by the whole run."""
    with redis.redis_url() as url:
        yield url


@pytest.fixture
def own_redis() -> Iterator[redis.RedisServer]:
    """A server that the test may stop, pause and start."""
    with redis.running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[motos.Moto]:
    """A server of moto's, shared by the whole run: faithful, and slow. Queues of other tests may be there."""
    with motos.running_moto() as server:
        yield server


@pytest.fixture(scope="session")
def elasticmq() -> Iterator[elasticmqs.ElasticMq]:
    """An ElasticMQ, shared by the whole run: fast. Queues of other tests may be there."""
    with elasticmqs.elasticmq() as server:
        yield server
