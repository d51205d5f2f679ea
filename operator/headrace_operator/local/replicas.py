"""What Deployments are in a cluster: so many workers, started, looked after, restarted, drained.

How many is not decided here. Which are stopped is as in a cluster: those that are not ready, then the youngest.
"""

from __future__ import annotations

import asyncio
import codecs
import itertools
import logging
import os
import shutil
import signal
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from headrace_operator.core.model import ObjectKey, OperatorError, WorkerPod
from headrace_operator.local.errors import InputError
from headrace_operator.local.loopback import HOST, free_port
from headrace_operator.local.pod import files, variables, worker_container
from headrace_operator.local.processes import PLACE_VARIABLE, Role, dies_with_us, end_started_at, signal_group
from headrace_operator.reconcile.objects import key_of
from headrace_operator.reconcile.work_queue import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import BinaryIO, Self

    from headrace_operator.local.pod import Sources
    from headrace_operator.local.processes import Ledger

    Manifest = Mapping[str, Any]

logger = logging.getLogger(__name__)

STEADY_SECONDS = 30.0
"""A worker that ran for so long and dies has not been crashing all the time."""

_BACKOFF = Backoff(initial_seconds=1.0, multiplier=2.0, longest_seconds=30.0)
_STARTING_LOOK_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_LAST_LINES = 3
_LINE_BYTES = 64 * 1024
_CHECK_SECONDS = 120.0
"""A handler's imports may take their time: what a pod's startup probe allows."""

_OURS = ("HEADRACE_", "BACKGROUND_JOBS__", "SERVICE_BINDING_ROOT")
"""Of the supervisor's own environment, what would tell workers something else than their pool does."""

_KEPT = ("HEADRACE_LOG_LEVEL",)


class Replicas:
    """All workers, inside an `async with` block.

    Parameters
    ----------
    folder
        Where the files of pods are put.
    log
        Is given every line that a worker writes, with the worker's name.
    on_change
        Called with a pool one of whose workers has become ready, or isn't any more, or is gone.
    """

    def __init__(
        self,
        *,
        folder: Path,
        ledger: Ledger,
        log: Callable[[str, str], None],
        on_change: Callable[[ObjectKey], None],
    ) -> None:
        self.unfit: asyncio.Future[InputError] = asyncio.get_running_loop().create_future()
        """Why a pool's workers can't run at all, when one is found that can't."""
        self._folder = folder
        self._ledger = ledger
        self._log = log
        self._on_change = on_change
        self._replicas: dict[ObjectKey, list[Replica]] = {}
        self._wanted: dict[ObjectKey, tuple[Manifest, Sources]] = {}
        self._checks: dict[ObjectKey, asyncio.Task[None]] = {}
        self._completed: dict[ObjectKey, float] = {}
        self._numbers: dict[ObjectKey, itertools.count[int]] = {}
        self._is_stopping = False

    async def __aenter__(self) -> Self:
        # Of a supervisor that was killed.
        shutil.rmtree(self._folder, ignore_errors=True)
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        await self.stop()
        await self._session.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def bring_about(self, deployment: Manifest, sources: Sources) -> None:
        """A Deployment is as it should be from now on."""
        pool = key_of(deployment)
        self._wanted[pool] = deployment, sources
        if pool not in self._checks:
            self._checks[pool] = asyncio.create_task(self._check(pool), name=f"check-{pool}")
        elif self._checks[pool].done():
            self._adjust(pool)

    def restart(self) -> None:
        """Replace every worker: the new ones start at once, the old ones drain."""
        for pool in self._wanted:
            for replica in self._staying(pool):
                replica.leave()
            self._adjust(pool)

    def pods(self, pool: ObjectKey) -> list[WorkerPod]:
        """The workers, as pods are told of."""
        return [replica.as_pod() for replica in self._replicas.get(pool, ())]

    def alive(self, pool: ObjectKey) -> int:
        """How many workers there are, those that drain included."""
        return sum(replica.is_alive for replica in self._replicas.get(pool, ()))

    def completed(self, pool: ObjectKey) -> float:
        """How many jobs the pool's workers have told to be completed, all in all."""
        return self._completed.get(pool, 0.0) + sum(replica.completed for replica in self._replicas.get(pool, ()))

    async def stop(self) -> None:
        """Let all workers drain, and wait until they are gone."""
        self._is_stopping = True
        for check in self._checks.values():
            check.cancel()
        await asyncio.gather(*self._checks.values(), return_exceptions=True)
        everybody = [replica for replicas in self._replicas.values() for replica in replicas]
        for replica in everybody:
            replica.leave()
        await asyncio.gather(*(replica.gone() for replica in everybody))

    def kill(self) -> None:
        """End all workers at once; their jobs start again elsewhere, or next time."""
        for replicas in self._replicas.values():
            for replica in replicas:
                replica.kill()

    def _staying(self, pool: ObjectKey) -> list[Replica]:
        return [replica for replica in self._replicas.get(pool, ()) if not replica.is_leaving]

    def _adjust(self, pool: ObjectKey) -> None:
        if self._is_stopping:
            return
        deployment, sources = self._wanted[pool]
        wanted: int = deployment["spec"]["replicas"]
        staying = self._staying(pool)
        # In the order of their age; the sort leaves it so.
        for replica in sorted(staying, key=lambda replica: not replica.is_ready)[wanted:]:
            replica.leave()
        for _ in range(wanted - len(staying)):
            number = next(self._numbers.setdefault(pool, itertools.count(1)))
            replica = Replica(
                name=f"{pool.name}-{number}",
                deployment=deployment,
                sources=sources,
                folder=self._folder / pool.namespace / f"{pool.name}-{number}",
                ledger=self._ledger,
                session=self._session,
                log=self._log,
                on_change=lambda: self._on_change(pool),
            )
            replica.start(lambda gone: self._forget(pool, gone))
            self._replicas.setdefault(pool, []).append(replica)

    def _forget(self, pool: ObjectKey, gone: Replica) -> None:
        self._replicas[pool].remove(gone)
        self._completed[pool] = self._completed.get(pool, 0.0) + gone.completed
        self._on_change(pool)

    async def _check(self, pool: ObjectKey) -> None:
        """See that the pool's workers can run at all, once, before the first of them is wanted."""
        deployment, sources = self._wanted[pool]
        probe = Replica(
            name=f"{pool.name}-check",
            deployment=deployment,
            sources=sources,
            folder=self._folder / pool.namespace / f"{pool.name}-check",
            ledger=self._ledger,
            session=self._session,
            log=self._log,
            on_change=lambda: None,
        )
        problem = await probe.check()
        if problem is not None and not self.unfit.done():
            self.unfit.set_result(InputError(f"JobWorkerPool {pool.name}: {problem}"))
        elif problem is None:
            self._adjust(pool)


class Replica:
    """One worker: a process, and after its death the next one, as long as it is wanted."""

    def __init__(
        self,
        *,
        name: str,
        deployment: Manifest,
        sources: Sources,
        folder: Path,
        ledger: Ledger,
        session: aiohttp.ClientSession,
        log: Callable[[str, str], None],
        on_change: Callable[[], None],
    ) -> None:
        self.name = name
        self.is_ready = False
        self.completed = 0.0
        self._namespace = key_of(deployment).namespace
        self._template: Manifest = deployment["spec"]["template"]
        self._sources = sources
        self._folder = folder
        self._ledger = ledger
        self._session = session
        self._log = log
        self._on_change = on_change
        self._leaving = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._address: str | None = None
        self._trouble: tuple[str, str] | None = None
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._completed_before = 0.0
        """By its earlier processes: each counts from zero."""
        self._life: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def is_leaving(self) -> bool:
        """Whether it is told to stop."""
        return self._leaving.is_set()

    @property
    def is_alive(self) -> bool:
        """Whether it has a process."""
        return self._process is not None

    def as_pod(self) -> WorkerPod:
        """What reconciling is told of it."""
        reason, message = (None, None) if self._trouble is None or self.is_leaving else self._trouble
        return WorkerPod(
            name=self.name,
            address=self._address,
            ready=self.is_ready and not self.is_leaving,
            waiting_reason=reason,
            waiting_message=message,
        )

    def start(self, when_gone: Callable[[Replica], None]) -> None:
        """Begin its life."""
        self._life = asyncio.create_task(self._live(), name=self.name)
        self._life.add_done_callback(lambda _: when_gone(self))

    def leave(self) -> None:
        """Tell it to drain; it is killed if it is still there after its grace period."""
        if self.is_leaving:
            return
        self._leaving.set()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        grace_seconds: float = self._template["spec"]["terminationGracePeriodSeconds"]
        self._deadline = asyncio.get_running_loop().call_later(grace_seconds, self.kill)

    def kill(self) -> None:
        """End it, and whatever it has started."""
        self._leaving.set()
        if self._process is not None:
            signal_group(self._process.pid, signal.SIGKILL)

    async def gone(self) -> None:
        """Wait until it is."""
        if self._life is not None:
            await asyncio.wait([self._life])

    async def check(self) -> str | None:
        """Have the worker load its settings and its handler, and nothing else; what is wrong with them."""
        try:
            environment = self._environment(free_port())
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "headrace", "worker", "--check"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                preexec_fn=dies_with_us(signal.SIGKILL),
                env=environment,
            )
        except OperatorError as error:
            return error.message
        except OSError as error:
            return f"its process can't be started: {error.strerror}"
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                _, said = await process.communicate()
        except TimeoutError:
            return f"its handler could not be loaded in {_CHECK_SECONDS:.0f} s"
        finally:
            signal_group(process.pid, signal.SIGKILL)
            end_started_at(self._folder)
            shutil.rmtree(self._folder, ignore_errors=True)
        if process.returncode == 0:
            return None
        lines = said.decode(errors="replace").strip().splitlines()
        return "; ".join(line.removeprefix("headrace: ") for line in lines) or "its worker can't start"

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        try:
            while not self.is_leaving:
                started_seconds = loop.time()
                self._trouble = await self._run() or self._trouble
                self._on_change()
                failures = 1 if loop.time() - started_seconds >= STEADY_SECONDS else failures + 1
                with suppress(TimeoutError):
                    async with asyncio.timeout(_BACKOFF.delay_seconds(failures)):
                        await self._leaving.wait()
        finally:
            if self._deadline is not None:
                self._deadline.cancel()
            shutil.rmtree(self._folder, ignore_errors=True)

    async def _run(self) -> tuple[str, str] | None:
        """Run one process to its end; returns what was the matter, where it was not told to stop."""
        port = free_port()
        try:
            process, output = await self._start(port)
        except OperatorError as error:
            return error.reason, error.message
        except OSError as error:
            return "StartError", f"its process can't be started: {error.strerror}"
        self._process, self._address = process, f"http://{HOST}:{port}"
        self._last_lines.clear()
        if self.is_leaving:
            process.send_signal(signal.SIGTERM)
        talking = asyncio.create_task(self._listen(output), name=f"{self.name}-log")
        watching = asyncio.create_task(self._watch(self._address), name=f"{self.name}-watch")
        try:
            status = await process.wait()
        finally:
            # Whatever it has started goes with it, as in a container.
            signal_group(process.pid, signal.SIGKILL)
            end_started_at(self._folder)
            self._ledger.remove(process.pid)
            watching.cancel()
            self._process, self._address, self.is_ready = None, None, False
            self._completed_before = self.completed
            # What is left in the pipe is its last words; a process that kept the pipe must not hold us up.
            await asyncio.wait([talking], timeout=1.0)
            talking.cancel()
            await asyncio.wait([talking])
            output.close()
        if self.is_leaving:
            return None
        last_words = " ".join(self._last_lines)
        logger.warning("%s ended with status %d and is started again", self.name, status)
        return "CrashLoopBackOff", f"the worker ended with status {status}: {last_words}".rstrip(": ")

    async def _start(self, port: int) -> tuple[asyncio.subprocess.Process, BinaryIO]:
        """Start a process; returns it, and where what it writes is read.

        Raises
        ------
        OperatorError
            Where its environment can't be made.
        OSError
            Where the system can't.
        """
        environment = self._environment(port)
        # Not a pipe of asyncio's: with that, a process would be waited for until nobody has the pipe any more.
        reading, writing = os.pipe()
        output = os.fdopen(reading, "rb", buffering=0)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "headrace", "worker"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dies_with_us(signal.SIGTERM),
                env=environment,
            )
            try:
                self._ledger.add(process.pid, Role.WORKER)
            except OSError:
                # Whom the next start would not know must not run.
                signal_group(process.pid, signal.SIGKILL)
                await process.wait()
                raise
        except BaseException:
            output.close()
            raise
        finally:
            os.close(writing)
        return process, output

    def _environment(self, port: int) -> dict[str, str]:
        """The pod's variables over those of this machine; its files put down."""
        root = self._folder / "bindings"
        shutil.rmtree(root, ignore_errors=True)
        for path, content in files(self._template, namespace=self._namespace, sources=self._sources).items():
            file = root / path
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_bytes(content)
        of_machine = {name: value for name, value in os.environ.items() if not name.startswith(_OURS) or name in _KEPT}
        of_pod = variables(
            worker_container(self._template["spec"]),
            name=self.name,
            namespace=self._namespace,
            sources=self._sources,
            root=root,
        )
        ours = {"HEADRACE_METRICS_ADDRESS": f"{HOST}:{port}", PLACE_VARIABLE: str(self._folder)}
        return {**of_machine, "PYTHONUNBUFFERED": "1", **of_pod, **ours}

    async def _listen(self, output: BinaryIO) -> None:
        """Pass its lines on, and remember the last ones."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), output
        )
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        rest = ""
        try:
            while chunk := await reader.read(_LINE_BYTES):
                *lines, rest = (rest + decoder.decode(chunk)).split("\n")
                if len(rest) > _LINE_BYTES:
                    lines, rest = [*lines, rest], ""
                for line in lines:
                    self._say(line)
            if rest:
                self._say(rest)
        finally:
            transport.close()

    def _say(self, line: str) -> None:
        self._last_lines.append(line.strip())
        self._log(self.name, line)

    async def _watch(self, address: str) -> None:
        """Look at it like a probe, and at how much it has done."""
        while True:
            is_ready = await self._get(f"{address}/readyz") is not None
            if is_ready != self.is_ready:
                self.is_ready = is_ready
                if is_ready:
                    self._trouble = None
                self._on_change()
            if is_ready and (page := await self._get(f"{address}/metrics")) is not None:
                self.completed = self._completed_before + _completed(page)
            await asyncio.sleep(_LOOK_SECONDS if is_ready else _STARTING_LOOK_SECONDS)

    async def _get(self, url: str) -> str | None:
        try:
            async with self._session.get(url) as response:
                return await response.text() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None


def _completed(page: str) -> float:
    """The jobs completed, by a worker's page of metrics."""
    lines = (line for line in page.splitlines() if line.startswith("background_jobs_completed_total{"))
    return sum(float(line.rpartition(" ")[2]) for line in lines)
