"""The port by which all rooms call the service, and who fills it.

A client belongs to one event loop and one place. Queues of one place share one, and with it the connections, the
credentials and what is known of the service's clock: `shared_client`.
"""

from __future__ import annotations

import asyncio
import importlib
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    from headrace.queues.sqs.place import ClientKind, Place


class SqsClient(Protocol):
    """Calls of the service."""

    async def call(
        self, operation: str, parameters: Mapping[str, Any], *, patience_seconds: float | None = None
    ) -> dict[str, Any]:
        """Call an operation and give its answer, tried again as botocore does.

        Parameters
        ----------
        operation
            Its name in the service's API: ``"SendMessageBatch"``.
        parameters
            Names and shapes of the API: ``{"QueueUrl": …, "Entries": […]}``.
        patience_seconds
            How long the call may take in all, tries included, beyond what a receive waits for messages
            (``WaitTimeSeconds``). None: 10 s for each try.

        Returns
        -------
        dict[str, Any]
            The API's own answer; attributes are strings. ``Failed`` entries of a batch are no error here.

        Raises
        ------
        headrace.queues.sqs.errors.SqsError
            What went wrong, in our words; each is one of `headrace.queues.errors` as well.
        """
        ...


def open_client(place: Place, *, client: ClientKind = "signed") -> AbstractAsyncContextManager[SqsClient]:
    """A client of one's own.

    Parameters
    ----------
    place
        Where, and as whom.
    client
        ``signed``: what is called for every job is signed and sent by hand, with botocore's credentials, endpoint and
        rules for trying again. ``boto``: everything by aioboto3.
    """
    # On demand: the port itself needs neither.
    opened: AbstractAsyncContextManager[SqsClient]
    match client:
        case "signed":
            opened = importlib.import_module("headrace.queues.sqs.signed").SignedClient.opened(place)
        case "boto":
            opened = importlib.import_module("headrace.queues.sqs.boto").BotoClient.opened(place)
    return opened


class _Shared:
    """One client, and who uses it. Whoever comes first opens it, whoever leaves last closes it."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.users = 0
        self.client: SqsClient | None = None
        self.stack = AsyncExitStack()


_SHARED: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Place, str], _Shared]] = WeakKeyDictionary()


@asynccontextmanager
async def shared_client(place: Place, *, client: ClientKind = "signed") -> AsyncIterator[SqsClient]:
    """The client of this event loop for a place: one for all who use it at the same time. See `open_client`."""
    of_loop = _SHARED.setdefault(asyncio.get_running_loop(), {})
    key = (place, client)
    shared = of_loop.setdefault(key, _Shared())
    shared.users += 1
    try:
        async with shared.turn:
            if shared.client is None:
                shared.client = await shared.stack.enter_async_context(open_client(place, client=client))
        yield shared.client
    finally:
        shared.users -= 1
        if not shared.users:
            # Whoever comes while it is being closed opens another.
            of_loop.pop(key, None)
            await shared.stack.aclose()
