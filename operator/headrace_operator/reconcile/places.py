"""Where a JobQueue's queue is, by its spec and the Secrets that it names, and whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace_operator.core.provider import QueueOwner, provider_of
from headrace_operator.reconcile.objects import QUEUE_KIND
from headrace_operator.reconcile.secrets import SecretUser

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headrace_operator.core.binding import QueueBinding
    from headrace_operator.core.provider import AnyProvider, Place, Providers, SecretKey
    from headrace_operator.core.spec import JobQueue
    from headrace_operator.reconcile.ports import Cluster
    from headrace_operator.reconcile.secrets import Secrets


class ReadQueue:
    """A JobQueue with what its Secrets hold. `repr` shows nothing of that."""

    def __init__(
        self,
        queue: JobQueue,
        provider: AnyProvider,
        secrets: Mapping[SecretKey, bytes],
        seen_from_here: Callable[[str], str],
    ) -> None:
        self._queue = queue
        self._provider = provider
        self._secrets = secrets
        self._seen_from_here = seen_from_here

    def place(self) -> Place:
        """See `core.provider.Provider.place`."""
        found: Place = self._provider.place(self._queue, self._secrets, self._seen_from_here)
        return found

    def binding(self, status: Mapping[str, Any]) -> QueueBinding | None:
        """See `core.provider.Provider.binding`."""
        return self._provider.binding(self._queue, self._secrets, status)


class QueuePlaces:
    """Finds where queues are.

    Parameters
    ----------
    as_seen_from_here
        Turns the name of a host that means something to the pods of a namespace into what means the same here.
    """

    def __init__(
        self, cluster: Cluster, secrets: Secrets, providers: Providers, as_seen_from_here: Callable[[str, str], str]
    ) -> None:
        self._cluster = cluster
        self._secrets = secrets
        self._providers = providers
        self._as_seen_from_here = as_seen_from_here

    async def read(self, queue: JobQueue) -> ReadQueue:
        """What it takes to make the queue."""
        provider = provider_of(queue, self._providers)
        return await self._read(queue, provider, provider.secrets(queue))

    async def read_to_remove(self, queue: JobQueue) -> ReadQueue:
        """What it takes to remove it."""
        provider = provider_of(queue, self._providers)
        return await self._read(queue, provider, provider.removal_secrets(queue))

    async def owner(self, queue: JobQueue) -> QueueOwner:
        """Whose the place is."""
        metadata = queue.metadata
        return QueueOwner(
            namespace=metadata.namespace,
            name=metadata.name,
            uid=metadata.uid,
            cluster=await self._cluster.identity(),
            adopts_from=queue.adopts_from,
        )

    async def _read(self, queue: JobQueue, provider: AnyProvider, keys: Sequence[SecretKey]) -> ReadQueue:
        user = SecretUser(QUEUE_KIND, queue.key)
        found = {key: await self._secrets.find(user, key) for key in keys}
        contents = {key: value.content for key, value in found.items() if value is not None}
        return ReadQueue(
            queue, provider, contents, lambda host: self._as_seen_from_here(host, queue.metadata.namespace)
        )
