"""One run: the folder, the database, the objects, the reconcilers, the workers; and their orderly end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from watchfiles import PythonFilter, awatch

from headrace_operator.clock import SystemClock
from headrace_operator.core.model import ObjectKey
from headrace_operator.core.rollout import OperatorRelease
from headrace_operator.core.spec import DeletionPolicy, ScalingMode
from headrace_operator.local.cluster import LocalCluster
from headrace_operator.local.databases import embedded_queues, give_embedded, require_known_hosts
from headrace_operator.local.errors import DevError
from headrace_operator.local.folder import FULL, folder
from headrace_operator.local.loopback import HOST
from headrace_operator.local.manifests import read_manifests
from headrace_operator.local.meaning import as_decided_here, meaningless_fields
from headrace_operator.local.postgres import EmbeddedPostgres
from headrace_operator.local.replicas import Replicas
from headrace_operator.local.status import Rate, Status, pool_status, queue_status
from headrace_operator.local.views import view
from headrace_operator.providers import PROVIDERS
from headrace_operator.reconcile.controllers import Controllers
from headrace_operator.reconcile.demand import Demand
from headrace_operator.reconcile.objects import POOL_KIND, QUEUE_KIND, key_of
from headrace_operator.reconcile.observations import Observations
from headrace_operator.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping, Sequence

    from headrace_operator.core.model import QueueDepth
    from headrace_operator.local.folder import Folder
    from headrace_operator.local.manifests import Manifests
    from headrace_operator.local.views import View

    Manifest = Mapping[str, Any]

logger = logging.getLogger(__name__)

SHOW_SECONDS = 1.0
KILLED = 130
"""The exit status of a run that was not let drain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run is told."""

    files: tuple[str, ...]
    namespace: str = "default"
    data_dir: Path | None = None
    port: int | None = None
    reloads: bool = False
    is_quiet: bool = False
    output: str = "table"


def run(options: Options) -> int:
    """Run until told to stop; returns the exit status.

    Raises
    ------
    DevError
        When it can't begin, or can't go on; everything is stopped by then.
    """
    manifests = read_manifests(options.files, namespace=options.namespace)
    try:
        with folder(options.data_dir) as place, view(options.output, is_quiet=options.is_quiet) as shown, _logs(shown):
            return asyncio.run(_Run(options, manifests, place, shown).run())
    except OSError as error:
        if error.errno in FULL:
            where = f" ({error.filename})" if error.filename else ""
            raise DevError(f"the disk is full{where}: free some of it, or give another --data-dir") from None
        raise


class _Run:
    def __init__(self, options: Options, manifests: Manifests, place: Folder, shown: View) -> None:
        self._options = options
        self._manifests = manifests
        self._folder = place
        self._view = shown
        self._clock = SystemClock()
        self._observations = Observations(self._clock)
        self._controllers = Controllers(self._clock, self._observations)
        self._rates: dict[ObjectKey, Rate] = {}
        self._stopping = asyncio.Event()
        self._killing = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        # The kernel tells that the terminal was closed, and a shell tells it again: that is no second Ctrl-C.
        loop.add_signal_handler(signal.SIGHUP, self._stopping.set)
        async with AsyncExitStack() as stack:
            postgres, dsns = await self._database(stack)
            self._tell_start(dsns)
            replicas = await stack.enter_async_context(
                Replicas(
                    folder=self._folder.path / "pods",
                    ledger=self._folder.ledger,
                    log=self._view.log,
                    on_change=self._controllers.show_pool_change,
                )
            )
            cluster = LocalCluster(self._manifests, replicas, self._controllers.show)
            demand = Demand(self._controllers.objects, cluster)
            sampler = Sampler(
                self._clock,
                PROVIDERS,
                self._observations,
                pods_of=demand.pods,
                interval_seconds=demand.interval_seconds,
                on_news=self._controllers.show_news,
            )
            await stack.enter_async_context(sampler)
            tasks = [self._show(replicas), _unfit(replicas)]
            if postgres is not None:
                tasks.append(self._outlive(postgres))
            if self._options.reloads:
                tasks.append(_reload(replicas))
            async with self._controllers.running(
                cluster=cluster,
                providers=PROVIDERS,
                sampling=sampler,
                # Workers stand on this very machine.
                as_seen_from_here=lambda host, _: host,
                release=OperatorRelease(image=""),
                metrics_api_failure=lambda: None,
            ):
                for manifest in (*self._manifests.queues, *self._manifests.pools):
                    cluster.put(manifest)
                failure = await self._until_stopped(tasks)
            # Nobody decides any more: what runs, drains.
            self._stopping.set()
            await self._drain(replicas)
        if failure is not None:
            raise failure
        return KILLED if self._killing.is_set() else 0

    def _stop(self) -> None:
        if self._stopping.is_set():
            self._killing.set()
        self._stopping.set()

    async def _database(self, stack: AsyncExitStack) -> tuple[EmbeddedPostgres | None, dict[str, str]]:
        """The embedded server, where one is needed, and the DSNs of the namespaces that live in it."""
        queues = embedded_queues(self._manifests)
        require_known_hosts(self._manifests, _is_known)
        if not queues:
            return None, {}
        postgres = await stack.enter_async_context(
            EmbeddedPostgres(
                self._folder.path, self._folder.ledger, is_kept=self._folder.is_kept, port=self._options.port
            )
        )
        namespaces = dict.fromkeys(key_of(queue).namespace for queue in queues)
        dsns = {namespace: await postgres.database_of(namespace) for namespace in namespaces}
        self._manifests.notes += give_embedded(self._manifests, queues, dsns)
        return postgres, dsns

    async def _outlive(self, postgres: EmbeddedPostgres) -> None:
        failure = await postgres.ended()
        # Without it, no job can be completed, nor handed back.
        self._killing.set()
        raise failure

    def _tell_start(self, dsns: Mapping[str, str]) -> None:
        notes = list(self._manifests.notes)
        if self._folder.leftovers:
            notes.append(f"ended what an earlier run had left running: {self._folder.leftovers} processes")
        notes += [
            f"JobQueue {key_of(queue).name}: without meaning here and ignored: deletionPolicy (nothing is deleted)"
            for queue in self._manifests.queues
            if queue["spec"]["deletionPolicy"] == DeletionPolicy.DELETE
        ]
        for index, pool in enumerate(self._manifests.pools):
            name = key_of(pool).name
            if meaningless := meaningless_fields(pool):
                notes.append(f"JobWorkerPool {name}: without meaning here and ignored: {', '.join(meaningless)}")
            if pool["spec"]["autoscaling"]["mode"] == ScalingMode.HPA:
                notes.append(f"JobWorkerPool {name}: mode HPA is decided as mode Direct, by the operator's own code")
            self._manifests.pools[index] = as_decided_here(pool)
            notes += _silent_server(pool)
        self._view.started(dsns=dsns, folder=str(self._folder.path), notes=notes)

    async def _until_stopped(self, work: Sequence[Coroutine[Any, Any, None]]) -> DevError | None:
        """Do the work until told to stop, or until some of it fails; returns why."""
        tasks = [asyncio.ensure_future(each) for each in (self._stopping.wait(), *work)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            error = task.exception()
            if isinstance(error, DevError):
                return error
            if error is not None:
                raise error
        return None

    async def _drain(self, replicas: Replicas) -> None:
        alive = sum(replicas.alive(key_of(pool)) for pool in self._manifests.pools)
        if alive:
            drain = "1 worker drains" if alive == 1 else f"{alive} workers drain"
            self._view.say(f"{drain}: what runs may finish; a second Ctrl-C kills")
        draining = asyncio.create_task(replicas.stop())
        killing = asyncio.create_task(self._killing.wait())
        await asyncio.wait([draining, killing], return_when=asyncio.FIRST_COMPLETED)
        killing.cancel()
        if not draining.done():
            replicas.kill()
        await draining

    async def _show(self, replicas: Replicas) -> None:
        while True:
            status = Status(
                queues=[
                    queue_status(self._newest(QUEUE_KIND, queue), self._depth(key_of(queue)))
                    for queue in self._manifests.queues
                ],
                pools=[self._pool_status(replicas, pool) for pool in self._manifests.pools],
            )
            self._view.show(status)
            if not self._view.is_read:
                return
            await asyncio.sleep(SHOW_SECONDS)

    def _pool_status(self, replicas: Replicas, pool: Manifest) -> Any:
        key = key_of(pool)
        rate = self._rates.setdefault(key, Rate())
        return pool_status(
            self._newest(POOL_KIND, pool),
            current=replicas.alive(key),
            ready=sum(pod.ready for pod in replicas.pods(key)),
            jobs_per_second=rate.per_second(replicas.completed(key), asyncio.get_running_loop().time()),
        )

    def _depth(self, queue: ObjectKey) -> QueueDepth | None:
        """None where it isn't known: the JobQueue's conditions say why."""
        reading = self._observations.reading(queue)
        return None if reading is None or reading.current is None else reading.current.depth

    def _newest(self, kind: str, manifest: Manifest) -> Manifest:
        return self._controllers.objects.get(kind, key_of(manifest)) or manifest


async def _unfit(replicas: Replicas) -> None:
    raise await asyncio.shield(replicas.unfit)


async def _reload(replicas: Replicas) -> None:
    """Replace all workers when Python files change where their modules are looked for."""
    paths = {Path.cwd(), *(Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry)}
    try:
        async for changes in awatch(*(path for path in paths if path.is_dir()), watch_filter=PythonFilter()):
            names = sorted({Path(path).name for _, path in changes})
            logger.info("%s changed: the workers are restarted", ", ".join(names))
            replicas.restart()
    except (OSError, RuntimeError) as error:
        # The system watches so many folders at most.
        raise DevError(
            f"the files here can't be watched ({error}): start in a smaller folder, or without --reload"
        ) from None


def _silent_server(pool: Manifest) -> list[str]:
    """A handler of kind http is the user's own server, and it may not run yet."""
    url = (pool["spec"]["handler"].get("http") or {}).get("url")
    if not url:
        return []
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or HOST, port), timeout=1.0):
            return []
    except (OSError, ValueError):
        return [f"JobWorkerPool {key_of(pool).name}: nothing answers at {url}: start your server there"]


def _is_known(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        return False
    return True


@contextmanager
def _logs(shown: View) -> Iterator[None]:
    """What is logged meanwhile is said where the run is shown."""

    class LinesHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shown.say(self.format(record))

    handler = LinesHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in ("asyncio", "watchfiles"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.removeHandler(handler)
