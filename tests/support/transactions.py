"""Every kind of connection that an application may hand over, each with a transaction of the application's own."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import django as django_framework
import psycopg
import sqlalchemy
from django.conf import settings as django_settings
from django.db.utils import ConnectionHandler
from django.utils.connection import ConnectionProxy
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

if not django_settings.configured:
    django_settings.configure(USE_TZ=True)
    django_framework.setup()


@dataclass(frozen=True)
class AsyncOpened:
    """A connection within a transaction, and how the application does its own work there."""

    connection: Any
    execute: Callable[[str], Awaitable[Any]]


@dataclass(frozen=True)
class SyncOpened:
    """As `AsyncOpened`."""

    connection: Any
    execute: Callable[[str], Any]


# Asynchronous: committed at the end of the block, rolled back where it raises.


@asynccontextmanager
async def asyncpg_connection(dsn: str) -> AsyncIterator[AsyncOpened]:
    connection = await asyncpg.connect(dsn)
    # A codec of the application's own, as many set it.
    await connection.set_type_codec("jsonb", encoder=repr, decoder=repr, schema="pg_catalog")
    try:
        async with connection.transaction():
            yield AsyncOpened(connection, connection.execute)
    finally:
        await connection.close()


@asynccontextmanager
async def asyncpg_pool(dsn: str) -> AsyncIterator[AsyncOpened]:
    async with (
        asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool,
        pool.acquire() as connection,
        connection.transaction(),
    ):
        yield AsyncOpened(connection, connection.execute)


@asynccontextmanager
async def psycopg_connection(dsn: str) -> AsyncIterator[AsyncOpened]:
    async with await psycopg.AsyncConnection.connect(dsn, row_factory=dict_row) as connection:
        yield AsyncOpened(connection, connection.execute)


@asynccontextmanager
async def psycopg_autocommit(dsn: str) -> AsyncIterator[AsyncOpened]:
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection,
        connection.transaction(),
    ):
        yield AsyncOpened(connection, connection.execute)


@asynccontextmanager
async def sqlalchemy_on_asyncpg(dsn: str) -> AsyncIterator[AsyncOpened]:
    engine = create_async_engine(_url(dsn, "asyncpg"))
    try:
        async with engine.begin() as connection:
            yield AsyncOpened(connection, lambda sql: connection.execute(sqlalchemy.text(sql)))
    finally:
        await engine.dispose()


@asynccontextmanager
async def sqlalchemy_on_psycopg(dsn: str) -> AsyncIterator[AsyncOpened]:
    engine = create_async_engine(_url(dsn, "psycopg"))
    try:
        async with engine.begin() as connection:
            yield AsyncOpened(connection, lambda sql: connection.execute(sqlalchemy.text(sql)))
    finally:
        await engine.dispose()


@asynccontextmanager
async def sqlalchemy_session(dsn: str) -> AsyncIterator[AsyncOpened]:
    engine = create_async_engine(_url(dsn, "asyncpg"))
    try:
        async with AsyncSession(engine) as session, session.begin():
            yield AsyncOpened(session, lambda sql: session.execute(sqlalchemy.text(sql)))
    finally:
        await engine.dispose()


@asynccontextmanager
async def sqlalchemy_scoped_session(dsn: str) -> AsyncIterator[AsyncOpened]:
    engine = create_async_engine(_url(dsn, "asyncpg"))
    session = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: None)
    try:
        async with session.begin():
            yield AsyncOpened(session, lambda sql: session.execute(sqlalchemy.text(sql)))
    finally:
        await session.remove()
        await engine.dispose()


ASYNC_KINDS: tuple[Callable[[str], AbstractAsyncContextManager[AsyncOpened]], ...] = (
    asyncpg_connection,
    asyncpg_pool,
    psycopg_connection,
    psycopg_autocommit,
    sqlalchemy_on_asyncpg,
    sqlalchemy_on_psycopg,
    sqlalchemy_session,
    sqlalchemy_scoped_session,
)


# Synchronous.


@contextmanager
def psycopg_sync(dsn: str) -> Iterator[SyncOpened]:
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        yield SyncOpened(connection, connection.execute)


@contextmanager
def sqlalchemy_sync(dsn: str) -> Iterator[SyncOpened]:
    engine = sqlalchemy.create_engine(_url(dsn, "psycopg"))
    try:
        with engine.begin() as connection:
            yield SyncOpened(connection, lambda sql: connection.execute(sqlalchemy.text(sql)))
    finally:
        engine.dispose()


@contextmanager
def sqlalchemy_session_sync(dsn: str) -> Iterator[SyncOpened]:
    engine = sqlalchemy.create_engine(_url(dsn, "psycopg"))
    try:
        with Session(engine) as session, session.begin():
            yield SyncOpened(session, lambda sql: session.execute(sqlalchemy.text(sql)))
    finally:
        engine.dispose()


@contextmanager
def sqlalchemy_scoped_session_sync(dsn: str) -> Iterator[SyncOpened]:
    engine = sqlalchemy.create_engine(_url(dsn, "psycopg"))
    session = scoped_session(sessionmaker(engine))
    try:
        with session.begin():
            yield SyncOpened(session, lambda sql: session.execute(sqlalchemy.text(sql)))
    finally:
        session.remove()
        engine.dispose()


@contextmanager
def django(dsn: str) -> Iterator[SyncOpened]:
    with _django(dsn) as handler:
        connection = handler["default"]
        with _django_transaction(connection):
            yield SyncOpened(connection, lambda sql: connection.cursor().execute(sql))


@contextmanager
def django_proxy(dsn: str) -> Iterator[SyncOpened]:
    """What ``django.db.connection`` is."""
    with _django(dsn) as handler:
        connection = ConnectionProxy(handler, "default")
        with _django_transaction(connection):
            yield SyncOpened(connection, lambda sql: connection.cursor().execute(sql))


@contextmanager
def _django(dsn: str) -> Iterator[ConnectionHandler]:
    parts = urlsplit(dsn)
    handler = ConnectionHandler(
        {
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": parts.hostname,
                "PORT": parts.port,
                "NAME": parts.path.removeprefix("/"),
                "USER": parts.username,
                "PASSWORD": parts.password or "",
            }
        }
    )
    try:
        yield handler
    finally:
        handler.close_all()


@contextmanager
def _django_transaction(connection: Any) -> Iterator[None]:
    """What ``transaction.atomic()`` does, on a connection that is not in the settings."""
    connection.set_autocommit(False)
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    else:
        connection.commit()
    finally:
        connection.set_autocommit(True)


SYNC_KINDS: tuple[Callable[[str], AbstractContextManager[SyncOpened]], ...] = (
    psycopg_sync,
    sqlalchemy_sync,
    sqlalchemy_session_sync,
    sqlalchemy_scoped_session_sync,
    django,
    django_proxy,
)


def _url(dsn: str, driver: str) -> str:
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)
