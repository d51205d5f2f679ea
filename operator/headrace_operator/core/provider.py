"""The port of providers: what it takes for a JobQueue to live somewhere.

A provider is one folder in ``providers/`` and one line of its table. Reconciling and sampling know no other name of it
than this port's: what they hold of it (a place, its backend, the settings) is opaque to them, and only compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from headrace_operator.core.model import OperatorError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from headrace_operator.core.binding import QueueBinding
    from headrace_operator.core.limits import BackendLimits
    from headrace_operator.core.model import Finding, QueueDepth
    from headrace_operator.core.scaling import Limit
    from headrace_operator.core.spec import JobQueue, JobWorkerPool


class SecretKey(NamedTuple):
    """A key of a Secret in the queue's own namespace."""

    name: str
    key: str
    is_optional: bool = False
    """Whether the Secret may lack it."""

    def __str__(self) -> str:
        return f"key {self.key} of Secret {self.name}"


class Place(Protocol):
    """Where one queue lives. Hashable; `repr` shows nothing of it."""

    @property
    def provider(self) -> str:
        """The name of its provider."""
        ...

    @property
    def backend(self) -> Hashable:
        """What one connection serves, with all queues there: opaque, but for its provider. `repr` shows nothing."""
        ...

    @property
    def administration(self) -> Hashable:
        """What provisions it, and all places of the same value, one after another: opaque, as the backend."""
        ...

    @property
    def label(self) -> str:
        """What messages call it."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOwner:
    """The JobQueue that a place belongs to."""

    namespace: str
    name: str
    uid: str
    cluster: str = ""
    """What tells its cluster from others."""
    adopts_from: str = ""
    """The uid of the JobQueue of the same name in another cluster from which it takes its place over, be that alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """What provisioning found and did."""

    changed: bool
    details: str
    """One sentence for an Event."""
    status: Mapping[str, Any] = field(default_factory=dict)
    """The provider's own part of the JobQueue's status."""
    findings: Sequence[Finding] = ()
    """What is not as it should be and is not ours to change, the most serious first."""


class Removed(NamedTuple):
    """What went with a queue."""

    jobs: int
    """How many were waiting, running or dead-lettered."""
    is_approximate: bool = False
    """Whether the backend knows only about how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Who counts a provider's queues, and how often that may be."""

    workers_count: bool = True
    """Whether workers count for themselves and publish it, so that the backend is asked only where none does. False:
    the operator alone counts, and workers tell what they have seen."""
    unscaled_seconds: float = 5.0
    """How often a queue is counted that has no workers, unless its backend tells of new jobs."""
    shortest_seconds: float = 0.0
    """No queue is counted more often, whatever its pools want."""
    gathers: bool = True
    """Whether many queues cost one question no more than one does, so that it is worth asking early for those that are
    due soon."""


class CountTooLongError(OperatorError):
    """A backend that is well could not count in time."""


PlaceT = TypeVar("PlaceT", bound=Place)
PlaceT_contra = TypeVar("PlaceT_contra", bound=Place, contravariant=True)


class BacklogReader(Protocol[PlaceT]):
    """Reads how much the queues of one backend hold. Every call ends within seconds; one is under way at a time.

    All raise OperatorError when the backend is away, whatever queue is asked for.
    """

    async def depths(self, places: Collection[PlaceT]) -> Mapping[PlaceT, QueueDepth | OperatorError]:
        """The depths of these queues, or why one can't be told: `CountTooLongError` where there was no time for it."""
        ...

    async def have_ready(self, places: Collection[PlaceT]) -> Mapping[PlaceT, bool | OperatorError]:
        """Whether something could start in them now, or why that can't be told: cheap, however much they hold."""
        ...

    async def listen(self, places: Collection[PlaceT]) -> Collection[PlaceT]:
        """Be told of new jobs in these queues from now on; gives those for which that is so, none where it can't be.

        What came before is found by looking once more. Costs producers a little, until `listen_no_more`.
        """
        ...

    async def listen_no_more(self, places: Collection[PlaceT]) -> None:
        """Be told of these no more."""
        ...


class QueueProvisioner(Protocol[PlaceT_contra]):
    """Makes and removes queues."""

    async def provision(
        self, place: PlaceT_contra, owner: QueueOwner, settings: Mapping[str, Any], progress: Callable[[str], None]
    ) -> Provisioned:
        """Make or adjust the queue, and see that workers can connect to it. Takes as long as it takes.

        `progress` is told each step that may take long, in a few words.

        Raises
        ------
        RefusedError
            ``NameTaken`` where the place belongs to another.
        TransientError
            For whatever may heal; ``BackendUnreachable`` where nothing answers, which is true of all that has the same
            administration unless ``is_of_all`` says otherwise. What a client library times out with is none of our
            errors: let it out as this one.
        """
        ...

    async def remove(self, place: PlaceT_contra, owner: QueueOwner, progress: Callable[[str], None]) -> Removed | None:
        """Remove the queue and the jobs in it; None where there is no queue of this owner's."""
        ...


class Provider(Protocol[PlaceT]):
    """What makes, watches and removes queues of one kind. Everything but the last two is pure.

    What the operator's settings say of a provider, it is made with.
    """

    @property
    def name(self) -> str:
        """As ``spec.provider`` says it; the block of the spec that is the provider's has this name in camelCase."""
        ...

    @property
    def limits(self) -> BackendLimits:
        """What its backend can do of all that a spec may ask for."""
        ...

    @property
    def pace(self) -> Pace:
        """Who counts its queues, and how often that may be."""
        ...

    @property
    def resync_seconds(self) -> float:
        """Within one and a half times this a queue is made sure of again, and what others did to it undone."""
        ...

    def secrets(self, queue: JobQueue) -> Sequence[SecretKey]:
        """What must be read to make the queue.

        Raises
        ------
        RefusedError
            ``InvalidSpec``; so do the others that take the queue.
        """
        ...

    def removal_secrets(self, queue: JobQueue) -> Sequence[SecretKey]:
        """What must be read to remove the queue."""
        ...

    def place(
        self, queue: JobQueue, secrets: Mapping[SecretKey, bytes], seen_from_here: Callable[[str], str]
    ) -> PlaceT:
        """Where the queue lives.

        Parameters
        ----------
        secrets
            The content of `secrets`, or to remove the queue, that of `removal_secrets` alone.
        seen_from_here
            Turns the name of a host that means something to the pods of the queue's namespace into what means the same
            here.

        Raises
        ------
        TransientError
            ``InvalidConnection``, when a Secret doesn't hold what it should.
        """
        ...

    def binding(
        self, queue: JobQueue, secrets: Mapping[SecretKey, bytes], status: Mapping[str, Any]
    ) -> QueueBinding | None:
        """What applications and workers connect with.

        Parameters
        ----------
        status
            The provider's own part of the JobQueue's status, as provisioning told it. Empty: it never has.

        Returns
        -------
        QueueBinding | None
            None where that is known only once the queue was provisioned, and it was not.
        """
        ...

    def settings(self, queue: JobQueue) -> Mapping[str, Any]:
        """What `provision` brings about: the keyword arguments of ``headrace.queues.base.QueueSettings``."""
        ...

    def worker_environment(self, queue: JobQueue) -> Mapping[str, str]:
        """What a worker must be told beyond the binding: settings by their names, without their common prefix."""
        ...

    def findings(self, status: Mapping[str, Any], depth: QueueDepth | None) -> Sequence[Finding]:
        """What the depth tells that is not as it should be, the most serious first.

        Parameters
        ----------
        status
            The provider's own part of the JobQueue's status.
        depth
            None where it is not known.
        """
        ...

    def ceiling(self, status: Mapping[str, Any], pool: JobWorkerPool, replicas: int) -> Limit | None:
        """What to say where the pool may have more workers than the backend can take.

        Parameters
        ----------
        status
            The provider's own part of the JobQueue's status.
        replicas
            The number of workers, which is what counts where nobody scales the pool.
        """
        ...

    def open_provisioner(self) -> AbstractAsyncContextManager[QueueProvisioner[PlaceT]]:
        """Provision and remove queues of one administration, one after another: connections may be kept in between."""
        ...

    def open_backlog(
        self, backend: Any, on_news: Callable[[PlaceT | None], None]
    ) -> AbstractAsyncContextManager[BacklogReader[PlaceT]]:
        """Read all queues of a place's backend: one connection, or one client.

        `on_news` is called with a place that is listened to when there may be new jobs in it, and with None when of
        none is told any more.
        """
        ...


AnyProvider: TypeAlias = Provider[Any]
AnyBacklogReader: TypeAlias = BacklogReader[Any]
Providers: TypeAlias = "Mapping[str, AnyProvider]"


def provider_of(queue: JobQueue, providers: Providers) -> AnyProvider:
    """The provider that a JobQueue names.

    Raises
    ------
    RefusedError
        ``InvalidSpec``, when there is none of this name.
    """
    found = providers.get(queue.spec.provider)
    if found is None:
        raise RefusedError(
            "InvalidSpec", f"spec.provider: there is no {queue.spec.provider!r}: give one of {', '.join(providers)}"
        )
    return found
