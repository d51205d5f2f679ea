"""What happens to workers, the database and Redis: kills, pauses, restarts, old transactions."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import asyncpg
from redis import exceptions as redis_errors

from soak.verdict import Blow
from support.postgres import PostgresServer
from support.redis import RedisServer
from support.worker_process import WorkerProcess, running_worker

_CLIENT_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class Workers:
    """Worker processes that are started anew when they end."""

    def __init__(self, directory: Path, dsn: str, redis_url: str, *, count: int) -> None:
        self.exits: dict[int, float] = {}
        self.wrong: list[str] = []
        self._to_end: set[int] = set()
        self._directory = directory
        self._dsn = dsn
        self._redis_url = redis_url
        self._stack = ExitStack()
        self._started = 0
        self.running = [self._start() for _ in range(count)]

    def _start(self) -> WorkerProcess:
        self._started += 1
        # Imported by the worker's process alone, the app opens its records.
        knows_tomorrow = {"KNOWS_TOMORROW": "1"} if self._started % 4 else {}
        return self._stack.enter_context(
            running_worker(
                self._directory,
                *("--app", "soak.app:app", "--concurrency", "8", "--drain-timeout", "5"),
                dsn=self._dsn,
                module="soak.worker",
                BACKGROUND_JOBS__REDIS__CONNECTIONSTRING=self._redis_url,
                HEADRACE_LOG_LEVEL="INFO",
                BACKGROUND_JOBS__RETRY__INITIALDELAYSECONDS="0.2",
                **knows_tomorrow,
            )
        )

    def replace(self, worker: WorkerProcess) -> None:
        """Note a worker's end and start another in its place."""
        self._note_end(worker)
        self.running[self.running.index(worker)] = self._start()

    async def drain(self, worker: WorkerProcess) -> None:
        """End a worker as Kubernetes does."""
        self._to_end.add(worker.process.pid)
        worker.terminate()
        status = await worker.exit_status()
        # One that has not come so far as to handle signals ends by them.
        if status and "serving metrics" in worker.log:
            self.wrong.append(f"worker {worker.process.pid} drained with status {status}: {worker.log_file.name}")
        self._note_end(worker)

    def _note_end(self, worker: WorkerProcess) -> None:
        self.exits[worker.process.pid] = time.monotonic()

    def look_after(self) -> None:
        """Replace workers that ended by themselves, which is a fault."""
        for worker in list(self.running):
            if worker.process.poll() is not None and worker.process.pid not in self._to_end:
                self.wrong.append(
                    f"worker {worker.process.pid} ended by itself with status {worker.process.returncode}: "
                    f"{worker.log_file.name}"
                )
                self.replace(worker)

    async def stop(self) -> None:
        """Drain them all."""
        await asyncio.gather(*map(self.drain, self.running))

    def close(self) -> None:
        """End what still runs."""
        self._stack.close()


class Monkey:
    """Strikes every few seconds until told to stop.

    Parameters
    ----------
    server
        The queue's.
    redis
        The idempotency store's.
    workers
        Whom to hit.
    chance
        Decides.
    short
        Leave out what takes half a minute by itself. Each other kind comes once.
    """

    def __init__(
        self,
        server: PostgresServer,
        redis: RedisServer,
        workers: Workers,
        chance: random.Random,
        *,
        short: bool = False,
    ) -> None:
        self.blows: list[Blow] = []
        self._redis = redis
        # One blow to Redis at a time: started anew, it is not paused any more.
        self._redis_turn = asyncio.Lock()
        self._server = server
        self._workers = workers
        self._chance = chance
        self._background = asyncio.TaskGroup()
        self._busy: set[int] = set()
        self._away_seconds = [0.0, 1.0] if short else [0.0, 1.0, 6.0]
        self._kinds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.kill_worker, 4),
            (self.drain_worker, 2),
            (self.kill_backends, 4),
            (self.cancel_backends, 2),
            (self.restart_fast, 1),
            (self.restart_immediately, 1),
            (self.pause_long, 1),
            (self.pause_briefly, 2),
            (self.hold_xmin, 1),
            (self.kill_redis, 2),
            (self.kill_redis_clients, 2),
            (self.pause_redis_long, 1),
            (self.pause_redis_briefly, 1),
        ]
        if short:
            long = (self.pause_long, self.hold_xmin, self.pause_redis_long)
            self._kinds = [(blow, 1) for blow, _ in self._kinds if blow not in long]

    async def run(self, seconds: float, *, every_seconds: float) -> None:
        """Strike for so long, and on a slow machine until each kind has come once."""
        end = time.monotonic() + seconds
        deck: list[Callable[[], Awaitable[None]]] = []
        to_come = {blow for blow, _ in self._kinds}
        async with self._background:
            while (remaining := end - time.monotonic()) > 0 or to_come:
                pause = every_seconds * self._chance.uniform(0.3, 1.7)
                await asyncio.sleep(min(remaining, pause) if remaining > 0 else pause)
                if not deck:  # Each kind as often as it should come, in a new order each time.
                    deck = [blow for blow, times in self._kinds for _ in range(times)]
                    self._chance.shuffle(deck)
                blow = deck.pop()
                await blow()
                to_come.discard(blow)

    def _note(self, kind: str, at: float, process: int | None = None) -> None:
        self.blows.append(Blow(kind=kind, at=at, until=time.monotonic(), process=process))

    async def _victim(self) -> WorkerProcess:
        """One whom no other blow has, once there is one."""
        while not (  # noqa: ASYNC110 - blows end by themselves
            free := [worker for worker in self._workers.running if worker.process.pid not in self._busy]
        ):
            await asyncio.sleep(0.1)
        return self._chance.choice(free)

    async def kill_worker(self) -> None:
        """SIGKILL."""
        worker = await self._victim()
        at = time.monotonic()
        worker.kill()
        self._note("kill", at, worker.process.pid)
        self._workers.replace(worker)

    async def drain_worker(self) -> None:
        """SIGTERM; the next starts when it has gone."""
        worker = await self._victim()
        self._later(self._drain(worker), worker)

    async def _drain(self, worker: WorkerProcess) -> None:
        at = time.monotonic()
        await self._workers.drain(worker)
        self._note("drain", at, worker.process.pid)
        self._workers.replace(worker)

    async def pause_long(self) -> None:
        """SIGSTOP for longer than the lease and the others' look at it."""
        await self._pause(32.0)

    async def pause_briefly(self) -> None:
        """SIGSTOP for less than costs the lease."""
        await self._pause(4.0)

    async def _pause(self, seconds: float) -> None:
        worker = await self._victim()
        self._later(self._stop_and_go(worker, seconds), worker)

    async def _stop_and_go(self, worker: WorkerProcess, seconds: float) -> None:
        at = time.monotonic()
        worker.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._note("pause", at, worker.process.pid)
            worker.process.send_signal(signal.SIGCONT)

    async def kill_backends(self) -> None:
        """pg_terminate_backend on about half of the clients' sessions."""
        await self._on_backends("pg_terminate_backend", "backends killed")

    async def cancel_backends(self) -> None:
        """pg_cancel_backend on all of them."""
        await self._on_backends("pg_cancel_backend", "queries cancelled")

    async def _on_backends(self, function: str, kind: str) -> None:
        at = time.monotonic()
        with suppress(*_CLIENT_ERRORS):
            connection = await asyncpg.connect(self._server.dsn, timeout=2)
            try:
                await connection.execute(
                    f"SELECT {function}(pid) FROM pg_stat_activity "
                    "WHERE application_name LIKE 'headrace%' AND random() < 0.5"
                )
            finally:
                await connection.close()
        self._note(kind, at)

    async def restart_fast(self) -> None:
        """Connections are broken off, all is written, the server is away for a moment."""
        await self._restart("restart", immediately=False)

    async def restart_immediately(self) -> None:
        """As a crash: the server comes back by recovery."""
        await self._restart("crash", immediately=True)

    async def _restart(self, kind: str, *, immediately: bool) -> None:
        at = time.monotonic()
        await asyncio.to_thread(self._server.stop, immediately=immediately)
        await asyncio.sleep(self._chance.choice(self._away_seconds))
        await asyncio.to_thread(self._server.start)
        self._note(kind, at)

    async def hold_xmin(self) -> None:
        """An old transaction: what dies meanwhile can't be cleared away."""
        self._later(self._hold_xmin(20.0))

    async def _hold_xmin(self, seconds: float) -> None:
        at = time.monotonic()
        with suppress(*_CLIENT_ERRORS):
            connection = await asyncpg.connect(self._server.dsn, timeout=2)
            try:
                async with connection.transaction(isolation="repeatable_read"):
                    await connection.fetchval("SELECT count(*) FROM headrace.queues")
                    await asyncio.sleep(seconds)
            finally:
                connection.terminate()
        self._note("xmin held", at, process=-1)

    async def kill_redis(self) -> None:
        """SIGKILL; it comes back with all that it had answered."""
        async with self._redis_turn:
            at = time.monotonic()
            await asyncio.to_thread(self._redis.stop)
            await asyncio.sleep(self._chance.choice(self._away_seconds))
            await asyncio.to_thread(self._redis.start)
            self._note("redis killed", at)

    async def kill_redis_clients(self) -> None:
        """CLIENT KILL of all but our own."""
        async with self._redis_turn:
            at = time.monotonic()
            with suppress(redis_errors.RedisError):
                await asyncio.to_thread(self._redis.command, "CLIENT", "KILL", "TYPE", "normal")
            self._note("redis clients killed", at)

    async def pause_redis_long(self) -> None:
        """SIGSTOP until every claim has run out."""
        self._later(self._pause_redis(25.0))

    async def pause_redis_briefly(self) -> None:
        """SIGSTOP for longer than a call waits, not so long that claims run out."""
        self._later(self._pause_redis(6.0))

    async def _pause_redis(self, seconds: float) -> None:
        async with self._redis_turn:
            at = time.monotonic()
            self._redis.pause()
            try:
                await asyncio.sleep(seconds)
            finally:
                self._note("redis paused", at)
                self._redis.resume()

    def _later(self, blow: Awaitable[None], worker: WorkerProcess | None = None) -> None:
        """Go on with others meanwhile."""

        async def strike() -> None:
            if worker is None:
                await blow
                return
            self._busy.add(worker.process.pid)
            try:
                await blow
            finally:
                self._busy.discard(worker.process.pid)

        self._background.create_task(strike())
