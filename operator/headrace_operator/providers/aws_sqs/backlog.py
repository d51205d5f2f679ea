"""Reads how much queues in SQS hold. The operator alone counts them: each count is billed, and no worker shares one."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from headrace.queues.errors import CountTooSlowError, QueueError
from headrace.queues.sqs.backlog import BacklogSession, QueueRef
from headrace_operator.core.model import OperatorError, QueueDepth
from headrace_operator.core.provider import CountTooLongError
from headrace_operator.providers.aws_sqs.access import client_place
from headrace_operator.providers.aws_sqs.errors import operator_errors, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import TracebackType
    from typing import Self

    from headrace.queues.base import Depth
    from headrace_operator.providers.aws_sqs.place import SqsBackend, SqsPlace


class SqsBacklogReader:
    """Fills `core.provider.BacklogReader` for one region, as one identity, inside an `async with` block."""

    def __init__(self, backend: SqsBackend, on_news: Callable[[SqsPlace | None], None]) -> None:  # noqa: ARG002 - there are none
        self._session = BacklogSession(client_place(backend))
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        with operator_errors():
            await self._open.enter_async_context(self._session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def depths(self, places: Collection[SqsPlace]) -> dict[SqsPlace, QueueDepth | OperatorError]:
        """See `core.provider.BacklogReader`."""
        refs = {place: _ref(place) for place in places}
        with operator_errors():
            found = await self._session.depths(set(refs.values()))
        return {place: _told(found[ref]) for place, ref in refs.items()}

    async def have_ready(self, places: Collection[SqsPlace]) -> dict[SqsPlace, bool | OperatorError]:
        """See `core.provider.BacklogReader`. No look is cheaper than a count, and that took too long."""
        return dict.fromkeys(places, _TOO_LONG)

    async def listen(self, places: Collection[SqsPlace]) -> set[SqsPlace]:  # noqa: ARG002 - whatever they are
        """See `core.provider.BacklogReader`. SQS tells of no jobs but to who polls for them."""
        return set()

    async def listen_no_more(self, places: Collection[SqsPlace]) -> None:
        """See `core.provider.BacklogReader`."""


_TOO_LONG = CountTooLongError("DepthUnknown", "SQS did not answer in time")


def _ref(place: SqsPlace) -> QueueRef:
    return QueueRef(name=place.queue, queue_url=place.queue_url, dead_letter_queue_url=place.dead_letter_queue_url)


def _told(answer: Depth | QueueError) -> QueueDepth | OperatorError:
    match answer:
        case CountTooSlowError():
            return _TOO_LONG
        case QueueError():
            return translated(answer)
        case depth:
            return QueueDepth(
                ready=depth.ready,
                delayed=depth.delayed,
                in_flight=depth.in_flight,
                dead_lettered=depth.dead_lettered,
                is_approximate=depth.is_approximate,
            )
