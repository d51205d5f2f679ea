"""Where contestants are measured: one server, a new database for each measurement, processes told when to begin."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg

from benchmarks.contestants.contestant import MissingError
from benchmarks.contestants.ledger import clock
from benchmarks.contestants.order import Order, Setting, Verb, Workload
from benchmarks.places import TESTS, WORKER
from benchmarks.report import BARE, LIMIT, OURS
from benchmarks.server_time import server_seconds
from support.postgres import PostgresServer, free_port, fresh_database, running_server
from support.redis import running_redis

if TYPE_CHECKING:
    from benchmarks.sqs_arena import SqsArena

_MODULES = {OURS: "ours", "PgQueuer": "pgqueuer", "Procrastinate": "procrastinate", LIMIT: "raw_sql"}
_OF_THE_PROJECT = (OURS, LIMIT, BARE)

# Nothing here takes that long, unless it hangs.
_TIMEOUT_SECONDS = 300.0

# A statement as log_statement=all logs it, however it was sent.
_STATEMENT = r"^{database} LOG:  (?:statement: |execute )"


class BrokenError(Exception):
    """A contestant failed, or did not handle every job exactly once: its figures mean nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A contestant at certain settings."""

    contestant: str
    module: str = ""
    """Its own, where it is not the one that is measured as a rule."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    jobs: int | None = None
    """Instead of the workload's: the slow ones get fewer."""

    def __str__(self) -> str:
        said = ", ".join(f"{name}={value}" for name, value in self.settings.items()) or "defaults"
        return f"{self.contestant} {said}"

    def share(self, workload: Workload) -> Workload:
        """The workload, in this one's number of jobs."""
        return workload if self.jobs is None else replace(workload, jobs=self.jobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What a drain came to."""

    jobs_per_second: float
    wal_bytes: int
    """Since before the first job was enqueued, whatever wrote them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowded:
    """What a crowd came to, while all of it was at work."""

    jobs_per_second: float
    server_seconds_per_job: float
    """Processor time of the database server, whatever it did."""


# From the last process's first job until what comes is measured: caches are warm, and nothing begins any more.
_CROWD_SETTLE_SECONDS = 3.0

# What a process says of its share, where several work on one queue.
_HANDLED = "handled"

_SERVER = Candidate(contestant=LIMIT, module="http_server")


class Process:
    """A contestant's process that is ready to begin."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, report: Path) -> None:
        self._name = name
        self._process = process
        self._report = report

    async def heard(self) -> dict[str, str]:
        """The next message: that it is ready, how many jobs it has handled, or that it is done."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            status = await self._process.wait()
            raise BrokenError(f"{self._name} ended with status {status}; see build/bench/contestants.log")
        message: dict[str, str] = json.loads(line)
        if message["event"] == "missing":
            raise MissingError(message["what"])
        return message

    def begin(self) -> None:
        """Let it begin, or end what it began."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def figures(self) -> Any:
        """What it found, once it is done."""
        while (await self.heard())["event"] == _HANDLED:
            pass
        figures: Any = json.loads(self._report.read_text())
        return figures


class Arena:
    """Runs contestants.

    Parameters
    ----------
    server
        Where they keep their jobs; nobody else uses it.
    peers_python
        The interpreter that has the peers.
    directory
        Takes ``contestants.log``, what they say on standard error, and their figures while they are needed.
    """

    def __init__(self, server: PostgresServer, peers_python: Path, directory: Path) -> None:
        self._server = server
        self._peers_python = peers_python
        self._directory = directory
        self._numbers = itertools.count(1)
        self.sqs: SqsArena | None = None
        """Where those on SQS are measured, while there is a server of theirs."""

    async def drain(
        self,
        candidate: Candidate,
        workload: Workload,
        *,
        processes: int = 1,
        some: int | None = None,
        settles: bool = True,
        url: str = "",
    ) -> Drained:
        """Enqueue everything, then have it worked off.

        Parameters
        ----------
        some
            Only so many of the jobs are worked off.
        settles
            Whether tables are vacuumed, and all is on disk, before the work begins.
        url
            Where an http handler sends them.
        """
        workload = candidate.share(workload)
        async with fresh_database(self._server.dsn) as dsn, self._session(dsn) as session:
            order = Order(verb="fill", dsn=dsn, workload=workload, settings=candidate.settings, some=some or 0, url=url)
            async with self.process(candidate, order) as filling:
                await session.execute("CHECKPOINT")
                start = await session.fetchval("SELECT pg_current_wal_insert_lsn()")
                filling.begin()
                await filling.heard()
            if settles:
                await session.execute("VACUUM ANALYZE")
                await session.execute("CHECKPOINT")
            verb: Verb = "drain" if some is None else "drain_some"
            draining = replace(order, verb=verb, alone=processes == 1)
            reports = await self.together(candidate, draining, processes)
            wal_bytes = int(await session.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", start))
        numbers = [number for report in reports for number in report["numbers"]]
        left = sum(report.get("remaining", 0) for report in reports)
        check(candidate, numbers, enqueued=workload.jobs, left=left)
        if workload.groups:
            _check_order(candidate, numbers, workload.groups)
        seconds = max(report["completed_at"] for report in reports) - min(
            report["receiving_at"] for report in reports if report["receiving_at"]
        )
        return Drained(
            jobs_per_second=(workload.jobs if some is None else some) / seconds,
            wal_bytes=wal_bytes,
        )

    async def enqueue(self, candidate: Candidate, workload: Workload, verb: Verb) -> float:
        """Jobs a second."""
        workload = candidate.share(workload)
        report = await self._alone(candidate, verb, workload)
        if report["remaining"] != workload.jobs:
            raise BrokenError(f"{candidate}: {report['remaining']} jobs in the queue, {workload.jobs} enqueued")
        return float(workload.jobs / report["seconds"])

    async def drain_chunks(self, candidate: Candidate, workload: Workload) -> list[float]:
        """Jobs a second in each chunk, while another transaction holds xmin."""
        workload = candidate.share(workload)
        report = await self._alone(candidate, "drain_chunks", workload, holds_xmin=True)
        check(candidate, report["numbers"], enqueued=workload.jobs, left=0)
        if workload.groups:
            _check_order(candidate, report["numbers"], workload.groups)
        return list(map(float, report["rates"]))

    @contextmanager
    def wider(self, connections: int) -> Iterator[Arena]:
        """An arena on a server of its own, whose only setting that is not stock is how many connections it takes."""
        with running_server(stock=True, settings=(f"max_connections={connections}",)) as server:
            arena = Arena(server, self._peers_python, self._directory)
            arena._numbers = self._numbers
            yield arena

    async def crowd(self, candidate: Candidate, workload: Workload, *, workers: int, seconds: float) -> Crowded:
        """Have so many processes work on a queue that does not run dry, and look at them for some seconds."""
        workload = candidate.share(workload)
        assert self._server.process is not None
        postmaster = self._server.process.pid
        async with fresh_database(self._server.dsn) as dsn, self._session(dsn) as session:
            order = Order(verb="fill", dsn=dsn, workload=workload, settings=candidate.settings)
            async with self.process(candidate, order) as filling:
                filling.begin()
                await filling.heard()
            await session.execute("VACUUM ANALYZE")
            await session.execute("CHECKPOINT")
            async with self.process(candidate, replace(order, verb="crowd", alone=False, workers=workers)) as crowd:
                await asyncio.sleep(_CROWD_SETTLE_SECONDS)
                began, spent = clock(), server_seconds(postmaster)
                await asyncio.sleep(seconds)
                ended, spent = clock(), server_seconds(postmaster) - spent
                crowd.begin()
                reports = await crowd.figures()
            async with self.process(candidate, replace(order, verb="count")) as counting:
                counting.begin()
                left = (await counting.figures())["remaining"]
        numbers = [number for report in reports for number in report["numbers"]]
        check(candidate, numbers, enqueued=workload.jobs, left=left)
        if not left:
            raise BrokenError(f"{candidate}: {workload.jobs} jobs were too few")
        jobs = sum(began <= time < ended for report in reports for time in report["times"])
        return Crowded(jobs_per_second=jobs / (ended - began), server_seconds_per_job=spent / max(jobs, 1))

    async def beside(self, candidate: Candidate, workload: Workload, *, held: int, samples: int) -> tuple[float, float]:
        """The server's processor time of one request for jobs and its completion, alone and beside who hold so many."""
        seconds = []
        assert self._server.process is not None
        async with fresh_database(self._server.dsn) as dsn:
            order = Order(
                verb="beside", dsn=dsn, workload=workload, settings=candidate.settings, samples=samples, some=held
            )
            async with self.process(candidate, order) as process:
                process.begin()
                for _ in range(2):
                    await process.heard()
                    spent = server_seconds(self._server.process.pid)
                    process.begin()
                    await process.heard()
                    seconds.append((server_seconds(self._server.process.pid) - spent) / samples)
                    process.begin()
                await process.heard()
        return seconds[0], seconds[1]

    async def wake(self, candidate: Candidate, samples: int) -> list[float]:
        """Seconds from enqueue to start."""
        report = await self._alone(candidate, "wake", Workload(), samples=samples)
        return sorted(map(float, report["seconds"]))

    async def idle(self, candidate: Candidate, seconds: float) -> float:
        """Statements a minute of a worker with nothing to do, as the server logs them."""
        log = self._server.directory / "server.log"
        async with fresh_database(self._server.dsn) as dsn:
            name = dsn.rpartition("/")[2]
            async with self._session(self._server.dsn) as session:
                await session.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
                # Others may idle at the same time.
                await session.execute("ALTER SYSTEM SET log_line_prefix = '%d '")
                await session.execute("ALTER SYSTEM SET lc_messages = 'C'")
                await session.execute("SELECT pg_reload_conf()")
            order = Order(verb="idle", dsn=dsn, settings=candidate.settings)
            async with self.process(candidate, order) as process:
                start = log.stat().st_size
                await asyncio.sleep(seconds)
                end = log.stat().st_size
                process.begin()
                await process.heard()
        with log.open("rb") as lines:
            lines.seek(start)
            said = lines.read(end - start).decode(errors="replace")
        statements = re.findall(_STATEMENT.format(database=name), said, re.MULTILINE)
        return len(statements) * 60 / seconds

    async def claim(self, candidate: Candidate, samples: int) -> list[float]:
        """Seconds that claiming a batch of keys takes, in a Redis of its own."""
        with running_redis() as server:
            order = Order(verb="claim", dsn=server.url, settings=candidate.settings, samples=samples)
            async with self.process(candidate, order) as process:
                process.begin()
                report = await process.figures()
        return sorted(map(float, report["seconds"]))

    async def drain_to_server(self, candidate: Candidate, workload: Workload) -> Drained:
        """As `drain`; the jobs are requests to a server of their own, which is asked what it was sent."""
        url = f"http://127.0.0.1:{free_port()}/jobs"
        async with self.process(_SERVER, Order(verb="serve", dsn="", url=url)) as server:
            drained = await self.drain(candidate, workload, url=url)
            server.begin()
            report = await server.figures()
        check(candidate, report["numbers"], enqueued=workload.jobs, left=0)
        return drained

    async def overhead(self, candidate: Candidate, workload: Workload) -> float:
        """Seconds of processor time a job, on a queue that costs nothing."""
        workload = candidate.share(workload)
        order = Order(verb="overhead", dsn="", workload=workload, settings=candidate.settings)
        async with self.process(candidate, order) as process:
            process.begin()
            report = await process.figures()
        check(candidate, report["numbers"], enqueued=workload.jobs, left=0)
        return float(report["seconds"] / workload.jobs)

    async def sleep(self, candidate: Candidate, workload: Workload) -> int:
        """Bytes of a worker's process in which all these jobs sleep at once."""
        async with fresh_database(self._server.dsn) as dsn:
            order = Order(verb="fill", dsn=dsn, workload=workload, settings=candidate.settings)
            async with self.process(candidate, order) as filling:
                filling.begin()
                await filling.heard()
            [report] = await self.together(candidate, replace(order, verb="sleep"), 1)
        check(candidate, report["numbers"], enqueued=workload.jobs, left=0)
        return int(report["resident_bytes"])

    async def start(self, candidate: Candidate, samples: int) -> list[float]:
        """Seconds from a worker's command to its first job."""
        report = await self._alone(candidate, "start", Workload(), samples=samples)
        check(candidate, report["numbers"], enqueued=samples, left=0)
        return list(map(float, report["seconds"]))

    async def _alone(
        self,
        candidate: Candidate,
        verb: Verb,
        workload: Workload,
        *,
        samples: int = 0,
        holds_xmin: bool = False,
    ) -> dict[str, Any]:
        async with fresh_database(self._server.dsn) as dsn, AsyncExitStack() as stack:
            order = Order(verb=verb, dsn=dsn, workload=workload, settings=candidate.settings, samples=samples)
            process = await stack.enter_async_context(self.process(candidate, order))
            session = await stack.enter_async_context(self._session(dsn))
            await session.execute("CHECKPOINT")
            if holds_xmin:
                await stack.enter_async_context(session.transaction(isolation="repeatable_read"))
                await session.fetch("SELECT count(*) FROM pg_class")
            process.begin()
            figures: dict[str, Any] = await process.figures()
            return figures

    async def together(self, candidate: Candidate, order: Order, processes: int) -> list[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            started = [await stack.enter_async_context(self.process(candidate, order)) for _ in range(processes)]
            for process in started:
                process.begin()
            if not order.alone:
                await all_handled(started, order.workload.jobs)
                for process in started:
                    process.begin()
            return [await process.figures() for process in started]

    @asynccontextmanager
    async def process(self, candidate: Candidate, order: Order) -> AsyncIterator[Process]:
        ours = candidate.contestant in _OF_THE_PROJECT
        report = self._directory / f"report-{next(self._numbers)}.json"
        with (self._directory / "contestants.log").open("a") as log:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable if ours else self._peers_python, "-m", "benchmarks.contestants.stage"),
                *(candidate.module or _MODULES[candidate.contestant], replace(order, report=str(report)).to_json()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                # What it starts ends with it.
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (TESTS, WORKER) if ours else (TESTS,)))},
            )
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                process = Process(str(candidate), child, report)
                await process.heard()
                yield process
                await child.wait()
        except TimeoutError:
            raise BrokenError(f"{candidate}: not done after {_TIMEOUT_SECONDS:.0f} s") from None
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)
                await child.wait()
            report.unlink(missing_ok=True)

    @asynccontextmanager
    async def _session(self, dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(dsn, command_timeout=_TIMEOUT_SECONDS)
        try:
            yield connection
        finally:
            await connection.close()


class Teller(Protocol):
    """Says how many jobs it has handled."""

    async def heard(self) -> dict[str, str]: ...


async def all_handled(processes: Sequence[Teller], jobs: int) -> None:
    """Wait until these have handled so many jobs between them; raises what the first to fail does."""
    counts = [0] * len(processes)
    is_all = asyncio.Event()

    async def listen(number: int, process: Teller) -> None:
        while True:
            counts[number] = int((await process.heard())["count"])
            if sum(counts) >= jobs:
                is_all.set()

    listening = [asyncio.create_task(listen(*one)) for one in enumerate(processes)]
    waiting = asyncio.create_task(is_all.wait())
    try:
        done, _ = await asyncio.wait([*listening, waiting], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
    finally:
        for task in (*listening, waiting):
            task.cancel()
        # Else they would still be reading when somebody reads on.
        await asyncio.gather(*listening, waiting, return_exceptions=True)


def check(candidate: Candidate, numbers: list[int], *, enqueued: int, left: int) -> None:
    """Every job was handled exactly once, or is left."""
    twice = len(numbers) - len(set(numbers))
    lost = enqueued - left - len(set(numbers))
    if twice or lost:
        raise BrokenError(f"{candidate}: of {enqueued} jobs, {twice} were handled twice and {lost} not at all")


def _check_order(candidate: Candidate, numbers: list[int], groups: int) -> None:
    """Each group's jobs started in the order in which they were enqueued."""
    last: dict[int, int] = {}
    for number in numbers:
        if number < last.get(number % groups, -1):
            raise BrokenError(f"{candidate}: job {number} started after a later one of its group")
        last[number % groups] = number
