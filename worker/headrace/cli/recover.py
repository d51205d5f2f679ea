"""``headrace recover-stuck``: put back what lost workers hold."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import click

from headrace.cli.connection import Connection, with_connection
from headrace.cli.options import Asked, FiniteRange, block, change_options, output_option
from headrace.cli.output import counted, print_json, print_table
from headrace.job import MAX_DELAY_SECONDS
from headrace.queues.inspection import Queues, RecoverStuck, Stuck, require

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_TOLD_EVERY_SECONDS = 5.0


@click.command(
    "recover-stuck",
    short_help="Put back what lost workers hold.",
    epilog=block("Example", "headrace recover-stuck --minutes 60"),
)
@click.option(
    "--minutes",
    type=FiniteRange(min=0, max=MAX_DELAY_SECONDS // 60),
    required=True,
    help="Only what has been held for so long, or longer.",
)
@click.option("--queue", "queues", multiple=True, help="Only this queue; can be given several times. Defaults to all.")
@change_options
@output_option
@with_connection
def recover_stuck(
    minutes: float, queues: tuple[str, ...], connection: Connection, asked: Asked, *, as_json: bool
) -> None:
    """Put back jobs that are held by workers without a sign of life. Nothing is charged.

    Workers do the same every few seconds, within 30 s of another's death: this is for when none runs. A job whose
    worker still extends its lease is never touched, however long it takes. So where none has looked after a queue, or
    the database was away, this waits for 20 s: who lives reports in that time.
    """
    change = RecoverStuck(older_than_seconds=minutes * 60, **asked)

    async def apply(stuck: Stuck) -> list[tuple[str, str]]:
        names = queues or tuple(record.name for record in await require(stuck, Queues).queues())
        recovered: list[tuple[str, str]] = []
        for name in names:
            async with _progress(name):
                recovered += [(name, job_id) for job_id in await stuck.recover_stuck(name, change)]
        return recovered

    recovered = connection.ask(Stuck, apply, queue=queues[0] if len(queues) == 1 else None)
    if as_json:
        print_json([{"queue": queue, "id": job_id} for queue, job_id in recovered])
        return
    if recovered:
        print_table(["QUEUE", "ID"], recovered)
    click.echo(f"{counted(len(recovered), 'job')} put back", err=bool(recovered))


@contextlib.asynccontextmanager
async def _progress(queue: str) -> AsyncIterator[None]:
    """Says on standard error that something goes on, for as long as it does."""
    began = time.monotonic()

    async def tell() -> None:
        while True:
            await asyncio.sleep(_TOLD_EVERY_SECONDS)
            waited = time.monotonic() - began
            click.echo(f"{queue}: waiting for signs of life of its workers, {waited:.0f} s so far", err=True)

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
