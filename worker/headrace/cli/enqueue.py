"""``headrace enqueue``: jobs from a shell, one or a million."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.common import EXIT_USAGE, connection_options, environment, print_json, read_ca, with_exit_statuses
from headrace.job import MAX_PRIORITY, MIN_PRIORITY, InvalidJobError, new_job
from headrace.queues import from_url
from headrace.queues.base import QueueError
from headrace.settings import queue_binding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import TextIO

    from headrace.job import NewJob
    from headrace.queues.base import Queue

BATCH = 1000


@click.command()
@click.argument("queue")
@click.argument("name")
@click.option("--payload", help="The payload, as JSON. Defaults to null.")
@click.option(
    "--from-file", "file", type=click.File(encoding="utf-8"), help="One payload a line, as JSON; - is standard input."
)
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="How many of each.")
@click.option(
    "--priority", type=click.IntRange(MIN_PRIORITY, MAX_PRIORITY), default=0, show_default=True, help="Higher first."
)
@click.option("--delay", type=click.FloatRange(min=0), default=0.0, help="Seconds before the job may start.")
@click.option("--group", help="Jobs of one group run in order, one at a time.")
@click.option("--deduplication-key", help="Drop the job if one with this key is there.")
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@connection_options
@with_exit_statuses
def enqueue(
    queue: str,
    name: str,
    payload: str | None,
    file: TextIO | None,
    count: int,
    priority: int,
    delay: float,
    group: str | None,
    deduplication_key: str | None,
    output: str,
    dsn: str | None,
    schema: str | None,
    ca: Path | None,
) -> None:
    """Enqueue jobs called NAME into QUEUE, in batches of a thousand; a batch is enqueued whole or not at all."""
    if payload is not None and file is not None:
        raise click.UsageError("--payload and --from-file: give one of them")
    binding = queue_binding(
        environment({"HEADRACE_DSN": dsn, "BACKGROUND_JOBS__POSTGRES__SCHEMA": schema}), queue=queue
    )
    fields = {"priority": priority, "delay_seconds": delay, "group": group, "deduplication_key": deduplication_key}
    jobs = (
        job
        for value in (_payloads(file) if file else [_parse(payload or "null", "--payload")])
        for job in itertools.repeat(_job(name, value, fields), count)
    )
    opened = from_url(
        binding.dsn, binding.queue, schema=binding.schema, ca_certificates=read_ca(ca) or binding.ca_certificates
    )
    ids = asyncio.run(_enqueue_all(opened, jobs))
    if output == "json":
        print_json({"queue": queue, "enqueued": len(ids), "ids": ids})
    else:
        click.echo(f"{len(ids)} jobs enqueued into {queue}")


async def _enqueue_all(queue: Queue, jobs: Iterable[NewJob]) -> list[str]:
    ids: list[str] = []
    async with queue:
        for batch in _batches(jobs):
            try:
                ids += await queue.enqueue(batch)
            except QueueError:
                if ids:
                    click.echo(f"headrace: {len(ids)} jobs were enqueued before this:", err=True)
                raise
            if len(ids) > BATCH:
                click.echo(f"{len(ids)} jobs enqueued", err=True)
    return ids


def _batches(jobs: Iterable[NewJob]) -> Iterator[list[NewJob]]:
    remaining = iter(jobs)
    while batch := list(itertools.islice(remaining, BATCH)):
        yield batch


def _payloads(file: TextIO) -> Iterator[Any]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield _parse(line, f"{file.name}, line {number}")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{where}: no JSON: {error}") from None


def _job(name: str, payload: Any, fields: dict[str, Any]) -> NewJob:
    try:
        return new_job(name, payload, **fields)
    except InvalidJobError as error:
        click.echo(f"headrace: {error}", err=True)
        sys.exit(EXIT_USAGE)
