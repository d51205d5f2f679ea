"""``headrace jobs``: look at jobs, cancel them, and try them again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, get_args

import click

from headrace.cli.common import EXIT_FAILED
from headrace.cli.connection import Connection, with_connection
from headrace.cli.options import Asked, Duration, block, change_options, output_option
from headrace.cli.output import age, ago, job_json, payload_text, print_fields, print_json, print_table, printable
from headrace.queues.inspection import Cancel, JobFilter, Jobs, JobState, Queues, RetryNow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.queues.base import Progress
    from headrace.queues.inspection import JobRecord


@click.group()
def jobs() -> None:
    """Look at jobs; cancel them; try them again now."""


@jobs.command(
    "list",
    epilog=block(
        "States",
        "ready      could start now",
        "running    a worker holds it",
        "delayed    its time has not come",
        "blocked    behind the head of its group",
        "suspect    two workers were lost with it: it starts alone",
        "dead       given up: see `headrace dlq`",
        "completed  known where the queue keeps a history",
        "cancelled  likewise",
    )
    + block(
        "Example", "headrace jobs list thumbnails", "headrace jobs list thumbnails --state running --older-than 1h"
    ),
)
@click.argument("queue")
@click.option("--id", "ids", multiple=True, help="Only this job; can be given several times.")
@click.option(
    "--state", type=click.Choice(get_args(JobState)), help="Only jobs in this state. Defaults to all but dead."
)
@click.option("--name", help="Only jobs of this name.")
@click.option("--older-than", type=Duration(), help="Only jobs enqueued (or ended) so long ago: 90s, 15m, 3d.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@output_option
@with_connection
def list_jobs(
    queue: str,
    ids: tuple[str, ...],
    state: JobState | None,
    name: str | None,
    older_than: float | None,
    limit: int,
    connection: Connection,
    *,
    as_json: bool,
) -> None:
    """List jobs of QUEUE: in the order in which they would start, then those that wait, then those that ended."""
    which = JobFilter(ids=ids or None, state=state, name=name, older_than_seconds=older_than)
    records = connection.ask(Jobs, lambda jobs: jobs.jobs(queue, which, limit=limit), queue=queue)
    print_jobs(records, limit, as_json=as_json)


@jobs.command(epilog=block("Example", "headrace jobs show thumbnails 4711"))
@click.argument("queue")
@click.argument("job_id", metavar="ID")
@output_option
@with_connection
def show(queue: str, job_id: str, connection: Connection, *, as_json: bool) -> None:
    """Show one job of QUEUE, wherever it stands, with its payload and its failed attempts."""

    async def find(jobs: Jobs) -> JobRecord | str:
        return await jobs.job(queue, job_id) or await why_missing(jobs, queue, job_id)

    print_job(connection.ask(Jobs, find, queue=queue), as_json=as_json)


@jobs.command(epilog=block("Example", "headrace jobs cancel thumbnails 4711 4712"))
@click.argument("queue")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@change_options
@output_option
@with_connection
def cancel(queue: str, ids: tuple[str, ...], connection: Connection, asked: Asked, *, as_json: bool) -> None:
    """Cancel jobs of QUEUE: at once, or, where a worker runs them, within seconds.

    A running job is told to stop; one that finishes first is finished.
    """

    async def apply(jobs: Jobs) -> list[tuple[str, str, str]]:
        outcomes: list[tuple[str, str, str]] = []
        for job_id in ids:
            outcome = await jobs.cancel(queue, Cancel(job_id=job_id, **asked))
            words = {"cancelled": "cancelled", "requested": "its worker is told to stop it"}.get(outcome or "")
            outcomes.append((job_id, outcome or "not found", words or await why_missing(jobs, queue, job_id)))
        return outcomes

    _print_outcomes(connection.ask(Jobs, apply, queue=queue), failure="not found", as_json=as_json)


@jobs.command(epilog=block("Example", "headrace jobs retry thumbnails 4711"))
@click.argument("queue")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@change_options
@output_option
@with_connection
def retry(queue: str, ids: tuple[str, ...], connection: Connection, asked: Asked, *, as_json: bool) -> None:
    """Let jobs of QUEUE start now: delayed ones (a waiting retry among them), and dead ones, with all attempts anew."""

    async def apply(jobs: Jobs) -> list[tuple[str, str, str]]:
        outcomes: list[tuple[str, str, str]] = []
        for job_id in ids:
            if await jobs.retry_now(queue, RetryNow(job_id=job_id, **asked)):
                outcomes.append((job_id, "retried", "due now"))
            else:
                outcomes.append((job_id, "not retried", await why_not_retried(jobs, queue, job_id)))
        return outcomes

    _print_outcomes(connection.ask(Jobs, apply, queue=queue), failure="not retried", as_json=as_json)


def print_jobs(records: Sequence[JobRecord], limit: int, *, as_json: bool) -> None:
    """A list of jobs."""
    if as_json:
        print_json([job_json(record) for record in records])
    else:
        print_table(
            ["ID", "NAME", "STATE", "PRIORITY", "ATTEMPT", "ENQUEUED", "DUE OR ENDED", "GROUP", "WORKER"],
            [
                (
                    record.job.id,
                    record.job.name,
                    record.state,
                    record.job.priority,
                    record.job.attempt,
                    ago(record.job.enqueued_at),
                    ago(record.ended_at or record.job.run_at),
                    record.job.group,
                    record.holder,
                )
                for record in records
            ],
        )
    if len(records) == limit:
        click.echo(f"headrace: the first {limit}; --limit shows more", err=True)


def print_job(found: JobRecord | str, *, as_json: bool) -> None:
    """A whole job; or why there is none, as a failure."""
    if isinstance(found, str):
        click.echo(f"headrace: {found}", err=True)
        sys.exit(EXIT_FAILED)
    if as_json:
        print_json(job_json(found))
        return
    job = found.job
    print_fields(
        [
            ("id", job.id),
            ("name", job.name),
            ("queue", job.queue),
            ("state", found.state),
            ("reason", found.reason),
            ("worker", found.holder),
            ("progress", found.progress and _progress_text(found.progress)),
            ("priority", job.priority),
            ("attempt", job.attempt),
            ("group", job.group),
            ("deduplication key", job.deduplication_key),
            ("fairness key", job.fairness_key),
            ("enqueued", f"{job.enqueued_at.isoformat()} ({ago(job.enqueued_at)})"),
            ("due", f"{job.run_at.isoformat()} ({ago(job.run_at)})"),
            ("expires", job.expires_at and f"{job.expires_at.isoformat()} ({ago(job.expires_at)})"),
            ("ended", found.ended_at and f"{found.ended_at.isoformat()} ({ago(found.ended_at)})"),
            ("content type", job.content_type),
            *((f"header {name}", value) for name, value in job.headers.items()),
            ("payload", payload_text(job)),
        ]
    )
    for failed in found.failures:
        click.echo(f"attempt {failed.attempt} failed at {failed.at.isoformat()}: {printable(failed.failure.error)}")
        if failed.failure.traceback:
            click.echo(printable(failed.failure.traceback))


def _progress_text(progress: Progress) -> str:
    parts = ["" if progress.fraction is None else f"{progress.fraction:.0%}", progress.message]
    return ", ".join(part for part in parts if part)


def _print_outcomes(outcomes: Sequence[tuple[str, str, str]], *, failure: str, as_json: bool) -> None:
    """One line a job; a failure where any has failed."""
    failed = False
    for job_id, outcome, words in outcomes:
        failed = failed or outcome == failure
        if not as_json:
            line = f"headrace: {words}" if outcome == failure else f"{printable(job_id)}: {words}"
            click.echo(line, err=outcome == failure)
    if as_json:
        print_json([{"id": job_id, "outcome": outcome, "message": words} for job_id, outcome, words in outcomes])
    if failed:
        sys.exit(EXIT_FAILED)


async def why_missing(jobs: Jobs, queue: str, job_id: str) -> str:
    """Why a job can't be cancelled or shown."""
    record = await jobs.job(queue, job_id)
    if record is not None:
        return f"job {job_id} of queue {queue} is {record.state} already"
    missing = f"queue {queue} holds no job {job_id}"
    if not isinstance(jobs, Queues):
        return f"{missing}: if there was one, it is finished, or purged"
    history = (await jobs.queue(queue)).settings.completed_retention_seconds
    if history > 0:
        return f"{missing}: if there was one, it was purged, or finished more than {age(history)} ago"
    return (
        f"{missing}: if there was one, it is finished, or purged. "
        "This queue keeps no history of finished jobs (completedRetentionSeconds)"
    )


async def why_not_retried(jobs: Jobs, queue: str, job_id: str) -> str:
    """Why a job can't be put back or made due."""
    record = await jobs.job(queue, job_id)
    if record is None:
        return await why_missing(jobs, queue, job_id)
    if record.state == "dead":
        return (
            f"job {job_id} of queue {queue} stays dead: another job has its deduplication key "
            f"{record.job.deduplication_key!r} by now; wait for that one, or purge this one"
        )
    return f"job {job_id} of queue {queue} is {record.state}: only delayed and dead jobs can be retried"
