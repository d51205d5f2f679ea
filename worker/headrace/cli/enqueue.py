"""``headrace enqueue``: jobs from a shell, one or a million."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import sys
import tempfile
import time
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click

from headrace.cli.common import EXIT_USAGE
from headrace.cli.connection import Connection, with_connection
from headrace.cli.options import Duration, FiniteRange, Header, block, output_option
from headrace.cli.output import counted, print_json
from headrace.job import MAX_PRIORITY, MIN_PRIORITY, InvalidJobError, new_job
from headrace.queues import from_url
from headrace.queues.batches import MAX_BATCH_JOBS, batches
from headrace.queues.capabilities import refuse_unsupported
from headrace.queues.errors import (
    PartlyEnqueuedError,
    QueueError,
    QueueUnavailableError,
    UnsupportedCapabilityError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from headrace.job import NewJob
    from headrace.queues.base import Enqueued, Queue
    from headrace.queues.capabilities import Capabilities

BATCH_BYTES = 16 * 1024 * 1024
_PROGRESS_SECONDS = 1.0


@click.command(
    epilog=block(
        "Example",
        "headrace enqueue thumbnails resize --payload '{\"picture\": 17}'",
        "headrace enqueue thumbnails resize --from-file pictures.jsonl --priority 5",
        "headrace enqueue mails welcome --payload '{\"user\": 3}' --delay 3600 --deduplication-key welcome-3",
    )
)
@click.argument("queue")
@click.argument("name")
@click.option("--payload", help="The payload, as JSON. Defaults to null.")
@click.option(
    "--from-file",
    "file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="One payload a line, as JSON; - is standard input.",
)
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="How many of each.")
@click.option(
    "--priority", type=click.IntRange(MIN_PRIORITY, MAX_PRIORITY), default=0, show_default=True, help="Higher first."
)
@click.option("--delay", type=FiniteRange(min=0), default=0.0, help="Seconds before the job may start.")
@click.option("--group", help="Jobs of one group run in order, one at a time.")
@click.option("--deduplication-key", help="While a job with this key is unfinished, another is not enqueued.")
@click.option(
    "--deduplication-window", type=Duration(), help="How long the key is taken at least, from now: 90s, 15m, 12h."
)
@click.option("--fairness-key", help="Whose job it is, such as a tenant's: where the queue can, they run in turn.")
@click.option("--idempotency-key", help="Of jobs with one key, one runs to its end, where workers have a Redis.")
@click.option("--header", "headers", type=Header(), multiple=True, help="NAME=VALUE; can be given several times.")
@output_option
@with_connection
def enqueue(
    queue: str,
    name: str,
    payload: str | None,
    file: str | None,
    count: int,
    priority: int,
    delay: float,
    group: str | None,
    deduplication_key: str | None,
    deduplication_window: float | None,
    fairness_key: str | None,
    idempotency_key: str | None,
    headers: tuple[tuple[str, str], ...],
    connection: Connection,
    *,
    as_json: bool,
) -> None:
    """Enqueue jobs called NAME into QUEUE.

    A file is checked whole before anything is enqueued. Jobs go in batches of a thousand, fewer where they are large;
    in PostgreSQL a batch is enqueued whole or not at all. Where one fails, what was enqueued before is said.
    """
    if payload is not None and file is not None:
        raise click.UsageError("--payload and --from-file: give one of them")
    if deduplication_key is not None and (count > 1 or file is not None):
        raise click.UsageError("--deduplication-key is for one job: of several, all but the first would be left out")
    fields = {
        "priority": priority,
        "delay_seconds": delay,
        "group": group,
        "deduplication_key": deduplication_key,
        "deduplication_window_seconds": deduplication_window,
        "fairness_key": fairness_key,
        "headers": dict(headers),
        "idempotency_key": idempotency_key,
    }
    binding = connection.binding(queue)
    opened = from_url(binding.dsn, binding.queue, **binding.queue_options)
    can = opened.capabilities
    with contextlib.ExitStack() as stack:
        if file is None:
            lines = None
            first = _job(name, payload if payload is not None else "null", fields, can, "--payload")
            total = count
        else:
            lines = stack.enter_context(_opened(file))
            total = count * _check(lines, file, name, fields, can)

        def jobs() -> Iterator[NewJob]:
            each = [first] if lines is None else (job for _, job in _jobs(lines, str(file), name, fields, can))
            return (repeated for job in each for repeated in itertools.repeat(job, count))

        _report(asyncio.run(_enqueue_all(opened, jobs(), total)), queue, deduplication_key, as_json=as_json)


def _report(all_enqueued: list[Enqueued], queue: str, key: str | None, *, as_json: bool) -> None:
    ids = [enqueued.id for enqueued in all_enqueued]
    duplicates = [enqueued.id for enqueued in all_enqueued if enqueued.is_new is False]
    unknown = [enqueued.id for enqueued in all_enqueued if enqueued.is_new is None]
    if as_json:
        new = len(ids) - len(duplicates) - len(unknown)
        print_json({"queue": queue, "enqueued": new, "ids": ids, "duplicates": duplicates, "unknown": unknown})
    elif duplicates:
        # Keys are for one job at a time.
        holder = f"job {ids[0]}" if ids[0] else "another job"
        click.echo(f"nothing enqueued into {queue}: {holder} has the key {key}")
    elif unknown:
        job = f"job {ids[0]}" if ids[0] else "a job"
        click.echo(f"{job} with the key {key} is in {queue}; whether it is new is unknown")
    elif len(ids) == 1 and ids[0]:
        click.echo(f"job {ids[0]} enqueued into {queue}")
    else:
        click.echo(f"{counted(len(ids), 'job')} enqueued into {queue}")


async def _enqueue_all(queue: Queue, jobs: Iterable[NewJob], total: int) -> list[Enqueued]:
    done: list[Enqueued] = []
    told_at = float("-inf")
    async with queue:
        for batch in batches(jobs, max_bytes=BATCH_BYTES):
            try:
                done += await queue.enqueue(batch)
            except QueueError as error:
                if so_far := _how_far(error, len(done), len(batch), total):
                    click.echo(f"headrace: {so_far}then:", err=True)
                raise
            if len(done) > MAX_BATCH_JOBS and (time.monotonic() - told_at >= _PROGRESS_SECONDS or len(done) == total):
                told_at = time.monotonic()
                click.echo(f"{len(done)} of {total} jobs enqueued", err=True)
    return done


def _how_far(error: QueueError, before: int, batch: int, total: int) -> str:
    """What was enqueued, where a batch failed; empty where nothing was."""
    if isinstance(error, PartlyEnqueuedError):
        missing = ", ".join(str(before + place + 1) for place in sorted(error.failed))
        return f"the first {before + batch} of {total} jobs were enqueued but for these, counted from 1: {missing}; "
    if total == batch:
        return ""
    uncertain = f"of the next {batch} all were, or none, " if isinstance(error, QueueUnavailableError) else ""
    return f"the first {before} of {total} jobs were enqueued; {uncertain}"


def _opened(file: str) -> IO[bytes]:
    """The file, or a copy of what can be read only once: it is read twice."""
    try:
        source = sys.stdin.buffer if file == "-" else open(file, "rb")  # noqa: PTH123, SIM115 - closed by whoever asks
        if source.seekable() and file != "-":
            return source
        with source:
            copy = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - as above
            shutil.copyfileobj(source, copy)
    except OSError as error:
        raise click.UsageError(f"--from-file {file}: can't be read: {error.strerror}") from None
    return copy


def _check(lines: IO[bytes], file: str, name: str, fields: dict[str, Any], can: Capabilities) -> int:
    """See that every line makes a job; returns how many do."""
    found = 0
    told_at = time.monotonic()
    for number, _ in _jobs(lines, file, name, fields, can):
        found += 1
        if time.monotonic() - told_at >= _PROGRESS_SECONDS:
            told_at = time.monotonic()
            click.echo(f"{number} lines checked", err=True)
    return found


def _jobs(
    lines: IO[bytes], file: str, name: str, fields: dict[str, Any], can: Capabilities
) -> Iterator[tuple[int, NewJob]]:
    """The jobs of a file, with the numbers of their lines."""
    lines.seek(0)
    shown = "standard input" if file == "-" else file
    for number, line in enumerate(lines, start=1):
        where = f"{shown}, line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            _refuse(f"{where}: no UTF-8: byte 0x{line[error.start]:02x} at position {error.start + 1}")
        if text.strip():
            yield number, _job(name, text, fields, can, where)


def _job(name: str, payload: str, fields: dict[str, Any], can: Capabilities, where: str) -> NewJob:
    try:
        value = json.loads(payload, parse_constant=_refuse_constant)
    except RecursionError:
        _refuse(f"{where}: nested too deeply")
    except ValueError as error:
        _refuse(f"{where}: no JSON: {error}")
    try:
        job = new_job(name, value, **fields)
        refuse_unsupported([job], can)
    except (InvalidJobError, UnsupportedCapabilityError) as error:
        _refuse(f"{where}: {error}" if str(error).startswith("payload") else str(error))
    return job


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number; write null, or a text")


def _refuse(problem: str) -> NoReturn:
    """Nothing has been enqueued, and nothing will be."""
    click.echo(f"headrace: {problem}", err=True)
    sys.exit(EXIT_USAGE)
