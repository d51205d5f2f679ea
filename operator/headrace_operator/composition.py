"""Builds the operator out of its parts: the one module that knows every class."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from headrace_operator import endpoints
from headrace_operator.core.model import ObjectKey, OperatorError, RefusedError
from headrace_operator.kubernetes import KubernetesApi, KubernetesCluster, MetricsApiAccess
from headrace_operator.metrics import OperatorMetrics
from headrace_operator.metrics_api import ExternalMetricsServer
from headrace_operator.provisioning import PostgresProvisioning
from headrace_operator.reconcile.objects import POOL_KIND, QUEUE_KIND, ObjectStore, key_of
from headrace_operator.reconcile.observations import Observations
from headrace_operator.reconcile.pool import PoolReconciler
from headrace_operator.reconcile.queue import QueueReconciler
from headrace_operator.reconcile.work_queue import WorkQueue
from headrace_operator.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from headrace_operator.settings import Settings

    Manifest = Mapping[str, Any]

logger = logging.getLogger(__name__)

STUCK_SECONDS = 120.0
"""Keys that wait, or writes that the watch does not show, for so long: a restart is the cure."""

METRICS_API_RETRY_SECONDS = 10.0


class SystemClock:
    """Fills `reconcile.ports.Clock`."""

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(UTC)


class Operator:
    """The running operator: is shown objects, and looks after them by itself."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._objects = ObjectStore()
        self._observations = Observations(clock)
        self._metrics = OperatorMetrics(self._observations)
        self._look: dict[str, Callable[[ObjectKey], Awaitable[float | None]]] = {}
        # Queues that wait for their databases must not keep pools waiting.
        self._work = {kind: self._work_queue(kind) for kind in (QUEUE_KIND, POOL_KIND)}
        self.is_watching = False
        """Whether objects are shown to it."""

    def show(self, manifest: Manifest) -> None:
        """The watch shows an object."""
        self._objects.seen(manifest)
        self._work[manifest["kind"]].add(key_of(manifest))

    def show_gone(self, manifest: Manifest) -> None:
        """The watch shows that an object is deleted."""
        self._objects.gone(manifest)
        self._work[manifest["kind"]].add(key_of(manifest))

    def health_problem(self) -> str | None:
        """Why the operator should be restarted."""
        for kind, work in self._work.items():
            if (seconds := work.stuck_seconds()) > STUCK_SECONDS:
                return f"{kind} objects have waited for {seconds:.0f} s"
        if (seconds := self._objects.watch_lag_seconds(self._clock.now().timestamp())) > STUCK_SECONDS:
            return f"the watch has not shown our own writes for {seconds:.0f} s"
        return None

    def readiness_problem(self) -> str | None:
        """Why the operator does not work yet."""
        return None if self.is_watching else "objects are not watched yet"

    @asynccontextmanager
    async def running(self, settings: Settings) -> AsyncIterator[None]:
        """Work inside the block: all that must be there before objects are watched is there when it is entered."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                endpoints.serving(
                    settings.listen_address,
                    registry=self._metrics.registry,
                    health_problem=self.health_problem,
                    readiness_problem=self.readiness_problem,
                )
            )
            api = await stack.enter_async_context(KubernetesApi())
            metrics_api = await stack.enter_async_context(_metrics_api(settings, api, self._observations, self._clock))
            cluster = await stack.enter_async_context(
                KubernetesCluster(api, namespaces=settings.watch_namespaces, on_pool_change=self._work[POOL_KIND].add)
            )
            sampler = await stack.enter_async_context(Sampler(self._clock))
            queues = QueueReconciler(
                cluster=cluster,
                provisioning=PostgresProvisioning(),
                sampling=sampler,
                objects=self._objects,
                observations=self._observations,
                clock=self._clock,
                wake_pools=self._wake_pools,
            )
            pools = PoolReconciler(
                cluster=cluster,
                sampling=sampler,
                objects=self._objects,
                observations=self._observations,
                clock=self._clock,
                image=settings.worker_image,
                image_pull_policy=settings.worker_image_pull_policy,
                metrics_api_failure=metrics_api.failure,
            )
            self._look = {QUEUE_KIND: queues.reconcile, POOL_KIND: pools.reconcile}
            for work in self._work.values():
                await stack.enter_async_context(work.running())
            yield

    def _work_queue(self, kind: str) -> WorkQueue[ObjectKey]:
        def look(key: ObjectKey) -> Awaitable[float | None]:
            return self._look[kind](key)

        def observe(key: ObjectKey, seconds: float, error: Exception | None) -> None:
            self._metrics.observe(kind, seconds, error)
            _log_look(kind, key, error)

        return WorkQueue(look, observe)

    def _wake_pools(self, queue: ObjectKey) -> None:
        for pool in self._objects.pools_of(queue):
            self._work[POOL_KIND].add(pool)


def _log_look(kind: str, key: ObjectKey, error: Exception | None) -> None:
    match error:
        case None:
            logger.debug("%s %s: looked at", kind, key)
        case OperatorError():
            # The transition into this state was logged as such; every further attempt would only repeat it.
            logger.debug("%s %s: %s: %s", kind, key, error.reason, error.message)
        case _:
            logger.error("%s %s: an unexpected error", kind, key, exc_info=error)


class _MetricsApi:
    """Serves the external metrics, and goes on trying where that fails: Direct and Off need none of it."""

    def __init__(self, make: Callable[[], ExternalMetricsServer]) -> None:
        self.tried = asyncio.Event()
        self._make = make
        self._server: ExternalMetricsServer | None = None
        self._failure: OperatorError | None = None

    def failure(self) -> OperatorError | None:
        """Why HorizontalPodAutoscalers can't read the depth of queues."""
        if self._server is None:
            return self._failure
        state = self._server.api_service
        return None if state.ours else RefusedError(state.reason, state.message)

    async def run(self) -> None:
        """Serve, until cancelled."""
        while True:
            try:
                async with self._make() as self._server:
                    self.tried.set()
                    await asyncio.Event().wait()
            except OperatorError as error:
                self._server, self._failure = None, error
                logger.warning("The external metrics can't be served: %s", error.message)
                self.tried.set()
            await asyncio.sleep(METRICS_API_RETRY_SECONDS)


class _NoMetricsApi:
    def failure(self) -> OperatorError:
        return RefusedError(
            "MetricsApiOff",
            "the operator serves no external metrics (HEADRACE_METRICS_API_ADDRESS is empty): "
            "use mode Direct, or turn them on in the chart (externalMetricsApi.enabled)",
        )


@asynccontextmanager
async def _metrics_api(
    settings: Settings, api: KubernetesApi, observations: Observations, clock: SystemClock
) -> AsyncIterator[_MetricsApi | _NoMetricsApi]:
    """Tried before the block is entered: kopf must not meet an API of ours that nobody serves."""
    address = settings.metrics_api_address
    if address is None:
        yield _NoMetricsApi()
        return

    name = ObjectKey(settings.namespace, settings.metrics_api_service)

    def make() -> ExternalMetricsServer:
        return ExternalMetricsServer(
            MetricsApiAccess(api), observations, clock, address=address, service=name, secret=name
        )

    metrics_api = _MetricsApi(make)
    task = asyncio.create_task(metrics_api.run(), name="external-metrics")
    try:
        await metrics_api.tried.wait()
        yield metrics_api
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
