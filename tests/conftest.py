from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import postgres, redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


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
