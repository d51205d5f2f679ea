"""What a person or a program sees of a run: a live table in a terminal, plain lines where there is none, or JSON."""

from __future__ import annotations

import errno
import json
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from headrace_operator.local.status import in_words, short_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TextIO

    from headrace_operator.local.status import PoolStatus, QueueStatus, Status


_GONE = (errno.EPIPE, errno.EIO)
"""What writing says of a pipe that nobody reads, and of a terminal that was closed."""


class View(Protocol):
    """Where a run is shown. What nobody reads any more goes nowhere: workers still drain then."""

    @property
    def is_read(self) -> bool:
        """Whether somebody still reads standard output."""
        ...

    def started(self, *, dsns: Mapping[str, str], folder: str, notes: Sequence[str]) -> None:
        """All is there; what was passed over, and where programs reach the embedded databases, by namespace."""
        ...

    def show(self, status: Status) -> None:
        """How things stand now."""
        ...

    def say(self, sentence: str) -> None:
        """Something has happened."""
        ...

    def log(self, worker: str, line: str) -> None:
        """A worker has written a line."""
        ...


@contextmanager
def view(output: str, *, is_quiet: bool) -> Iterator[View]:
    """The view for this output (``table`` or ``json``); quiet ones leave out what workers write."""
    out = Stream(sys.stdout)
    # The protocol of files is wide, and Rich uses what `Stream` has of it.
    console = Console(file=cast("TextIO", out), highlight=False)
    if output == "json":
        yield JsonView(is_quiet=is_quiet)
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            yield TableView(live, out, is_quiet=is_quiet)
    else:
        yield PlainView(is_quiet=is_quiet)


class Stream:
    """A text stream that takes what is written when its reader is gone, too. None for one that was closed before."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.is_read = True

    @property
    def encoding(self) -> str:
        """See `io.TextIOBase`."""
        return "utf-8" if self._stream is None else self._stream.encoding

    def isatty(self) -> bool:
        """See `io.TextIOBase`."""
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        """See `io.TextIOBase`."""
        if self._stream is not None:
            with self._noticing(self._stream):
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """See `io.TextIOBase`."""
        if self._stream is not None:
            with self._noticing(self._stream):
                self._stream.flush()

    @contextmanager
    def _noticing(self, stream: TextIO) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self.is_read = False
            # What is left in its buffer is written there at the end.
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


class PlainView:
    """Lines on standard output, a line for what has changed; workers write to standard error."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._out, self._error = Stream(sys.stdout), Stream(sys.stderr)
        self._is_quiet = is_quiet
        self._told: dict[tuple[str, str, str], str] = {}

    def started(self, *, dsns: Mapping[str, str], folder: str, notes: Sequence[str]) -> None:
        """See `View`."""
        for line in _start_lines(dsns, folder, notes):
            self.say(line)

    def show(self, status: Status) -> None:
        """See `View`."""
        everything: list[QueueStatus | PoolStatus] = [*status.queues, *status.pools]
        for each in everything:
            place, line = (type(each).__name__, each.namespace, each.name), each.line()
            if self._told.get(place) != line:
                self._told[place] = line
                self.say(line)

    @property
    def is_read(self) -> bool:
        """See `View`."""
        return self._out.is_read

    def say(self, sentence: str) -> None:
        """See `View`."""
        print(sentence, file=self._out, flush=True)

    def log(self, worker: str, line: str) -> None:
        """See `View`."""
        if not self._is_quiet:
            print(f"{worker} | {line}", file=self._error, flush=True)


class JsonView(PlainView):
    """One object a line on standard output, everything else on standard error."""

    def started(self, *, dsns: Mapping[str, str], folder: str, notes: Sequence[str]) -> None:
        """See `View`."""
        first = next(iter(dsns.values()), None)
        self._write("started", {"dsn": first, "dsns": dict(dsns), "data_dir": folder, "notes": list(notes)})

    def show(self, status: Status) -> None:
        """See `View`."""
        self._write("status", {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **asdict(status)})

    def say(self, sentence: str) -> None:
        """See `View`."""
        print(sentence, file=self._error, flush=True)

    def _write(self, kind: str, content: dict[str, Any]) -> None:
        print(json.dumps({"type": kind, **content}), file=self._out, flush=True)


class TableView:
    """A table that stays below what scrolls by."""

    def __init__(self, live: Live, out: Stream, *, is_quiet: bool) -> None:
        self._live = live
        self._out = out
        self._is_quiet = is_quiet

    @property
    def is_read(self) -> bool:
        """See `View`."""
        return self._out.is_read

    def started(self, *, dsns: Mapping[str, str], folder: str, notes: Sequence[str]) -> None:
        """See `View`."""
        for line in _start_lines(dsns, folder, notes):
            self.say(line)

    def show(self, status: Status) -> None:
        """See `View`."""
        self._live.update(_tables(status))

    def say(self, sentence: str) -> None:
        """See `View`."""
        # One line each, to be copied whole: a DSN that is broken in two is none.
        self._live.console.print(Text(sentence), soft_wrap=True)

    def log(self, worker: str, line: str) -> None:
        """See `View`."""
        if not self._is_quiet:
            self._live.console.print(Text(f"{worker} | ", style="cyan").append(Text(line)), soft_wrap=True)


def _start_lines(dsns: Mapping[str, str], folder: str, notes: Sequence[str]) -> Iterator[str]:
    yield from notes
    if dsns:
        yield f"PostgreSQL runs in {folder}; headrace reaches it by HEADRACE_DSN, psql by the same:"
    for namespace, dsn in dsns.items():
        yield f"  export HEADRACE_DSN={dsn}" + (f"  # namespace {namespace}" if len(dsns) > 1 else "")


def _tables(status: Status) -> Group:
    queues = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("QUEUE", "READY", "IN FLIGHT", "BLOCKED", "DELAYED", "DEAD", ""):
        queues.add_column(heading, justify="left" if heading in ("QUEUE", "") else "right", no_wrap=heading != "")
    for queue in status.queues:
        numbers = (queue.ready, queue.in_flight, queue.blocked, queue.delayed, queue.dead_lettered)
        name = short_name(queue)
        queues.add_row(name, *(in_words(number) for number in numbers), Text(queue.problem or "", style="red"))
    pools = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("POOL", "WORKERS", "DESIRED", "JOBS/S", "WHY"):
        pools.add_column(heading, justify="left" if heading in ("POOL", "WHY") else "right", no_wrap=heading != "WHY")
    for pool in status.pools:
        name = short_name(pool)
        why = Text(f"{pool.reason}: {pool.message}" if pool.reason else "")
        if pool.problem:
            why.append(f"\n{pool.problem}", style="red")
        pools.add_row(name, f"{pool.ready}/{pool.current}", str(pool.desired), f"{pool.jobs_per_second:.1f}", why)
    return Group("", queues, "", pools)
