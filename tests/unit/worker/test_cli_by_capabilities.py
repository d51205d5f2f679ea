"""The command ``headrace`` beside a backend that can't do all: what it lacks is refused before anything is sent."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from headrace import queues
from headrace.cli import main
from headrace.cli.output import count_of, queue_json
from headrace.queues.base import Depth, Enqueued, QueueSettings
from headrace.queues.errors import PartlyEnqueuedError
from headrace.queues.inspection import JobRecord, QueueRecord
from headrace.queues.postgres.capabilities import CAPABILITIES
from support.jobs import job

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from click.testing import Result

    from headrace.job import NewJob
    from headrace.queues.inspection import FilterField, JobFilter, Purge, RecoverStuck, Redrive


class Opened:
    """What was connected to."""

    def __init__(self) -> None:
        self.connections = 0
        self.changes: list[Redrive | Purge] = []
        self.refused_places: frozenset[int] = frozenset()

    async def __aenter__(self) -> Any:
        self.connections += 1
        return self

    async def __aexit__(self, *_: object) -> None: ...


class Broker(Opened):
    """A queue without groups, with small payloads, and batches that are enqueued in parts."""

    capabilities = dataclasses.replace(CAPABILITIES, groups=False, max_payload_bytes=20, atomic_batches=False)

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        failed = {place: "throttled" for place in range(len(jobs)) if place in self.refused_places}
        if failed:
            raise PartlyEnqueuedError({}, failed)
        told = {None: True, "taken": False}
        return [Enqueued(id=str(place), is_new=told.get(job.deduplication_key)) for place, job in enumerate(jobs)]


class BrokersDeadLetters(Opened):
    """All that can be asked of the broker."""

    filters: frozenset[FilterField] = frozenset({"ids"})
    held: frozenset[str] = frozenset({"7", "8"})

    async def letters(self, _queue: str, which: JobFilter, *, limit: int = 100) -> list[JobRecord]:
        asked = self.held if which.ids is None else self.held.intersection(which.ids)
        return [JobRecord(job=job(id=job_id), state="dead", reason="Broken") for job_id in sorted(asked)][:limit]

    async def redrive(self, _queue: str, change: Redrive) -> int:
        self.changes.append(change)
        return 2 if change.which.ids is None else len(self.held.intersection(change.which.ids))

    async def purge(self, _queue: str, change: Purge) -> int:
        self.changes.append(change)
        return 2 if change.which.ids is None else len(self.held.intersection(change.which.ids))


class SlowToRecover(Opened):
    """Takes back nothing before the command has said that it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.has_said = asyncio.Event()

    async def recover_stuck(self, _queue: str, change: RecoverStuck) -> list[str]:
        assert change.older_than_seconds == 3600
        await self.has_said.wait()
        return ["7"]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    opened, module = Broker(), ModuleType("narrow_backend")
    module.open_queue = lambda _url, _queue, **_options: opened  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "narrow_backend", module)
    monkeypatch.setattr(queues, "BACKENDS", {"broker": queues.Backend(module="narrow_backend", example="broker://")})
    return opened


@pytest.fixture
def dead_letters(broker: Broker) -> BrokersDeadLetters:
    assert broker.connections == 0
    opened = BrokersDeadLetters()
    sys.modules["narrow_backend"].open_inspector = lambda _url, **_options: opened  # type: ignore[attr-defined]
    return opened


def headrace(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--dsn", "broker://here"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--group", "g"), "group: this queue's backend has no groups"),
        (
            ("--payload", '"twenty characters and more"'),
            "--payload: payload of 28 bytes: this queue's backend takes 20",
        ),
    ],
)
def test_a_job_that_asks_for_too_much_is_refused_before_anything_is_sent(
    broker: Broker, arguments: tuple[str, ...], complaint: str
) -> None:
    done = headrace("enqueue", "orders", "resize", *arguments)
    assert (done.exit_code, complaint in done.stderr) == (2, True)
    assert broker.connections == 0


def test_a_line_that_is_too_large_is_named_before_anything_is_sent(broker: Broker, tmp_path: Path) -> None:
    file = tmp_path / "payloads.jsonl"
    file.write_text('1\n"twenty characters and more"\n')
    done = headrace("enqueue", "orders", "resize", "--from-file", str(file))
    assert (done.exit_code, "line 2: payload of 28 bytes" in done.stderr) == (2, True)
    assert broker.connections == 0


def test_what_of_a_batch_was_not_enqueued_is_named(broker: Broker) -> None:
    broker.refused_places = frozenset({1, 4})
    done = headrace("enqueue", "orders", "resize", "--count", "5")
    assert done.exit_code == 1
    assert "of 5 jobs were enqueued but for these, counted from 1: 2, 5; then:" in done.stderr
    assert "the first at place 1: throttled" in done.stderr


def test_what_a_backend_has_no_role_for_is_refused_without_a_connection(dead_letters: BrokersDeadLetters) -> None:
    for arguments, complaint in (
        (("queues", "list"), "no list of queues"),
        (("queues", "pause", "orders"), "no way to pause a queue; scale its workers to zero instead"),
        (("jobs", "list", "orders"), "no way to look at single jobs"),
        (("jobs", "cancel", "orders", "1"), "no way to look at single jobs"),
        (("recover-stuck", "--minutes", "1"), "it takes them back by itself"),
    ):
        done = headrace(*arguments)
        assert (done.exit_code, done.stdout) == (1, "")
        assert complaint in done.stderr
    assert dead_letters.connections == 0


@pytest.mark.parametrize("verb", ["redrive", "purge"])
def test_dead_jobs_are_chosen_by_what_their_backend_knows(dead_letters: BrokersDeadLetters, verb: str) -> None:
    for arguments in (
        ("--name", "resize"),
        ("--reason", "Expired"),
        ("--older-than", "1d"),
        ("--id", "1", "--name", "x"),
    ):
        done = headrace("dlq", verb, "orders", *arguments)
        assert done.exit_code == 1
        assert "can't choose dead jobs by it; it knows --all, --id" in done.stderr
    assert dead_letters.changes == []
    assert headrace("dlq", verb, "orders", "--all").stdout.startswith("2 ")
    assert headrace("dlq", verb, "orders", "--id", "7").stdout.startswith("1 ")
    assert [change.which.ids for change in dead_letters.changes] == [None, ("7",)]


def test_dead_jobs_are_looked_at_where_no_others_can_be(dead_letters: BrokersDeadLetters) -> None:
    listed = json.loads(headrace("dlq", "list", "orders", "--output", "json").stdout)
    assert [(record["id"], record["reason"]) for record in listed] == [("7", "Broken"), ("8", "Broken")]
    assert "id:" in headrace("dlq", "show", "orders", "7").stdout
    missing = headrace("dlq", "show", "orders", "9")
    assert (missing.exit_code, missing.stdout) == (1, "")
    assert (
        "the dead-letter queue of orders holds no job 9: if there was one, it was put back or purged" in missing.stderr
    )
    assert dead_letters.connections == 3


def test_of_ids_that_are_asked_for_those_that_are_not_dead_are_named(dead_letters: BrokersDeadLetters) -> None:
    done = headrace("dlq", "redrive", "orders", "--id", "7", "--id", "9", "--rate", "5")
    assert (done.exit_code, done.stdout) == (1, "1 job put back into orders\n")
    assert "holds no job 9" in done.stderr
    assert dead_letters.changes[0].per_second == 5  # type: ignore[union-attr]


def test_who_changes_something_is_told_to_the_backend_with_the_reason(
    dead_letters: BrokersDeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setattr("socket.gethostname", lambda: "laptop")
    headrace("dlq", "purge", "orders", "--all", "--why", "the import was wrong")
    (change,) = dead_letters.changes
    assert (change.by, change.why) == ("ada@laptop", "the import was wrong")


def test_a_user_without_a_name_is_told_by_number(
    dead_letters: BrokersDeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    headrace("dlq", "redrive", "orders", "--all")
    (change,) = dead_letters.changes
    assert change.by.startswith("12345@")


def test_who_waits_for_stuck_jobs_is_told_so(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert broker.connections == 0
    stuck = SlowToRecover()
    sys.modules["narrow_backend"].open_inspector = lambda _url, **_options: stuck  # type: ignore[attr-defined]
    echo = click.echo

    def heard(*arguments: Any, **options: Any) -> None:
        stuck.has_said.set()
        echo(*arguments, **options)

    monkeypatch.setattr("headrace.cli.recover._TOLD_EVERY_SECONDS", 0.01)
    monkeypatch.setattr("click.echo", heard)
    done = headrace("recover-stuck", "--minutes", "60", "--queue", "orders", "--output", "json")
    assert (done.exit_code, done.stdout) == (0, '[{"queue": "orders", "id": "7"}]\n')
    assert "orders: waiting for signs of life of its workers" in done.stderr


def test_what_a_backend_does_not_tell_of_a_key_is_said_to_be_unknown(broker: Broker) -> None:
    arguments = ("enqueue", "orders", "resize", "--deduplication-key", "silent")
    assert headrace(*arguments).stdout == "job 0 with the key silent is in orders; whether it is new is unknown\n"
    assert json.loads(headrace(*arguments, "--output", "json").stdout) == {
        "queue": "orders",
        "enqueued": 0,
        "ids": ["0"],
        "duplicates": [],
        "unknown": ["0"],
    }
    assert broker.connections == 2


def test_a_count_says_whether_there_are_more_and_whether_it_is_about_so_many() -> None:
    assert count_of(12, Depth()) == "12"
    assert count_of(12, Depth(is_lower_bound=True)) == "12+"
    assert count_of(12, Depth(is_approximate=True)) == "~12"
    assert count_of(0, Depth(is_lower_bound=True, is_approximate=True)) == "~0"


def test_what_a_backend_can_not_tell_is_null_for_programs() -> None:
    record = QueueRecord(
        name="orders",
        settings=QueueSettings(),
        depth=Depth(ready=3),
        unknown=frozenset({"oldest_ready_age_seconds", "max_retries"}),
    )
    shown = queue_json(record)
    assert (shown["ready"], shown["oldest_ready_age_seconds"], shown["max_retries"]) == (3, None, None)


def test_a_job_whose_key_is_taken_is_said_to_be_no_new_one(broker: Broker) -> None:
    done = headrace("enqueue", "orders", "resize", "--deduplication-key", "taken")
    assert done.stdout == "nothing enqueued into orders: job 0 has the key taken\n"
    assert headrace("enqueue", "orders", "resize").stdout == "job 0 enqueued into orders\n"
    assert headrace("enqueue", "orders", "resize", "--count", "2").stdout == "2 jobs enqueued into orders\n"
    assert broker.connections == 3
