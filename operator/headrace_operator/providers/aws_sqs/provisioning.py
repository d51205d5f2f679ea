"""Makes, adjusts and removes queues in SQS."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from headrace.queues.base import Owner, QueueSettings
from headrace.queues.sqs.client import shared_client
from headrace.queues.sqs.provisioner import SqsProvisioner
from headrace.queues.sqs.spec import SqsQueueSpec
from headrace_operator.core.model import Finding
from headrace_operator.core.provider import Provisioned, Removed
from headrace_operator.providers.aws_sqs.access import client_place
from headrace_operator.providers.aws_sqs.errors import operator_errors
from headrace_operator.providers.aws_sqs.status import sqs_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from headrace.queues.sqs.client import SqsClient
    from headrace.queues.sqs.recent import Recent
    from headrace_operator.core.provider import QueueOwner
    from headrace_operator.providers.aws_sqs.place import SqsBackend, SqsPlace


class SqsQueueProvisioner:
    """Fills `core.provider.QueueProvisioner`, inside an `async with` block: a client for each backend.

    Parameters
    ----------
    recent
        What was set a short while ago and may not show yet; it outlives the block.
    """

    def __init__(self, recent: Recent) -> None:
        self._recent = recent
        self._clients: dict[SqsBackend, SqsClient] = {}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def provision(
        self, place: SqsPlace, owner: QueueOwner, settings: Mapping[str, Any], progress: Callable[[str], None]
    ) -> Provisioned:
        """See `core.provider.QueueProvisioner`."""
        common = {name: value for name, value in settings.items() if name != "sqs"}
        spec = _spec(place, settings["sqs"])
        with operator_errors():
            done = await (await self._at(place, progress)).ensure(
                place.queue, QueueSettings(**common), _owner(owner), spec, adopts_from=owner.adopts_from
            )
        findings = [Finding(finding.reason, finding.message) for finding in done.facts["findings"]]
        return Provisioned(changed=done.changed, details=done.details, status=sqs_status(done.facts), findings=findings)

    async def remove(self, place: SqsPlace, owner: QueueOwner, progress: Callable[[str], None]) -> Removed | None:
        """See `core.provider.QueueProvisioner`."""
        with operator_errors():
            removed = await (await self._at(place, progress)).remove(place.queue, _owner(owner), _spec(place, {}))
        return None if removed is None else Removed(removed.jobs, is_approximate=True)

    async def _at(self, place: SqsPlace, progress: Callable[[str], None]) -> SqsProvisioner:
        client = self._clients.get(place.backend)
        if client is None:
            client = await self._open.enter_async_context(shared_client(client_place(place.backend)))
            self._clients[place.backend] = client
        recent = self._recent.within(place.backend.endpoint_url)
        return SqsProvisioner(client, region=place.backend.region, recent=recent, progress=progress)


def _spec(place: SqsPlace, rest: Mapping[str, Any]) -> SqsQueueSpec:
    return SqsQueueSpec(
        queue_url=place.queue_url,
        dead_letter_queue_url=place.dead_letter_queue_url,
        adoption_needs_tag=place.needs_tag,
        **rest,
    )


def _owner(owner: QueueOwner) -> Owner:
    return Owner(namespace=owner.namespace, name=owner.name, uid=owner.uid, cluster=owner.cluster)
