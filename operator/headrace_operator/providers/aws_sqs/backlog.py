"""Reads how much queues in SQS hold."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from headrace.queues.errors import QueueNotFoundError
from headrace.queues.sqs.client import shared_client
from headrace.queues.sqs.spec import DEAD_LETTER_SUFFIX
from headrace_operator.core.model import OperatorError, QueueDepth
from headrace_operator.providers.aws_sqs.access import client_place
from headrace_operator.providers.aws_sqs.errors import operator_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import TracebackType
    from typing import Self

    from headrace.queues.sqs.client import SqsClient
    from headrace_operator.providers.aws_sqs.place import SqsBackend, SqsPlace

_READY = "ApproximateNumberOfMessages"
_DELAYED = "ApproximateNumberOfMessagesDelayed"
_IN_FLIGHT = "ApproximateNumberOfMessagesNotVisible"


class SqsBacklogReader:
    """Fills `core.provider.BacklogReader` for one backend, inside an `async with` block. SQS tells of no news."""

    def __init__(self, backend: SqsBackend, on_news: Callable[[SqsPlace | None], None]) -> None:  # noqa: ARG002
        self._backend = backend
        self._urls: dict[str, str] = {}
        self._open = AsyncExitStack()
        self._client: SqsClient | None = None

    async def __aenter__(self) -> Self:
        self._client = await self._open.enter_async_context(shared_client(client_place(self._backend)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def depths(self, places: Collection[SqsPlace]) -> dict[SqsPlace, QueueDepth | OperatorError]:
        """See `core.provider.BacklogReader`."""
        found: dict[SqsPlace, QueueDepth | OperatorError] = {}
        for place in places:
            try:
                with operator_errors():
                    found[place] = await self._depth(place)
            except OperatorError as failure:
                found[place] = failure
        return found

    async def have_ready(self, places: Collection[SqsPlace]) -> dict[SqsPlace, bool | OperatorError]:
        """See `core.provider.BacklogReader`."""
        return {
            place: depth if isinstance(depth, OperatorError) else depth.ready > 0
            for place, depth in (await self.depths(places)).items()
        }

    async def listen(self, places: Collection[SqsPlace]) -> Collection[SqsPlace]:  # noqa: ARG002
        """See `core.provider.BacklogReader`."""
        return ()

    async def listen_no_more(self, places: Collection[SqsPlace]) -> None:
        """See `core.provider.BacklogReader`."""

    async def _depth(self, place: SqsPlace) -> QueueDepth:
        counts = await self._counts(place.queue_url or await self._url(place.queue))
        try:
            dead = await self._counts(place.dead_letter_queue_url or await self._url(place.queue + DEAD_LETTER_SUFFIX))
        except QueueNotFoundError:
            dead = {}
        return QueueDepth(
            ready=counts[_READY],
            delayed=counts[_DELAYED],
            in_flight=counts[_IN_FLIGHT],
            dead_lettered=sum(dead.values()),
        )

    async def _counts(self, url: str) -> dict[str, int]:
        asked = {"QueueUrl": url, "AttributeNames": [_READY, _DELAYED, _IN_FLIGHT]}
        assert self._client is not None, "it is open"
        answer = await self._client.call("GetQueueAttributes", asked)
        return {name: int(value) for name, value in answer["Attributes"].items()}

    async def _url(self, name: str) -> str:
        if name not in self._urls:
            assert self._client is not None, "it is open"
            self._urls[name] = str((await self._client.call("GetQueueUrl", {"QueueName": name}))["QueueUrl"])
        return self._urls[name]
