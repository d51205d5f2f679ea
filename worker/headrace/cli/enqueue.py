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
from headrace.queues.base import QueueError, QueueUnavailableError
from headrace.queues.batches import MAX_BATCH_JOBS, batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from headrace.job import NewJob
    from headrace.queues.base import Queue

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
    idempotency_key: str | None,
    headers: tuple[tuple[str, str], ...],
    connection: Connection,
    *,
    as_json: bool,
) -> None:
    """Enqueue jobs called NAME into QUEUE.

    A file is checked whole before anything is enqueued. Jobs go in batches of a thousand, fewer where
    they are large; a batch is enqueued whole or not at all, and where one fails, what was enqueued before is said.
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
        "headers": dict(headers),
        "idempotency_key": idempotency_key,
    }
    binding = connection.binding(queue)
    with contextlib.ExitStack() as stack:
        if file is None:
            lines = None
            first = _job(name, payload if payload is not None else "null", fields, "--payload")
            total = count
        else:
            lines = stack.enter_context(_opened(file))
            total = count * _check(lines, file, name, fields)

        def jobs() -> Iterator[NewJob]:
            each = [first] if lines is None else (job for _, job in _jobs(lines, str(file), name, fields))
            return (repeated for job in each for repeated in itertools.repeat(job, count))

        opened = from_url(binding.dsn, binding.queue, schema=binding.schema, ca_certificates=binding.ca_certificates)
        ids = asyncio.run(_enqueue_all(opened, jobs(), total))
    if as_json:
        print_json({"queue": queue, "enqueued": len(ids), "ids": ids})
    elif deduplication_key is not None:
        click.echo(f"job {ids[0]} of {queue} has the key {deduplication_key}")
    else:
        click.echo(f"{counted(len(ids), 'job')} enqueued into {queue}")


async def _enqueue_all(queue: Queue, jobs: Iterable[NewJob], total: int) -> list[str]:
    ids: list[str] = []
    told_at = float("-inf")
    async with queue:
        for batch in batches(jobs, max_bytes=BATCH_BYTES):
            try:
                ids += await queue.enqueue(batch)
            except QueueError as error:
                if total > len(batch):
                    uncertain = isinstance(error, QueueUnavailableError)
                    click.echo(
                        f"headrace: the first {len(ids)} of {total} jobs were enqueued; "
                        + (f"of the next {len(batch)} all were, or none, " if uncertain else "")
                        + "then:",
                        err=True,
                    )
                raise
            if len(ids) > MAX_BATCH_JOBS and (time.monotonic() - told_at >= _PROGRESS_SECONDS or len(ids) == total):
                told_at = time.monotonic()
                click.echo(f"{len(ids)} of {total} jobs enqueued", err=True)
    return ids


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


def _check(lines: IO[bytes], file: str, name: str, fields: dict[str, Any]) -> int:
    """See that every line makes a job; returns how many do."""
    found = 0
    told_at = time.monotonic()
    for number, _ in _jobs(lines, file, name, fields):
        found += 1
        if time.monotonic() - told_at >= _PROGRESS_SECONDS:
            told_at = time.monotonic()
            click.echo(f"{number} lines checked", err=True)
    return found


def _jobs(lines: IO[bytes], file: str, name: str, fields: dict[str, Any]) -> Iterator[tuple[int, NewJob]]:
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
            yield number, _job(name, text, fields, where)


def _job(name: str, payload: str, fields: dict[str, Any], where: str) -> NewJob:
    try:
        value = json.loads(payload, parse_constant=_refuse_constant)
    except RecursionError:
        _refuse(f"{where}: nested too deeply")
    except ValueError as error:
        _refuse(f"{where}: no JSON: {error}")
    try:
        return new_job(name, value, **fields)
    except InvalidJobError as error:
        _refuse(f"{where}: {error}" if str(error).startswith("payload") else str(error))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number; write null, or a text")


def _refuse(problem: str) -> NoReturn:
    """Nothing has been enqueued, and nothing will be."""
    click.echo(f"headrace: {problem}", err=True)
    sys.exit(EXIT_USAGE)
