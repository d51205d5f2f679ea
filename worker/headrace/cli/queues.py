"""``headrace queues``: how much each holds, and whether it is paused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headrace.cli.connection import Connection, with_connection
from headrace.cli.options import Asked, block, change_options, output_option
from headrace.cli.output import age, count_of, print_json, print_table, queue_json
from headrace.queues.inspection import Pause, Pauses, Queues, require

if TYPE_CHECKING:
    from headrace.queues.base import Depth
    from headrace.queues.inspection import QueueRecord


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
    """List the queues of a schema, or the one that a URL of SQS leads to: how much each holds, whether it is paused.

    READY could start now; BLOCKED waits behind the head of its group, DELAYED for its time; IN FLIGHT is held by a
    worker; DEAD is in the dead-letter queue; OLDEST is how long the oldest ready job has been due. With a + there are
    more: who counts stopped there; with a ~ it is about so many. A ? is what the backend can't tell.
    """
    records = connection.ask(Queues, lambda queues: queues.queues())
    if as_json:
        print_json([queue_json(record) for record in records])
        return
    print_table(
        ["NAME", "READY", "BLOCKED", "DELAYED", "IN FLIGHT", "DEAD", "OLDEST", "PAUSED", "OWNER"],
        [
            (
                record.name,
                *(count_of(number, record.depth) for number in _numbers(record.depth)),
                _oldest(record),
                _pauses(record),
                f"{record.owner.namespace}/{record.owner.name}" if record.owner and record.owner.namespace else "",
            )
            for record in records
        ],
    )


@queues.command(epilog=block("Example", "headrace queues pause thumbnails"))
@click.argument("queue")
@change_options
@output_option
@with_connection
def pause(queue: str, connection: Connection, asked: Asked, *, as_json: bool) -> None:
    """Let no job of QUEUE start any more. Running ones finish, producers go on.

    Beside the pause of its JobQueue (the annotation headrace.dev/paused): each is undone only where it was made.
    """
    _change(queue, Pause(paused=True, **asked), connection, as_json=as_json)


@queues.command(epilog=block("Example", "headrace queues resume thumbnails"))
@click.argument("queue")
@change_options
@output_option
@with_connection
def resume(queue: str, connection: Connection, asked: Asked, *, as_json: bool) -> None:
    """Let jobs of QUEUE start again."""
    _change(queue, Pause(paused=False, **asked), connection, as_json=as_json)


def _change(queue: str, change: Pause, connection: Connection, *, as_json: bool) -> None:
    async def apply(pauses: Pauses) -> QueueRecord:
        await pauses.pause(queue, change)
        return await require(pauses, Queues).queue(queue)

    record = connection.ask(Pauses, apply, queue=queue)
    if as_json:
        print_json(queue_json(record))
    elif record.settings.paused and not change.paused:
        click.echo(f"{queue} is still paused by its JobQueue: remove the annotation headrace.dev/paused there")
    else:
        click.echo(f"{queue} is {'paused' if change.paused else 'running'}")


def _numbers(depth: Depth) -> tuple[int, ...]:
    return depth.ready, depth.blocked, depth.delayed, depth.in_flight, depth.dead_lettered


def _oldest(record: QueueRecord) -> str:
    if "oldest_ready_age_seconds" in record.unknown:
        return "?"
    return age(record.depth.oldest_ready_age_seconds) if record.depth.ready else ""


def _pauses(record: QueueRecord) -> str:
    pauses = [
        word for word, holds in (("JobQueue", record.settings.paused), ("by hand", record.paused_by_hand)) if holds
    ]
    return ", ".join(pauses)
