"""``headrace dlq``: the dead-letter queue; what is in it, and what becomes of it."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.common import EXIT_FAILED
from headrace.cli.connection import Connection, with_connection
from headrace.cli.jobs import print_job, why_missing, why_not_retried
from headrace.cli.options import Asked, Duration, FiniteRange, block, change_options, output_option
from headrace.cli.output import ago, counted, job_json, print_json, print_table
from headrace.queues.errors import UnsupportedCapabilityError
from headrace.queues.inspection import DeadLetters, FilterField, JobFilter, Jobs, Purge, Redrive

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from headrace.queues.inspection import JobRecord

_EVERY_JOB = JobFilter()
_OPTIONS: dict[FilterField, str] = {
    "ids": "--id",
    "name": "--name",
    "reason": "--reason",
    "older_than_seconds": "--older-than",
}


@click.group(short_help="Look at dead jobs; put them back; remove them.")
def dlq() -> None:
    """Look at dead jobs (the dead-letter queue); put them back, or remove them.

    Dead are jobs that are out of attempts, that their handler gave up, that expired, or that three workers died of.
    """


def _with_filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The filters, passed on as a `JobFilter`: ``which``."""

    @click.option("--id", "ids", multiple=True, help="This job; can be given several times.")
    @click.option("--name", help="Jobs of this name.")
    @click.option("--reason", help="Jobs that died of this, such as RetriesExhausted, Expired, WorkerLost.")
    @click.option("--older-than", type=Duration(), help="Jobs that died so long ago: 90s, 15m, 3d.")
    @functools.wraps(command)
    def wrapped(
        *args: Any, ids: tuple[str, ...], name: str | None, reason: str | None, older_than: float | None, **kwargs: Any
    ) -> Any:
        which = JobFilter(ids=ids or None, name=name, reason=reason, older_than_seconds=older_than)
        return command(*args, which=which, **kwargs)

    return wrapped


def _with_all(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--all``, without which all is never meant."""

    @click.option("--all", "everything", is_flag=True, help="All dead jobs of the queue.")
    @functools.wraps(command)
    def wrapped(*args: Any, which: JobFilter, everything: bool, **kwargs: Any) -> Any:
        if everything != (which == _EVERY_JOB):
            raise click.UsageError(
                "say which jobs: by --id, --name, --reason, --older-than, or all of them by --all alone"
            )
        return command(*args, which=which, **kwargs)

    return wrapped


@dlq.command(
    "list",
    epilog=block(
        "Example",
        "headrace dlq list thumbnails",
        "headrace dlq list thumbnails --name resize --reason RetriesExhausted --older-than 1d",
    ),
)
@click.argument("queue")
@_with_filters
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@output_option
@with_connection
def list_dead(queue: str, which: JobFilter, limit: int, connection: Connection, *, as_json: bool) -> None:
    """List dead jobs of QUEUE, the newest first. All conditions must hold.

    SQS has no order: of a queue there, the first that are found are listed, the newest of them first. While it looks
    they are hidden from others: seconds, as a rule.
    """
    records = connection.ask(DeadLetters, lambda dead: dead.letters(queue, which, limit=limit), queue=queue)
    if as_json:
        print_json([job_json(record) for record in records])
    else:
        print_table(
            ["ID", "NAME", "REASON", "ATTEMPTS", "DIED", "ERROR"],
            [
                (
                    record.job.id,
                    record.job.name,
                    record.reason,
                    record.job.attempt,
                    ago(record.ended_at),
                    record.failures[-1].failure.error if record.failures else "",
                )
                for record in records
            ],
        )
    if len(records) == limit:
        click.echo(f"headrace: the first {limit}; --limit shows more", err=True)


@dlq.command(epilog=block("Example", "headrace dlq show thumbnails 4711"))
@click.argument("queue")
@click.argument("job_id", metavar="ID")
@output_option
@with_connection
def show(queue: str, job_id: str, connection: Connection, *, as_json: bool) -> None:
    """Show a dead job of QUEUE with its payload, its errors and the last traceback."""

    async def find(dead_letters: DeadLetters) -> JobRecord | str:
        for record in await dead_letters.letters(queue, JobFilter(ids=(job_id,)), limit=1):
            return record
        return await _why_not_dead(dead_letters, queue, job_id)

    print_job(connection.ask(DeadLetters, find, queue=queue), as_json=as_json)


@dlq.command(
    epilog=block(
        "Example",
        "headrace dlq redrive thumbnails --id 4711 --id 4712",
        "headrace dlq redrive thumbnails --reason RetriesExhausted --older-than 1h",
        "headrace dlq redrive thumbnails --all --rate 50",
    )
)
@click.argument("queue")
@_with_filters
@_with_all
@click.option("--rate", type=FiniteRange(min=0, min_open=True), help="At most so many a second. Defaults to no limit.")
@change_options
@output_option
@with_connection
def redrive(
    queue: str, which: JobFilter, rate: float | None, connection: Connection, asked: Asked, *, as_json: bool
) -> None:
    """Put dead jobs back into QUEUE, under their ids and with all attempts before them. All conditions must hold.

    A job whose deduplication key another job has by now stays dead. In batches: what is put back starts while the rest
    follows. Broken off, it can be run again: what was put back is dead no more.
    """
    change = Redrive(which=which, per_second=rate, **asked)
    done, left_out = _change(queue, which, connection, lambda dead: dead.redrive(queue, change))
    _report("redriven", f"{counted(done, 'job')} put back into {queue}", done, left_out, as_json=as_json)


@dlq.command(
    epilog=block(
        "Example", "headrace dlq purge thumbnails --older-than 7d", "headrace dlq purge thumbnails --all --yes"
    )
)
@click.argument("queue")
@_with_filters
@_with_all
@click.option("--yes", is_flag=True, help="Don't ask, on a terminal.")
@change_options
@output_option
@with_connection
def purge(queue: str, which: JobFilter, connection: Connection, asked: Asked, *, yes: bool, as_json: bool) -> None:
    """Remove dead jobs of QUEUE for good. All conditions must hold."""
    if not yes and sys.stdin.isatty():
        meant = "all dead jobs" if which == _EVERY_JOB else "these dead jobs"
        click.confirm(f"Remove {meant} of {queue} for good?", abort=True, err=True)

    done, left_out = _change(queue, which, connection, lambda dead: dead.purge(queue, Purge(which=which, **asked)))
    _report("purged", f"{counted(done, 'dead job')} of {queue} removed", done, left_out, as_json=as_json)


def _change(
    queue: str, which: JobFilter, connection: Connection, change: Callable[[DeadLetters], Awaitable[int]]
) -> tuple[int, list[tuple[str, str]]]:
    """Do it; returns how many jobs were changed, and of those asked for by id which were not, and why."""

    async def apply(dead_letters: DeadLetters) -> tuple[int, list[tuple[str, str]]]:
        _refuse_filters(which, dead_letters.filters)
        ids = tuple(dict.fromkeys(which.ids or ()))
        meant = await _dead(dead_letters, queue, which) if ids else set()
        done = await change(dead_letters)
        absent = tuple(job_id for job_id in ids if job_id not in meant)
        others = JobFilter(ids=absent)
        # A look may cost as much as the change: each is one for all.
        unmet = await _dead(dead_letters, queue, others) if absent and which != JobFilter(ids=which.ids) else set()
        left = await _dead(dead_letters, queue, JobFilter(ids=tuple(meant))) if done < len(meant) else set()
        left_out = []
        for job_id in ids:
            if job_id in unmet:
                left_out.append((job_id, f"job {job_id} of queue {queue} is dead, but the other conditions don't hold"))
            elif job_id in absent:
                left_out.append((job_id, await _why_not_dead(dead_letters, queue, job_id)))
            elif job_id in left:
                left_out.append((job_id, await _why_not_changed(dead_letters, queue, job_id)))
        return done, left_out

    return connection.ask(DeadLetters, apply, queue=queue)


def _refuse_filters(which: JobFilter, known: frozenset[FilterField]) -> None:
    """Raise where dead jobs are to be chosen by what their backend can't look for."""
    for field, option in _OPTIONS.items():
        if getattr(which, field) is not None and field not in known:
            ways = ["--all", *(other for other_field, other in _OPTIONS.items() if other_field in known)]
            raise UnsupportedCapabilityError(
                f"{option}: this queue's backend can't choose dead jobs by it; it knows {', '.join(ways)}"
            )


async def _dead(dead_letters: DeadLetters, queue: str, which: JobFilter) -> set[str]:
    """Which of the jobs that are asked for by id are dead."""
    records = await dead_letters.letters(queue, which, limit=len(which.ids or ()))
    return {record.job.id for record in records}


async def _why_not_dead(dead_letters: DeadLetters, queue: str, job_id: str) -> str:
    if not isinstance(dead_letters, Jobs):
        return (
            f"the dead-letter queue of {queue} holds no job {job_id}: if there was one, it was put back or purged, or "
            "it waits, runs or is finished, which this queue's backend can't tell of single jobs"
        )
    jobs: Jobs = dead_letters
    record = await jobs.job(queue, job_id)
    if record is None:
        return await why_missing(jobs, queue, job_id)
    return f"job {job_id} of queue {queue} is not dead: it is {record.state}"


async def _why_not_changed(dead_letters: DeadLetters, queue: str, job_id: str) -> str:
    if isinstance(dead_letters, Jobs):
        return await why_not_retried(dead_letters, queue, job_id)
    return f"job {job_id} of queue {queue} stays dead: somebody else looks at it just now; try again"


def _report(what: str, sentence: str, done: int, left_out: list[tuple[str, str]], *, as_json: bool) -> None:
    """What was done; a failure where a job that was asked for by id was left out."""
    if as_json:
        print_json({what: done, "left_out": [{"id": job_id, "message": why} for job_id, why in left_out]})
    else:
        click.echo(sentence)
        for _, why in left_out:
            click.echo(f"headrace: {why}", err=True)
    if left_out:
        sys.exit(EXIT_FAILED)
