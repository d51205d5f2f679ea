"""The values that reconciling passes around."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

GROUP = "headrace.dev"
VERSION = "v1alpha1"

QUEUE_LABEL = "headrace.dev/queue"
POOL_LABEL = "headrace.dev/pool"
PAUSED_ANNOTATION = "headrace.dev/paused"
ADOPT_ANNOTATION = "headrace.dev/adopt"
BINDING_REVISION_ANNOTATION = "headrace.dev/binding-revision"
SCALED_TO_ZERO_ANNOTATION = "headrace.dev/scaled-to-zero"
QUEUE_FINALIZER = "headrace.dev/provisioned"
FIELD_MANAGER = "headrace-operator"


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """A namespaced object's namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What a queue's ready workers have seen of it, taken together (`headrace.queues.base.Witnessed`)."""

    asked: int
    """How many of them there are."""
    empty: int = 0
    """How many said that they hold nothing, and that their polls come back empty."""
    empty_for_seconds: float = 0.0
    """For how long these have polled in vain, the least of them."""
    held: int = 0
    """How many jobs they hold, as far as they said so."""
    oldest_age_seconds: float = 0.0
    """The greatest age of a job that one of them has got lately."""

    @property
    def is_empty(self) -> bool:
        """Whether all of them, and at least one, have found nothing and hold nothing."""
        return self.asked == self.empty > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDepth:
    """How much a queue holds (`headrace.queues.base.Depth` tells what each number means)."""

    ready: int = 0
    blocked: int = 0
    delayed: int = 0
    in_flight: int = 0
    dead_lettered: int = 0
    oldest_ready_age_seconds: float = 0.0
    paused: bool = False
    is_lower_bound: bool = False
    is_approximate: bool = False
    witness: Witness | None = None
    """What workers said beside an approximate count; None where none was asked."""
    in_flight_seconds: float = 0.0
    """For how long all jobs in flight have been held, added up."""
    next_due_seconds: float | None = None
    """When the next delayed job is due, from the count on; None without one, or where that isn't known."""
    arrived: int | None = None
    """Jobs enqueued since the queue was made; None where the backend doesn't tell that, as of the next ones."""
    completed: int | None = None
    """Jobs completed since then."""
    failed: int | None = None
    """Attempts that failed since then."""
    service_seconds: float | None = None
    """How long all these attempts ran, added up."""

    @property
    def startable(self) -> int:
        """What a worker more could start: nothing while the queue is paused, however much is ready."""
        return 0 if self.paused else self.ready

    @property
    def load(self) -> int:
        """What there is to do: what could start, and what is in flight, since leasing a job is no less work."""
        return self.startable + self.in_flight

    @property
    def is_known_empty(self) -> bool:
        """Whether it is sure that there is nothing to do: approximate counts may miss what workers do not."""
        return not self.load and (not self.is_approximate or (self.witness is not None and self.witness.is_empty))


class SampleSource(StrEnum):
    """Who told the depth."""

    WORKERS = "Workers"
    BACKEND = "Backend"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A depth with its time and its teller."""

    depth: QueueDepth
    sampled_at: datetime
    """When it was counted, whoever asked for it since."""
    source: SampleSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is known of how much a queue holds."""

    sample: Sample | None
    """The newest one, however old; None where there was none yet."""
    failure: OperatorError | None
    """Why the last attempt brought none."""
    tried_at: datetime
    """When the last attempt ended."""

    @property
    def current(self) -> Sample | None:
        """The sample, unless a later attempt failed."""
        return self.sample if self.failure is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretContent:
    """A Secret. `repr` shows nothing of its data."""

    version: str
    """Another one says that something in it has changed."""
    data: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPod:
    """What reconciling needs to know of one worker pod."""

    name: str
    address: str | None
    """`http://ip:port` of the metrics endpoint; None without an IP."""
    ready: bool
    waiting_reason: str | None = None
    """Why its worker container waits (ImagePullBackOff, CrashLoopBackOff, CreateContainerConfigError …)."""
    waiting_message: str | None = None


class Finding(NamedTuple):
    """What of a queue is not as it should be, though it works: for a condition."""

    reason: str
    """One CamelCase word, for machines."""
    message: str
    """What it means, and what to do."""


class EventType(StrEnum):
    """An Event's type."""

    NORMAL = "Normal"
    WARNING = "Warning"


# Failures that reconciling knows, whatever adapter they come from. Adapters map their libraries' exceptions to these.
class OperatorError(Exception):
    """A failure with a condition's reason (CamelCase) and a message that says what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class TransientError(OperatorError):
    """May heal by itself or once mended outside of this object: retried every few seconds."""

    def __init__(
        self, reason: str, message: str, *, retry_after_seconds: float | None = None, is_of_all: bool | None = None
    ) -> None:
        super().__init__(reason, message)
        self.retry_after_seconds = retry_after_seconds
        """How long whoever refused has asked to be left alone; None where it has not."""
        self.is_of_all = reason == "BackendUnreachable" if is_of_all is None else is_of_all
        """Whether it is true of all places of the same administration, be it that nobody answers there."""


class AwaitedError(TransientError):
    """Heals by what asks for a look by itself: a Secret that comes, a queue that gets ready. Tried rarely, so."""


class RefusedError(OperatorError):
    """The object itself must change (or its rival go): tried at once when it does, and every few minutes else."""


class PassingError(TransientError):
    """Says nothing of the object, and so nothing in its conditions: the Kubernetes API is away, or was busy."""


class ConflictError(PassingError):
    """Somebody else wrote first; read again."""


def awaited(failure: OperatorError) -> OperatorError:
    """The failure, of which something else tells when it may have healed."""
    if isinstance(failure, TransientError) and not isinstance(failure, PassingError):
        return AwaitedError(failure.reason, failure.message)
    return failure
