"""``headrace queues``: how much each holds, and whether it is paused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.cli.connection import Connection, with_connection
from headrace.cli.options import block, output_option
from headrace.cli.output import age, print_json, print_table, queue_json

if TYPE_CHECKING:
    from headrace.queues.base import Inspector, QueueRecord


@click.group()
def queues() -> None:
    """List queues with their depths; pause and resume them."""


@queues.command(
    "list",
    epilog=block(
        "Example",
        "headrace queues list",
        "headrace queues list --output json | jq '.[] | select(.dead_lettered > 0) | .name'",
    ),
)
@output_option
@with_connection
def list_queues(connection: Connection, *, as_json: bool) -> None:
    """List the queues of a schema: how much each holds, and whether it is paused.

    READY could start now; DELAYED waits for its time, or behind the head of its group; IN FLIGHT is held by a worker;
    DEAD is in the dead-letter queue; OLDEST is how long the oldest ready job has been due.
    """
    records = connection.ask(lambda inspector: inspector.queues())
    if as_json:
        print_json([queue_json(record) for record in records])
        return
    print_table(
        ["NAME", "READY", "DELAYED", "IN FLIGHT", "DEAD", "OLDEST", "PAUSED", "OWNER"],
        [
            (
                record.name,
                record.depth.ready,
                record.depth.delayed,
                record.depth.in_flight,
                record.depth.dead_lettered,
                age(record.depth.oldest_ready_age_seconds) if record.depth.ready else "",
                _pauses(record),
                f"{record.owner.namespace}/{record.owner.name}" if record.owner and record.owner.namespace else "",
            )
            for record in records
        ],
    )


@queues.command(epilog=block("Example", "headrace queues pause thumbnails"))
@click.argument("queue")
@output_option
@with_connection
def pause(queue: str, connection: Connection, *, as_json: bool) -> None:
    """Let no job of QUEUE start any more. Running ones finish, producers go on.

    Beside the pause of its JobQueue (the annotation headrace.dev/paused): each is undone only where it was made.
    """
    _set_paused(queue, connection, as_json=as_json, paused=True)


@queues.command(epilog=block("Example", "headrace queues resume thumbnails"))
@click.argument("queue")
@output_option
@with_connection
def resume(queue: str, connection: Connection, *, as_json: bool) -> None:
    """Let jobs of QUEUE start again."""
    _set_paused(queue, connection, as_json=as_json, paused=False)


def _set_paused(queue: str, connection: Connection, *, as_json: bool, paused: bool) -> None:
    async def apply(inspector: Inspector) -> QueueRecord:
        await inspector.pause(queue, paused=paused)
        return next(record for record in await inspector.queues() if record.name == queue)

    record = connection.ask(apply, queue=queue)
    if as_json:
        print_json(queue_json(record))
    elif record.settings.paused and not paused:
        click.echo(f"{queue} is still paused by its JobQueue: remove the annotation headrace.dev/paused there")
    else:
        click.echo(f"{queue} is {'paused' if paused else 'running'}")


def _pauses(record: QueueRecord) -> str:
    pauses = [
        word for word, holds in (("JobQueue", record.settings.paused), ("by hand", record.paused_by_hand)) if holds
    ]
    return ", ".join(pauses)
