"""Builds the operator out of its parts: the one module that knows every class."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from headrace_operator import endpoints
from headrace_operator.core.hosts import seen_from_elsewhere
from headrace_operator.core.model import ObjectKey, OperatorError, RefusedError, TransientError
from headrace_operator.core.rollout import OperatorRelease
from headrace_operator.kubernetes import KubernetesApi, KubernetesCluster, MetricsApiAccess
from headrace_operator.metrics import OperatorMetrics
from headrace_operator.metrics_api import ExternalMetricsServer
from headrace_operator.providers import providers
from headrace_operator.reconcile.controllers import Controllers
from headrace_operator.reconcile.demand import Demand
from headrace_operator.reconcile.observations import Observations
from headrace_operator.sampling import Sampler
from headrace_operator.threads import LoopThreads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from headrace_operator.clock import SystemClock
    from headrace_operator.settings import Settings

logger = logging.getLogger(__name__)

METRICS_API_RETRY_SECONDS = 10.0


class Operator:
    """The running operator: is shown objects, and looks after them by itself."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._observations = Observations(clock)
        self._metrics = OperatorMetrics(self._observations)
        self._controllers = Controllers(clock, self._observations, self._metrics.observe)
        self._metrics.show_waiting(self._controllers.waiting_looks)
        self.show = self._controllers.show
        self.show_gone = self._controllers.show_gone
        self.is_watching = False
        """Whether objects are shown to it."""

    def readiness_problem(self) -> str | None:
        """Why the operator does not work yet."""
        return None if self.is_watching else "objects are not watched yet"

    @asynccontextmanager
    async def running(self, settings: Settings) -> AsyncIterator[None]:
        """Work inside the block: all that must be there before objects are watched is there when it is entered."""
        asyncio.get_running_loop().set_default_executor(LoopThreads())
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                endpoints.serving(
                    settings.listen_address,
                    registry=self._metrics.registry,
                    health_problem=self._controllers.health_problem,
                    readiness_problem=self.readiness_problem,
                )
            )
            api = await stack.enter_async_context(KubernetesApi(observe=self._metrics.requested))
            metrics_api = await stack.enter_async_context(_metrics_api(settings, api, self._observations, self._clock))
            cluster = await stack.enter_async_context(
                KubernetesCluster(
                    api, namespaces=settings.watch_namespaces, on_pool_change=self._controllers.show_pool_change
                )
            )
            known = providers(settings)
            demand = Demand(self._controllers.objects, cluster)
            sampler = Sampler(
                self._clock,
                known,
                self._observations,
                pods_of=demand.pods,
                interval_seconds=demand.interval_seconds,
                on_news=self._controllers.show_news,
                observer=self._metrics,
            )
            await stack.enter_async_context(
                self._controllers.running(
                    cluster=cluster,
                    providers=known,
                    sampling=await stack.enter_async_context(sampler),
                    as_seen_from_here=seen_from_elsewhere,
                    release=OperatorRelease(
                        image=settings.worker_image,
                        image_pull_policy=settings.worker_image_pull_policy,
                        pools_at_once=settings.release_pools_at_once,
                    ),
                    metrics_api_failure=metrics_api.failure,
                )
            )
            yield


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
            except Exception as error:
                self._server = None
                self._failure = TransientError("Unexpected", f"an unexpected error: {type(error).__name__}")
                logger.exception("The external metrics can't be served")
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
