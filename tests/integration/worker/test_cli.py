"""The command ``headrace`` as a shell sees it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import asyncpg
import pytest

from headrace.queues.base import QueueSettings
from headrace.queues.postgres import Place, PostgresQueue
from headrace.queues.postgres.statements import code_version
from support.shell import headrace, headrace_json

if TYPE_CHECKING:
    from pathlib import Path


async def received(dsn: str, schema: str = "headrace") -> list[tuple[str, str, int]]:
    async with PostgresQueue(Place(dsn=dsn, schema=schema), "orders") as queue:
        return [
            (delivery.job.name, delivery.job.payload.decode(), delivery.job.priority)
            for delivery in await queue.receive(10_000)
        ]


async def test_migrate_makes_a_queue_and_says_so_again_without_change(database_dsn: str) -> None:
    first = await headrace("migrate", "--queue", "orders", "--max-retries", "5", dsn=database_dsn)
    assert (first.returncode, first.stderr) == (0, "")
    assert f"schema headrace is at version {code_version()}" in first.stdout
    again = await headrace("migrate", "--queue", "orders", "--max-retries", "5", "--output", "json", dsn=database_dsn)
    assert json.loads(again.stdout) == {
        "schema": "headrace",
        "schema_version": code_version(),
        "queue": "orders",
        "changed": False,
        "details": "queue orders is as wanted",
    }
    async with PostgresQueue(Place(dsn=database_dsn), "orders") as queue:
        assert queue.settings == QueueSettings(max_retries=5)


async def test_migrate_alone_makes_the_schema(database_dsn: str) -> None:
    assert "0001 tables" in (await headrace("migrate", "--schema", "jobs", dsn=database_dsn)).stdout
    assert "nothing to do" in (await headrace("migrate", "--schema", "jobs", dsn=database_dsn)).stdout


@pytest.mark.parametrize(
    "options",
    [
        ("--queue", ""),
        ("--queue", "two\nlines"),
        ("--queue", "q" * 256),
        ("--queue", "orders", "--visibility-timeout", "1e300"),
        ("--queue", "orders", "--message-retention", "1e300"),
        ("--queue", "orders", "--completed-retention", "1e14"),
        ("--queue", "orders", "--dead-letter-retention", "1e12"),
    ],
)
async def test_a_queue_that_could_not_work_is_not_made(database_dsn: str, options: tuple[str, ...]) -> None:
    done = await headrace("migrate", *options, dsn=database_dsn)
    assert (done.returncode, done.stdout) == (2, "")
    assert options[-2] in done.stderr


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
    assert report["duplicates"] == []
    assert "2000 of 2500 jobs enqueued" in done.stderr, "progress goes to standard error"
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


@pytest.mark.parametrize("is_one", [True, False])
async def test_a_binding_directory_can_be_named(database_dsn: str, tmp_path: Path, *, is_one: bool) -> None:
    await headrace("migrate", "--queue", "orders", "--schema", "jobs", dsn=database_dsn)
    for queue in ("orders", "mails"):
        place = tmp_path / queue
        place.mkdir()
        for name, value in {"type": "postgresql", "uri": database_dsn, "schema": "jobs", "queue": queue}.items():
            (place / name).write_text(value + "\n")
    directory = tmp_path / "orders" if is_one else tmp_path
    # It goes before whatever the environment says.
    done = await headrace("jobs", "list", "orders", "--binding", str(directory), dsn="postgresql://127.0.0.1:1/x")
    assert (done.returncode, done.stderr) == (0, "")
    both = await headrace("queues", "list", "--binding", str(directory), "--dsn", database_dsn)
    assert (both.returncode, "give one of them" in both.stderr) == (2, True)


async def test_all_that_a_job_may_ask_for_can_be_said(database_dsn: str) -> None:
    await headrace("migrate", "--queue", "orders", dsn=database_dsn)
    await headrace("enqueue", "orders", "a", "--delay", "60", "--group", "g", "--priority", "10", dsn=database_dsn)
    key = ("--deduplication-key", "k", "--deduplication-window", "1h")
    first = await headrace("enqueue", "orders", "b", *key, dsn=database_dsn)
    again = await headrace("enqueue", "orders", "b", *key, dsn=database_dsn)
    job_id = first.stdout.split()[1]
    assert first.stdout == f"job {job_id} enqueued into orders\n"
    assert again.stdout == f"nothing enqueued into orders: job {job_id} has the key k\n"
    told = await headrace_json("enqueue", "orders", "b", *key, dsn=database_dsn)
    assert told == {"queue": "orders", "enqueued": 0, "ids": [job_id], "duplicates": [job_id], "unknown": []}
    ready, delayed = await headrace_json("jobs", "list", "orders", dsn=database_dsn)
    assert (ready["name"], ready["deduplication_key"]) == ("b", "k")
    assert (delayed["name"], delayed["state"], delayed["group"], delayed["priority"]) == ("a", "delayed", "g", 10)


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (("--payload", "{no json"), 2, "--payload: no JSON"),
        (("--payload", "NaN"), 2, "NaN is no JSON number"),
        (("--payload", "1e999"), 2, "can't be JSON"),
        (("--payload", "[" * 100_000), 2, "nested too deeply"),
        (("--payload", '"\udcff"'), 2, "payload"),
        (("--payload", "1", "--from-file", "-"), 2, "give one of them"),
        (("--from-file", "/no/such/file"), 2, "does not exist"),
        (("--priority", "11"), 2, "priority"),
        (("--priority", "-1"), 2, "priority"),
        (("--count", "0"), 2, "count"),
        (("--delay", "-1"), 2, "delay"),
        (("--delay", "nan"), 2, "no finite number"),
        (("--delay", "1e300"), 2, "delay_seconds"),
        (("--group", ""), 2, "group ''"),
        (("--group", "g" * 129), 2, "1 to 128 characters"),
        (("--deduplication-window", "1h"), 2, "deduplication_key"),
        (("--deduplication-key", "k", "--deduplication-window", "soon"), 2, "write 90s"),
        (("--deduplication-key", "k", "--count", "2"), 2, "for one job"),
        (("--deduplication-key", "k", "--deduplication-window", "999999999d"), 2, "longer than"),
        (("--idempotency-key", ""), 2, "1 to 1024 characters"),
        (("--idempotency-key", "k" * 1025), 2, "1 to 1024 characters"),
        (("--schema", "elsewhere"), 1, "headrace migrate"),
        (("--dsn", "postgresql://me:hidden@127.0.0.1:1/x"), 3, "can't be reached"),
        (("--dsn", "nonsense hidden"), 1, "postgresql://"),
        (("--dsn", "postgresql://me:hidden@127.0.0.1:99999/x"), 1, "postgresql://"),
        (("--dsn", ""), 2, "no connection"),
    ],
)
async def test_what_is_wrong_is_said_in_a_line_with_its_exit_status(
    database_dsn: str, arguments: tuple[str, ...], status: int, complaint: str
) -> None:
    await headrace("migrate", "--queue", "orders", dsn=database_dsn)
    done = await headrace("enqueue", "orders", "resize", *arguments, dsn=database_dsn)
    assert (done.returncode, done.stdout) == (status, "")
    assert complaint in done.stderr
    assert "hidden" not in done.stderr
    assert await received(database_dsn) == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{no json", "no JSON"),
        (b"[NaN]", "NaN is no JSON number"),
        (b'"\xff"', "no UTF-8: byte 0xff at position 2"),
        (b'"' + b"x" * 1024 * 1024 + b'"', "the limit is 1048576; store the data elsewhere"),
    ],
)
@pytest.mark.parametrize("from_file", [True, False])
async def test_a_bad_line_in_a_file_is_named_and_nothing_is_enqueued(
    database_dsn: str, tmp_path: Path, line: bytes, complaint: str, *, from_file: bool
) -> None:
    await headrace("migrate", "--queue", "orders", dsn=database_dsn)
    content = b"1\n" * 1500 + line + b"\n2\n"
    file = tmp_path / "payloads.jsonl"
    file.write_bytes(content)
    done = await headrace(
        "enqueue", "orders", "resize", "--from-file", str(file) if from_file else "-", dsn=database_dsn, stdin=content
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{file if from_file else 'standard input'}, line 1501: " in done.stderr
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert await received(database_dsn) == []


async def test_where_a_batch_fails_what_was_enqueued_before_is_said(database_dsn: str) -> None:
    await headrace("migrate", "--queue", "orders", dsn=database_dsn)
    connection = await asyncpg.connect(database_dsn)
    await connection.execute("ALTER TABLE headrace.jobs ADD CHECK (payload <> '1999')")
    payloads = "\n".join(map(str, range(3000)))
    done = await headrace("enqueue", "orders", "resize", "--from-file", "-", stdin=payloads, dsn=database_dsn)
    assert done.returncode == 1
    assert "the first 1000 of 3000 jobs were enqueued" in done.stderr
    assert await connection.fetchval("SELECT count(*) FROM headrace.jobs") == 1000
    await connection.close()


async def test_a_byte_order_mark_and_carriage_returns_do_no_harm(database_dsn: str) -> None:
    await headrace("migrate", "--queue", "orders", dsn=database_dsn)
    content = b"\xef\xbb\xbf1\r\n\r\n2\r\n"
    done = await headrace("enqueue", "orders", "resize", "--from-file", "-", stdin=content, dsn=database_dsn)
    assert done.stdout == "2 jobs enqueued into orders\n"


async def test_a_schema_newer_than_the_code_is_refused(database_dsn: str) -> None:
    await headrace("migrate", "--queue", "orders", dsn=database_dsn)
    connection = await asyncpg.connect(database_dsn)
    newer = code_version() + 1
    await connection.execute(f"INSERT INTO headrace.migrations VALUES ({newer}, 'later', {newer})")
    await connection.close()
    for arguments in (("enqueue", "orders", "resize"), ("queues", "list"), ("migrate",)):
        done = await headrace(*arguments, dsn=database_dsn)
        assert (done.returncode, done.stdout) == (1, "")
        assert "upgrade this program" in done.stderr


async def test_a_queue_that_does_not_exist_is_said(database_dsn: str) -> None:
    await headrace("migrate", dsn=database_dsn)
    done = await headrace("enqueue", "nowhere", "resize", dsn=database_dsn)
    assert done.returncode == 1
    assert "queue 'nowhere' does not exist" in done.stderr


async def test_the_version_is_told() -> None:
    assert (await headrace("--version")).stdout.startswith("headrace ")


async def test_a_job_is_enqueued_with_headers_and_a_key_for_its_effect(database_dsn: str) -> None:
    await headrace("migrate", "--queue", "orders", dsn=database_dsn)
    options = ("--header", "tenant=a=b", "--idempotency-key", "order 7")
    done = await headrace("enqueue", "orders", "charge", *options, dsn=database_dsn)
    assert done.returncode == 0, done.stderr
    async with PostgresQueue(Place(dsn=database_dsn), "orders") as queue:
        (delivery,) = await queue.receive(1)
    assert delivery.job.headers == {"tenant": "a=b", "idempotency-key": "order 7"}
    refused = await headrace("enqueue", "orders", "charge", "--header", "tenant", dsn=database_dsn)
    assert (refused.returncode, "must be NAME=VALUE" in refused.stderr) == (2, True)
