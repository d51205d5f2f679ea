"""Provider AwsSqs: its rooms behind the port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.queues import BACKENDS
from headrace.queues.sqs.recent import Recent
from headrace_operator.core.limits import BackendLimits
from headrace_operator.core.provider import Pace
from headrace_operator.providers.aws_sqs import findings as what_is_found
from headrace_operator.providers.aws_sqs import place as places
from headrace_operator.providers.aws_sqs.binding import binding_of
from headrace_operator.providers.aws_sqs.limits import excess
from headrace_operator.providers.aws_sqs.spec import aws_sqs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headrace_operator.core.binding import QueueBinding
    from headrace_operator.core.model import Finding, QueueDepth
    from headrace_operator.core.provider import SecretKey
    from headrace_operator.core.scaling import Limit
    from headrace_operator.core.spec import JobQueue, JobWorkerPool
    from headrace_operator.providers.aws_sqs.backlog import SqsBacklogReader
    from headrace_operator.providers.aws_sqs.place import SqsBackend, SqsPlace
    from headrace_operator.providers.aws_sqs.provisioning import SqsQueueProvisioner
    from headrace_operator.settings import AwsSettings


class AwsSqsProvider:
    """Fills `core.provider.Provider`.

    Parameters
    ----------
    settings
        For whom the operator's own identity is used.
    """

    name = "AwsSqs"

    pace = Pace(workers_count=False, unscaled_seconds=4.0, shortest_seconds=2.5, gathers=False)
    """With the dead-letter queue every half minute, at most 26 counting calls a minute for a queue however many workers
    there are: 14 by default, 17 while it sleeps."""
    resync_seconds = 150.0
    """Drift is to be repaired within 5 minutes: this leaves room for a thousand queues to have their turn."""

    def __init__(self, settings: AwsSettings) -> None:
        self._settings = settings
        self._recent = Recent()

    @property
    def limits(self) -> BackendLimits:
        """See `core.provider.Provider`."""
        can = BACKENDS["sqs"].capabilities
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
        return places.secret_keys(queue)

    def place(
        self, queue: JobQueue, secrets: Mapping[SecretKey, bytes], seen_from_here: Callable[[str], str]
    ) -> SqsPlace:
        """See `core.provider.Provider`."""
        return places.place_of(queue, secrets, seen_from_here, self._settings)

    def binding(
        self, queue: JobQueue, secrets: Mapping[SecretKey, bytes], status: Mapping[str, Any]
    ) -> QueueBinding | None:
        """See `core.provider.Provider`."""
        return binding_of(queue, secrets, status)

    def settings(self, queue: JobQueue) -> Mapping[str, Any]:
        """See `core.provider.Provider`; under ``sqs`` what a queue there is beyond them."""
        sqs = aws_sqs_of(queue)
        return queue.settings() | {
            "sqs": {
                "wait_time_seconds": sqs.wait_time_seconds,
                "dead_letter_retention_confirmed": what_is_found.is_confirmed(queue),
                "kms_key_id": None if sqs.encryption is None else sqs.encryption.kms_key_id,
                "policy": sqs.policy,
                "tags": tuple(sorted(sqs.tags.items())),
            }
        }

    def worker_environment(self, queue: JobQueue) -> Mapping[str, str]:
        """See `core.provider.Provider`; the operator counts the queue, and its workers don't."""
        sqs = aws_sqs_of(queue)
        return {
            "AWSSQS__WAITTIMESECONDS": str(sqs.wait_time_seconds),
            "AWSSQS__MAXNUMBEROFMESSAGES": str(sqs.max_number_of_messages),
            "AWSSQS__COUNTINTERVALSECONDS": "0",
        }

    def findings(self, status: Mapping[str, Any], depth: QueueDepth | None) -> Sequence[Finding]:
        """See `core.provider.Provider`."""
        return what_is_found.found(status, depth)

    def ceiling(
        self,
        status: Mapping[str, Any],  # noqa: ARG002 - it is the same for every queue
        pool: JobWorkerPool,
        replicas: int,
    ) -> Limit | None:
        """See `core.provider.Provider`."""
        return excess(pool, replicas)

    def open_provisioner(self) -> SqsQueueProvisioner:
        """See `core.provider.Provider`."""
        # On demand: where no queue is in SQS, no client of AWS need be installed.
        from headrace_operator.providers.aws_sqs.provisioning import SqsQueueProvisioner  # noqa: PLC0415

        return SqsQueueProvisioner(self._recent)

    def open_backlog(self, backend: SqsBackend, on_news: Callable[[SqsPlace | None], None]) -> SqsBacklogReader:
        """See `core.provider.Provider`."""
        from headrace_operator.providers.aws_sqs.backlog import SqsBacklogReader  # noqa: PLC0415 - as above

        return SqsBacklogReader(backend, on_news)
