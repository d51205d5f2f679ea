"""docs/enqueue.md: every example runs as it stands."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from headrace import new_job
from headrace.metrics import Metrics
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from headrace.runtime.handlers.python import PythonHandler
from headrace.runtime.worker import Worker
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAGE = Path(__file__).parents[3] / "docs" / "enqueue.md"


def examples(language: str) -> list[tuple[str, str]]:
    """Each block with the heading that it stands under."""
    found = []
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        found += [
            (heading, code) for code in re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
        ]
    return found


AWAY = "When the database is away"
PROGRAMS = [(heading, code) for heading, code in examples("python") if "@app.job" not in code and heading != AWAY]
PATIENT = [code for heading, code in examples("python") if heading == AWAY]
HANDLERS = [(heading, code) for heading, code in examples("python") if "@app.job" in code]


@pytest.fixture
async def admin(database_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    await PostgresProvisioner(Place(dsn=database_dsn)).ensure(
        "orders", QueueSettings(), Owner(namespace="shop", name="orders", uid="1")
    )
    connection = await asyncpg.connect(database_dsn)
    await connection.execute("CREATE TABLE orders (id bigserial PRIMARY KEY, item text NOT NULL)")
    yield connection
    await connection.close()


def run(program: Path, dsn: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", program],
        env={**os.environ, "DATABASE_URL": dsn},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_they_are_found() -> None:
    assert {heading for heading, _ in PROGRAMS} == {"asyncpg", "psycopg", "SQLAlchemy", "Django", "Flask"}
    assert len(PATIENT) == 2
    assert len(HANDLERS) == 2
    assert len(examples("sql")) == 1


@pytest.mark.parametrize("code", [code for _, code in PROGRAMS], ids=[heading for heading, _ in PROGRAMS])
async def test_a_program_saves_its_order_and_enqueues(
    admin: asyncpg.Connection[asyncpg.Record], database_dsn: str, tmp_path: Path, code: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(code)
    done = await asyncio.to_thread(run, program, database_dsn)
    assert done.returncode == 0, done.stderr
    assert await admin.fetchval("SELECT array_agg(item) FROM orders") == ["lamp"]
    names = [row["name"] for row in await admin.fetch("SELECT name FROM headrace.jobs ORDER BY id")]
    assert names[0] == "send-receipt"
    assert names[1:] in ([], ["send-newsletter"])


@pytest.mark.parametrize("code", PATIENT, ids=["async", "sync"])
async def test_a_patient_program_enqueues_once(
    admin: asyncpg.Connection[asyncpg.Record], database_dsn: str, tmp_path: Path, code: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(code)
    done = await asyncio.to_thread(run, program, database_dsn)
    assert done.returncode == 0, done.stderr
    assert await admin.fetchval("SELECT array_agg(name) FROM headrace.jobs") == ["send-receipt"]


@pytest.mark.parametrize("code", [code for _, code in HANDLERS], ids=["async", "in a thread"])
async def test_a_handler_books_exactly_once(
    admin: asyncpg.Connection[asyncpg.Record], database_dsn: str, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_dsn)
    module: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), module)
    place = Place(dsn=database_dsn)
    async with PostgresQueue(place, "orders") as queue:
        await queue.enqueue([new_job("send-receipt", {"item": "lamp"})])

    async def is_done() -> bool:
        return bool(
            await admin.fetchval("SELECT NOT EXISTS (SELECT FROM headrace.claims) AND EXISTS (SELECT FROM orders)")
        )

    worker = Worker(
        PostgresQueue(place, "orders"), PythonHandler(module["app"], threads=1), Metrics().of("shop", "orders")
    )
    running = asyncio.create_task(worker.run())
    await eventually(is_done, what="booked")
    worker.stop()
    await running
    assert await admin.fetchval("SELECT array_agg(item) FROM orders") == ["lamp"]
    assert await admin.fetchval("SELECT count(*) FROM headrace.jobs") == 0


async def test_sql_by_hand(admin: asyncpg.Connection[asyncpg.Record]) -> None:
    await admin.execute(examples("sql")[0][1])
    assert await admin.fetchval("SELECT count(*) FROM headrace.jobs") == 2
    assert await admin.fetchval("SELECT count(*) FROM headrace.parked_jobs") == 2
