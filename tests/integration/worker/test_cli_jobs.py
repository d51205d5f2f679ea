"""Looking after queues from a shell: ``headrace queues``, ``jobs``, ``dlq`` and ``recover-stuck``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import asyncpg
import pytest

from headrace.job import NewJob, new_job
from headrace.queues.base import Owner, Progress, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from support.shell import headrace, headrace_json
from support.verbs import complete, dead_letter, enqueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OWNER = Owner(namespace="shop", name="orders", uid="1")


@pytest.fixture
async def queue(database_dsn: str) -> AsyncIterator[PostgresQueue]:
    place = Place(dsn=database_dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(), OWNER)
    async with PostgresQueue(place, "orders", holder="worker-1") as opened:
        yield opened


async def kill(queue: PostgresQueue, *jobs: NewJob, reason: str = "Broken") -> list[str]:
    ids = await enqueue(queue, jobs)
    while deliveries := await queue.receive(100):
        for delivery in deliveries:
            await dead_letter(queue, delivery, reason=reason, error="disk on fire", traceback="Traceback: in resize()")
    return ids


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(statement)
    await connection.close()


class TestQueues:
    async def test_they_are_listed_with_what_they_hold(self, queue: PostgresQueue, database_dsn: str) -> None:
        grouped = [NewJob(group="g"), NewJob(group="g"), NewJob(group="g")]
        await queue.enqueue([NewJob(), *grouped, NewJob(delay_seconds=60)])
        await queue.receive(1)
        done = await headrace("queues", "list", dsn=database_dsn)
        head, row = done.stdout.splitlines()
        assert head.split("  ")[0] == "NAME"
        assert row.split() == ["orders", "1", "2", "1", "1", "0", row.split()[6], "shop/orders"]
        (record,) = await headrace_json("queues", "list", dsn=database_dsn)
        counted = ("ready", "blocked", "delayed", "in_flight", "dead_lettered")
        assert (record["name"], *(record[what] for what in counted)) == ("orders", 1, 2, 1, 1, 0)
        assert record["totals"]["arrived"] == 5
        assert record["owner"] == {"namespace": "shop", "name": "orders"}

    async def test_a_paused_queue_gives_nothing_until_it_is_resumed(
        self, queue: PostgresQueue, database_dsn: str
    ) -> None:
        await queue.enqueue([NewJob()])
        assert (await headrace("queues", "pause", "orders", dsn=database_dsn)).stdout == "orders is paused\n"
        assert await queue.receive(1) == []
        (record,) = await headrace_json("queues", "list", dsn=database_dsn)
        assert (record["paused"], record["paused_by_hand"]) == (True, True)
        assert (await headrace("queues", "resume", "orders", dsn=database_dsn)).stdout == "orders is running\n"
        assert len(await queue.receive(1, wait_seconds=2)) == 1

    @pytest.mark.usefixtures("queue")
    async def test_who_resumes_what_its_owner_has_paused_is_told(self, database_dsn: str) -> None:
        await PostgresProvisioner(Place(dsn=database_dsn)).ensure("orders", QueueSettings(paused=True), OWNER)
        done = await headrace("queues", "resume", "orders", dsn=database_dsn)
        assert "still paused by its JobQueue" in done.stdout


class TestJobs:
    async def test_they_are_listed_in_the_order_in_which_they_would_start(
        self, queue: PostgresQueue, database_dsn: str
    ) -> None:
        await queue.enqueue([new_job("late", delay_seconds=7300), new_job("second"), new_job("first", priority=2)])
        done = await headrace("jobs", "list", "orders", dsn=database_dsn)
        head, *rows = done.stdout.splitlines()
        assert head.split()[:5] == ["ID", "NAME", "STATE", "PRIORITY", "ATTEMPT"]
        assert [row.split()[1:3] for row in rows] == [["first", "ready"], ["second", "ready"], ["late", "delayed"]]
        assert "in 2h1m" in rows[-1]
        limited = await headrace("jobs", "list", "orders", "--limit", "1", dsn=database_dsn)
        assert "the first 1; --limit shows more" in limited.stderr
        assert [
            job["name"] for job in await headrace_json("jobs", "list", "orders", "--name", "late", dsn=database_dsn)
        ] == ["late"]
        assert await headrace_json("jobs", "list", "orders", "--older-than", "1h", dsn=database_dsn) == []
        assert await headrace_json("jobs", "list", "orders", "--state", "running", dsn=database_dsn) == []

    async def test_one_is_shown_whole(self, queue: PostgresQueue, database_dsn: str) -> None:
        (job_id,) = await kill(queue, new_job("resize", {"picture": 17}, headers={"trace": "00"}, group="g"))
        done = await headrace("jobs", "show", "orders", job_id, dsn=database_dsn)
        for line in ("state:", "dead", "Broken", '{"picture":17}', "header trace:", "disk on fire", "in resize()"):
            assert line in done.stdout
        shown = await headrace_json("jobs", "show", "orders", job_id, dsn=database_dsn)
        assert (shown["payload"], shown["headers"], shown["reason"]) == ({"picture": 17}, {"trace": "00"}, "Broken")
        assert [failure["error"] for failure in shown["failures"]] == ["disk on fire"]

    async def test_how_far_a_running_one_is_is_shown(self, queue: PostgresQueue, database_dsn: str) -> None:
        (job_id,) = await enqueue(queue, [NewJob()])
        await queue.keep_alive()
        (delivery,) = await queue.receive(1)
        await queue.report_progress([(delivery, Progress(fraction=0.4, message="page 2 of 5"))])
        assert "40%, page 2 of 5" in (await headrace("jobs", "show", "orders", job_id, dsn=database_dsn)).stdout
        shown = await headrace_json("jobs", "show", "orders", job_id, dsn=database_dsn)
        assert shown["progress"] == {"fraction": 0.4, "message": "page 2 of 5"}

    async def test_bytes_and_what_would_steer_a_terminal_are_shown_harmless(
        self, queue: PostgresQueue, database_dsn: str
    ) -> None:
        first, second = await enqueue(queue, [new_job("raw", b"\xff\x00"), new_job("text", b"\x1b[31mred")])
        assert (await headrace_json("jobs", "show", "orders", first, dsn=database_dsn))["payload_base64"] == "/wA="
        assert "2 bytes" in (await headrace("jobs", "show", "orders", first, dsn=database_dsn)).stdout
        assert "\x1b" not in (await headrace("jobs", "show", "orders", second, dsn=database_dsn)).stdout

    async def test_whatever_payloads_hold_what_is_printed_is_json(
        self, queue: PostgresQueue, database_dsn: str
    ) -> None:
        await queue.enqueue([NewJob(payload=payload) for payload in (b'["\\ud800", "\xc3\xa9"]', b"1e999", b"NaN")])
        half, infinite, none = await headrace_json("jobs", "list", "orders", dsn=database_dsn)
        assert half["payload"] == ["\ud800", "é"]
        assert (infinite["payload_base64"], none["payload_base64"]) == ("MWU5OTk=", "TmFO")

    async def test_a_finished_job_is_said_to_be_unknown_without_a_history(
        self, queue: PostgresQueue, database_dsn: str
    ) -> None:
        (job_id,) = await enqueue(queue, [NewJob()])
        await complete(queue, await queue.receive(1))
        done = await headrace("jobs", "show", "orders", job_id, dsn=database_dsn)
        assert (done.returncode, done.stdout) == (1, "")
        assert "keeps no history of finished jobs (completedRetentionSeconds)" in done.stderr
        settings = QueueSettings(completed_retention_seconds=7200)
        await PostgresProvisioner(Place(dsn=database_dsn)).ensure("orders", settings, OWNER)
        assert "finished more than 2h ago" in (await headrace("jobs", "show", "orders", "99", dsn=database_dsn)).stderr

    @pytest.mark.usefixtures("queue")
    @pytest.mark.parametrize("job_id", ["none", "-1", "\N{SUPERSCRIPT TWO}", str(2**63), "9" * 5000])
    async def test_what_can_be_no_id_is_the_id_of_none(self, database_dsn: str, job_id: str) -> None:
        done = await headrace("jobs", "show", "orders", "--", job_id, dsn=database_dsn)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"holds no job {job_id}:" in done.stderr

    async def test_they_are_cancelled_at_once_or_by_their_worker(self, queue: PostgresQueue, database_dsn: str) -> None:
        running, waiting = await enqueue(queue, [NewJob(), NewJob()])
        await queue.receive(1)
        done = await headrace("jobs", "cancel", "orders", waiting, running, "999", dsn=database_dsn)
        assert done.returncode == 1
        assert done.stdout == f"{waiting}: cancelled\n{running}: its worker is told to stop it\n"
        assert "holds no job 999" in done.stderr
        done = await headrace("jobs", "cancel", "orders", running, "--output", "json", dsn=database_dsn)
        assert [outcome["outcome"] for outcome in json.loads(done.stdout)] == ["requested"]

    async def test_delayed_and_dead_ones_are_tried_now(self, queue: PostgresQueue, database_dsn: str) -> None:
        (dead,) = await kill(queue, new_job("dead"))
        delayed, ready = await enqueue(queue, [new_job("delayed", delay_seconds=60), new_job("ready")])
        assert (await headrace("jobs", "retry", "orders", dead, delayed, dsn=database_dsn)).returncode == 0
        refused = await headrace("jobs", "retry", "orders", ready, dsn=database_dsn)
        assert (refused.returncode, "is ready: only delayed and dead jobs" in refused.stderr) == (1, True)
        await asyncio.sleep(0.6)
        assert {delivery.job.name for delivery in await queue.receive(10)} == {"dead", "delayed", "ready"}

    @pytest.mark.usefixtures("queue")
    async def test_nothing_is_found_in_a_queue_that_does_not_exist(self, database_dsn: str) -> None:
        for arguments in (
            ("queues", "pause", "nowhere"),
            ("jobs", "list", "nowhere"),
            ("jobs", "show", "nowhere", "1"),
            ("jobs", "cancel", "nowhere", "1"),
            ("jobs", "retry", "nowhere", "1"),
            ("dlq", "list", "nowhere"),
            ("dlq", "redrive", "nowhere", "--all"),
            ("dlq", "purge", "nowhere", "--all"),
            ("recover-stuck", "--minutes", "1", "--queue", "nowhere"),
        ):
            done = await headrace(*arguments, dsn=database_dsn)
            assert (done.returncode, done.stdout) == (1, "")
            assert "queue 'nowhere' does not exist" in done.stderr


class TestDeadLetterQueue:
    async def test_it_is_listed_newest_first_by_any_filter(self, queue: PostgresQueue, database_dsn: str) -> None:
        await kill(queue, new_job("old"))
        await execute(database_dsn, "UPDATE headrace.dead_jobs SET dead_at = now() - interval '4 days'")
        (job_id,) = await kill(queue, new_job("new"), reason="Expired")
        head, *rows = (await headrace("dlq", "list", "orders", dsn=database_dsn)).stdout.splitlines()
        assert head.split() == ["ID", "NAME", "REASON", "ATTEMPTS", "DIED", "ERROR"]
        assert [row.split()[1] for row in rows] == ["new", "old"]
        assert re.search(r" 4d\S* ago  disk on fire$", rows[1])

        for arguments, name in (
            (("--older-than", "3d"), "old"),
            (("--reason", "Expired"), "new"),
            (("--name", "old", "--reason", "Broken"), "old"),
            (("--id", job_id), "new"),
        ):
            found = await headrace_json("dlq", "list", "orders", *arguments, dsn=database_dsn)
            assert [job["name"] for job in found] == [name]

    async def test_one_is_shown_if_it_is_dead(self, queue: PostgresQueue, database_dsn: str) -> None:
        (dead,) = await kill(queue, NewJob())
        (ready,) = await enqueue(queue, [NewJob()])
        assert (await headrace_json("dlq", "show", "orders", dead, dsn=database_dsn))["state"] == "dead"
        done = await headrace("dlq", "show", "orders", ready, dsn=database_dsn)
        assert (done.returncode, "is not dead: it is ready" in done.stderr) == (1, True)

    @pytest.mark.parametrize("verb", ["redrive", "purge"])
    async def test_all_is_never_meant_unless_it_is_said(
        self, queue: PostgresQueue, database_dsn: str, verb: str
    ) -> None:
        await kill(queue, NewJob(), NewJob())
        for arguments in ((), ("--all", "--name", "x")):
            done = await headrace("dlq", verb, "orders", *arguments, dsn=database_dsn)
            assert (done.returncode, "--all alone" in done.stderr) == (2, True)
        assert len(await headrace_json("dlq", "list", "orders", dsn=database_dsn)) == 2
        done = await headrace("dlq", verb, "orders", "--all", dsn=database_dsn)
        assert (done.returncode, done.stdout.split()[0]) == (0, "2")
        assert await headrace_json("dlq", "list", "orders", dsn=database_dsn) == []

    async def test_what_is_redriven_starts_again(self, queue: PostgresQueue, database_dsn: str) -> None:
        (job_id,) = await kill(queue, new_job("resize"))
        await kill(queue, new_job("other"))
        done = await headrace("dlq", "redrive", "orders", "--name", "resize", dsn=database_dsn)
        assert done.stdout == "1 job put back into orders\n"
        (delivery,) = await queue.receive(10, wait_seconds=2)
        assert (delivery.job.id, delivery.job.attempt) == (job_id, 1)
        assert (await headrace("dlq", "redrive", "orders", "--name", "resize", dsn=database_dsn)).returncode == 0

    async def test_ids_that_can_not_be_redriven_are_a_failure_and_named(
        self, queue: PostgresQueue, database_dsn: str
    ) -> None:
        (fine,) = await kill(queue, NewJob())
        (keyed,) = await kill(queue, new_job("keyed", deduplication_key="k"))
        (ready,) = await enqueue(queue, [new_job("has the key", deduplication_key="k")])
        ids = [word for job_id in (fine, keyed, ready, "999") for word in ("--id", job_id)]
        done = await headrace("dlq", "redrive", "orders", *ids, dsn=database_dsn)
        assert (done.returncode, done.stdout) == (1, "1 job put back into orders\n")
        complaints = done.stderr.splitlines()
        assert f"job {keyed} of queue orders stays dead: another job has its deduplication key 'k'" in complaints[0]
        assert f"job {ready} of queue orders is not dead: it is ready" in complaints[1]
        assert "holds no job 999" in complaints[2]

    async def test_purge_asks_on_a_terminal(self, queue: PostgresQueue, database_dsn: str) -> None:
        await kill(queue, NewJob())
        purge = ["dlq", "purge", "orders", "--all"]
        assert "for good?" in await on_a_terminal(purge, answer=b"n\n", dsn=database_dsn)
        assert len(await headrace_json("dlq", "list", "orders", dsn=database_dsn)) == 1
        assert "1 dead job of orders removed" in await on_a_terminal(purge, answer=b"y\n", dsn=database_dsn)
        assert "for good?" not in await on_a_terminal([*purge, "--yes"], answer=b"", dsn=database_dsn)


async def on_a_terminal(arguments: list[str], *, answer: bytes, dsn: str) -> str:
    """What stands on a terminal after the command and this answer."""

    def run() -> str:
        terminal, other_end = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace", *arguments],
            stdin=other_end,
            stdout=other_end,
            stderr=other_end,
            env={**os.environ, "HEADRACE_DSN": dsn},
        )
        os.close(other_end)
        os.write(terminal, answer)
        shown = b""
        with contextlib.suppress(OSError):  # Nobody is at the other end any more.
            while True:
                shown += os.read(terminal, 1000)
        os.close(terminal)
        process.wait()
        return shown.decode()

    return await asyncio.to_thread(run)


class TestRecoverStuck:
    async def test_what_lost_workers_hold_goes_back(self, queue: PostgresQueue, database_dsn: str) -> None:
        await execute(
            database_dsn, "UPDATE headrace.watches SET since = now() - interval '20 seconds', seen_at = now()"
        )
        (job_id,) = await enqueue(queue, [new_job("lost")])
        await queue.receive(1)
        await execute(database_dsn, "UPDATE headrace.claims SET claimed_at = now() - interval '2 hours'")
        assert await headrace_json("recover-stuck", "--minutes", "60", dsn=database_dsn) == [], "its lease runs"
        await execute(database_dsn, "UPDATE headrace.leases SET expires_at = now()")
        assert await headrace_json("recover-stuck", "--minutes", "180", dsn=database_dsn) == []
        assert await headrace_json("recover-stuck", "--minutes", "60", dsn=database_dsn) == [
            {"queue": "orders", "id": job_id}
        ]
        done = await headrace("recover-stuck", "--minutes", "0", "--queue", "orders", dsn=database_dsn)
        assert done.stdout == "0 jobs put back\n"

    @pytest.mark.parametrize("minutes", ["-1", "nan", "soon", "1e300"])
    async def test_a_time_that_is_none_is_refused(self, minutes: str) -> None:
        assert (await headrace("recover-stuck", "--minutes", minutes)).returncode == 2
