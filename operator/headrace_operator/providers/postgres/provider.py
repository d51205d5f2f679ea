"""Provider Postgres: its rooms behind the port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.queues import BACKENDS
from headrace_operator.core.limits import BackendLimits
from headrace_operator.core.provider import Pace
from headrace_operator.providers.postgres import place as places
from headrace_operator.providers.postgres.backlog import PostgresBacklogReader
from headrace_operator.providers.postgres.binding import binding_of
from headrace_operator.providers.postgres.limits import shortage
from headrace_operator.providers.postgres.provisioning import PostgresQueueProvisioner
from headrace_operator.providers.postgres.spec import postgres_of
from headrace_operator.providers.postgres.status import budget_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headrace_operator.core.binding import QueueBinding
    from headrace_operator.core.model import Finding, QueueDepth
    from headrace_operator.core.provider import SecretKey
    from headrace_operator.core.scaling import Limit
    from headrace_operator.core.spec import JobQueue, JobWorkerPool
    from headrace_operator.providers.postgres.place import PostgresBackend, PostgresPlace


class PostgresProvider:
    """Fills `core.provider.Provider`."""

    name = "Postgres"
    pace = Pace()
    resync_seconds = 3600.0

    @property
    def limits(self) -> BackendLimits:
        """See `core.provider.Provider`."""
        can = BACKENDS["postgresql"].capabilities
        return BackendLimits(
            max_hold_seconds=can.max_hold_seconds,
            max_retry_delay_seconds=can.max_retry_delay_seconds,
            can_pause=can.pausing,
        )

    def secrets(self, queue: JobQueue) -> Sequence[SecretKey]:
        """See `core.provider.Provider`."""
        return places.secret_keys(queue)

    def removal_secrets(self, queue: JobQueue) -> Sequence[SecretKey]:
        """See `core.provider.Provider`."""
        return places.removal_secret_keys(queue)

    def place(
        self, queue: JobQueue, secrets: Mapping[SecretKey, bytes], seen_from_here: Callable[[str], str]
    ) -> PostgresPlace:
        """See `core.provider.Provider`."""
        return places.place_of(queue, secrets, seen_from_here)

    def binding(
        self,
        queue: JobQueue,
        secrets: Mapping[SecretKey, bytes],
        status: Mapping[str, Any],  # noqa: ARG002 - the Secrets say it all
    ) -> QueueBinding:
        """See `core.provider.Provider`."""
        return binding_of(queue, secrets)

    def settings(self, queue: JobQueue) -> Mapping[str, Any]:
        """See `core.provider.Provider`."""
        return queue.settings() | {
            "completed_retention_seconds": float(postgres_of(queue).completed_retention_seconds),
        }

    def worker_environment(self, queue: JobQueue) -> Mapping[str, str]:
        """See `core.provider.Provider`."""
        return {"POSTGRES__SCHEMA": postgres_of(queue).schema}

    def findings(
        self,
        status: Mapping[str, Any],  # noqa: ARG002 - what is wrong in a database is a failure
        depth: QueueDepth | None,  # noqa: ARG002
    ) -> Sequence[Finding]:
        """See `core.provider.Provider`."""
        return ()

    def ceiling(self, status: Mapping[str, Any], pool: JobWorkerPool, replicas: int) -> Limit | None:
        """See `core.provider.Provider`."""
        return shortage(pool, replicas, budget_of(status))

    def open_provisioner(self) -> PostgresQueueProvisioner:
        """See `core.provider.Provider`."""
        return PostgresQueueProvisioner()

    def open_backlog(
        self, backend: PostgresBackend, on_news: Callable[[PostgresPlace | None], None]
    ) -> PostgresBacklogReader:
        """See `core.provider.Provider`."""
        return PostgresBacklogReader(backend, on_news)
