"""The command ``headrace`` as a shell sees it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from headrace.queues.base import QueueSettings
from headrace.queues.postgres import Place, PostgresQueue

if TYPE_CHECKING:
    from pathlib import Path


async def headrace(
    *arguments: str, dsn: str = "", stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "headrace", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HEADRACE_DSN": dsn, **environment},
    )


async def received(dsn: str, schema: str = "headrace") -> list[tuple[str, str, int]]:
    async with PostgresQueue(Place(dsn=dsn, schema=schema), "orders") as queue:
        return [
            (delivery.job.name, delivery.job.payload.decode(), delivery.job.priority)
            for delivery in await queue.receive(10_000)
        ]


async def test_migrate_makes_a_queue_and_says_so_again_without_change(database_dsn: str) -> None:
    first = await headrace("migrate", "--queue", "orders", "--max-retries", "5", dsn=database_dsn)
    assert (first.returncode, first.stderr) == (0, "")
    assert "schema headrace is at version 1" in first.stdout
    again = await headrace("migrate", "--queue", "orders", "--max-retries", "5", "--output", "json", dsn=database_dsn)
    assert json.loads(again.stdout) == {
        "schema": "headrace",
        "schema_version": 1,
        "queue": "orders",
        "changed": False,
        "details": "queue orders is as wanted",
    }
    async with PostgresQueue(Place(dsn=database_dsn), "orders") as queue:
        assert queue.settings == QueueSettings(max_retries=5)


async def test_migrate_alone_makes_the_schema(database_dsn: str) -> None:
    assert "0001 initial" in (await headrace("migrate", "--schema", "jobs", dsn=database_dsn)).stdout
    assert "nothing to do" in (await headrace("migrate", "--schema", "jobs", dsn=database_dsn)).stdout


async def test_enqueue_counts_batches_and_reports(database_dsn: str) -> None:
    await headrace("migrate", "--queue", "orders", dsn=database_dsn)
    done = await headrace(
        *("enqueue", "orders", "resize", "--payload", '{"picture": 17}', "--count", "2500", "--priority", "3"),
        *("--output", "json"),
        dsn=database_dsn,
    )
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert (report["queue"], report["enqueued"], len(set(report["ids"]))) == ("orders", 2500, 2500)
    assert "2000 jobs enqueued" in done.stderr, "progress goes to standard error"
    assert await received(database_dsn) == [("resize", '{"picture":17}', 3)] * 2500


async def test_enqueue_takes_a_payload_a_line(database_dsn: str, tmp_path: Path) -> None:
    await headrace("migrate", "--queue", "orders", dsn=database_dsn)
    file = tmp_path / "payloads.jsonl"
    file.write_text('1\n\n{"two": "é"}\n')
    done = await headrace("enqueue", "orders", "resize", "--from-file", str(file), dsn=database_dsn)
    assert done.stdout == "2 jobs enqueued into orders\n"
    await headrace("enqueue", "orders", "resize", "--from-file", "-", stdin="3", dsn=database_dsn)
    assert await received(database_dsn) == [("resize", "1", 0), ("resize", '{"two":"é"}', 0), ("resize", "3", 0)]


async def test_a_binding_directory_is_connection_enough(database_dsn: str, tmp_path: Path) -> None:
    await headrace("migrate", "--queue", "orders", "--schema", "jobs", dsn=database_dsn)
    place = tmp_path / "queue"
    place.mkdir()
    for name, value in {"type": "postgresql", "uri": database_dsn, "schema": "jobs", "queue": "orders"}.items():
        (place / name).write_text(value)
    done = await headrace("enqueue", "orders", "resize", SERVICE_BINDING_ROOT=str(tmp_path))
    assert done.returncode == 0
    assert await received(database_dsn, "jobs") == [("resize", "null", 0)]


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (("--payload", "{no json"), 2, "no JSON"),
        (("--payload", "NaN"), 2, "can't be JSON"),
        (("--payload", "1", "--from-file", "-"), 2, "give one of them"),
        (("--priority", "11"), 2, "priority"),
        (("--count", "0"), 2, "count"),
        (("--group", "g"), 1, "group"),
        (("--deduplication-key", "k"), 1, "deduplication_key"),
        (("--schema", "elsewhere"), 1, "headrace migrate"),
        (("--dsn", "postgresql://me:hidden@127.0.0.1:1/x"), 3, "can't be reached"),
        (("--dsn", "nonsense hidden"), 1, "postgresql://"),
        (("--dsn", ""), 2, "no connection"),
    ],
)
async def test_what_is_wrong_is_said_in_a_line_with_its_exit_status(
    database_dsn: str, arguments: tuple[str, ...], status: int, complaint: str
) -> None:
    await headrace("migrate", "--queue", "orders", dsn=database_dsn)
    done = await headrace("enqueue", "orders", "resize", *arguments, dsn=database_dsn)
    assert done.returncode == status
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert "hidden" not in done.stderr


async def test_a_queue_that_does_not_exist_is_said(database_dsn: str) -> None:
    await headrace("migrate", dsn=database_dsn)
    done = await headrace("enqueue", "nowhere", "resize", dsn=database_dsn)
    assert done.returncode == 1
    assert "queue 'nowhere' does not exist" in done.stderr


async def test_the_version_is_told() -> None:
    assert (await headrace("--version")).stdout.startswith("headrace ")
