"""The custom resources as typed values, parsed from the mappings that the API server gives.

The schema in ``crds/`` is the first to refuse what is wrong; what still gets here (objects of an older schema, files on
a laptop) is refused with the field's name. Defaults repeat the schema's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypeVar

import msgspec

from headrace_operator.core.model import (
    ADOPT_ANNOTATION,
    PAUSED_ANNOTATION,
    SCALED_TO_ZERO_ANNOTATION,
    ObjectKey,
    RefusedError,
)

JOBS_PER_REPLICA = 10
"""How many jobs, ready or in flight, there should be for each worker where a spec names no target."""


class DeletionPolicy(StrEnum):
    """What happens to the jobs when their JobQueue goes."""

    RETAIN = "Retain"
    DELETE = "Delete"


class ScalingMode(StrEnum):
    """Who decides on the number of workers."""

    HPA = "HPA"
    DIRECT = "Direct"
    OFF = "Off"


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of a manifest: snake_case here, camelCase there."""


class Metadata(Part, frozen=True, kw_only=True):
    """What reconciling reads of an object's metadata."""

    namespace: str
    name: str
    uid: str
    generation: int = 0
    annotations: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()
    deletion_timestamp: datetime | None = None


class Resource(Part, frozen=True, kw_only=True):
    """What both custom resources have in common."""

    api_version: str
    kind: str
    metadata: Metadata

    @classmethod
    def prepare(cls, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        """The manifest in the shape of these fields."""
        return manifest

    @property
    def key(self) -> ObjectKey:
        """Namespace and name."""
        return ObjectKey(self.metadata.namespace, self.metadata.name)

    @property
    def paused(self) -> bool:
        """Whether the annotation says so."""
        return self.metadata.annotations.get(PAUSED_ANNOTATION, "").lower() == "true"

    @property
    def owner_reference(self) -> dict[str, Any]:
        """What makes an object ours, and lets it go with us."""
        return {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "name": self.metadata.name,
            "uid": self.metadata.uid,
            "controller": True,
        }

    def owns(self, manifest: Mapping[str, Any]) -> bool:
        """Whether an object was made for this one, and not for a namesake that is gone."""
        references = manifest.get("metadata", {}).get("ownerReferences", ())
        return any(reference.get("uid") == self.metadata.uid for reference in references)


class CaReference(Part, frozen=True, kw_only=True):
    """A Secret's key that holds CA certificates."""

    name: str
    key: str = "ca.crt"


class DeadLetter(Part, frozen=True, kw_only=True):
    """What becomes of jobs that have failed for good."""

    enabled: bool = True
    retention_days: float = 14


class QueueSpec(Part, frozen=True, kw_only=True):
    """A JobQueue's spec, but for its provider's own block."""

    provider: str
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    visibility_timeout_seconds: float = 1800
    max_retries: int = 3
    message_retention_seconds: float | None = None
    dead_letter: DeadLetter = DeadLetter()

    def settings(self) -> dict[str, Any]:
        """What the spec says of ``headrace.queues.base.QueueSettings``."""
        return {
            "visibility_timeout_seconds": float(self.visibility_timeout_seconds),
            "max_retries": self.max_retries,
            "message_retention_seconds": self.message_retention_seconds,
            "dead_letter_enabled": self.dead_letter.enabled,
            "dead_letter_retention_days": float(self.dead_letter.retention_days),
        }


class JobQueue(Resource, frozen=True, kw_only=True):
    """A queue of background jobs."""

    spec: QueueSpec
    block: Any = None
    """What stands in the spec under the provider's own name: the provider's to read, by `parse_block`."""
    found: dict[str, Any] = {}
    """What stands in the status under the same name: what the provider found when it last made sure of the queue."""

    @classmethod
    def prepare(cls, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Resource.prepare`."""
        spec = manifest.get("spec")
        if not isinstance(spec, Mapping):
            return manifest
        name = block_name(spec.get("provider"))
        status = manifest.get("status")
        found = status.get(name) if isinstance(status, Mapping) else None
        return {**manifest, "block": spec.get(name), "found": found if isinstance(found, Mapping) else {}}

    def settings(self) -> dict[str, Any]:
        """The keyword arguments of ``headrace.queues.base.QueueSettings``, but for those of one provider alone."""
        return self.spec.settings() | {"paused": self.paused}

    @property
    def adopts_from(self) -> str:
        """The uid of the JobQueue in another cluster from which the annotation lets it take its place over."""
        return self.metadata.annotations.get(ADOPT_ANNOTATION, "")

    @property
    def binding_name(self) -> str:
        """The Secret that applications and workers connect with."""
        return f"{self.metadata.name}-binding"


class QueueReference(Part, frozen=True, kw_only=True):
    """A JobQueue of the same namespace."""

    name: str


class PythonHandler(Part, frozen=True, kw_only=True):
    """Python functions inside the worker's process."""

    app: str


class HttpHandler(Part, frozen=True, kw_only=True):
    """A server that gets a POST for each job."""

    url: str
    ca_secret_ref: CaReference | None = None


class ExecHandler(Part, frozen=True, kw_only=True):
    """A program, started for each job."""

    command: tuple[str, ...]


class Handler(Part, frozen=True, kw_only=True):
    """What runs a job: exactly one of the fields."""

    python: PythonHandler | None = None
    http: HttpHandler | None = None
    exec: ExecHandler | None = None

    def __post_init__(self) -> None:
        if sum(handler is not None for handler in (self.python, self.http, self.exec)) != 1:
            raise ValueError("give exactly one of python, http and exec")


class Retry(Part, frozen=True, kw_only=True):
    """How long a failed job waits before its next attempt."""

    initial_delay_seconds: float = 1
    multiplier: float = 2
    max_delay_seconds: float = 600
    jitter: float = 0.2


class UrlReference(Part, frozen=True, kw_only=True):
    """A Secret's key that holds a URL."""

    name: str
    key: str = "uri"


class RedisTls(Part, frozen=True, kw_only=True):
    """How to verify a Redis."""

    ca_secret_ref: CaReference


class Redis(Part, frozen=True, kw_only=True):
    """Where idempotency keeps its keys."""

    secret_ref: UrlReference
    mode: Literal["Standalone", "Sentinel", "Cluster"] = "Standalone"
    sentinel_master: str | None = None
    tls: RedisTls | None = None

    def __post_init__(self) -> None:
        if (self.mode == "Sentinel") != bool(self.sentinel_master):
            raise ValueError("sentinelMaster goes with mode Sentinel, and mode Sentinel needs it")


class Idempotency(Part, frozen=True, kw_only=True):
    """Whether each idempotency key runs to its end once."""

    enabled: bool | None = None
    ttl_days: float = 7
    on_unavailable: Literal["Retry", "Proceed"] = "Retry"
    redis: Redis | None = None

    def __post_init__(self) -> None:
        if self.enabled and self.redis is None:
            raise ValueError("idempotency needs a redis, or enabled must be false")

    @property
    def used_redis(self) -> Redis | None:
        """The Redis, unless it is not to be used."""
        return None if self.enabled is False else self.redis


class Target(Part, frozen=True, kw_only=True):
    """What to scale for: what it names, and `JOBS_PER_REPLICA` where it names nothing."""

    queue_depth_per_replica: int | None = None

    def __post_init__(self) -> None:
        if self.queue_depth_per_replica is not None and self.queue_depth_per_replica < 1:
            raise ValueError("queueDepthPerReplica must be 1 or more")

    @property
    def jobs_per_replica(self) -> int | None:
        """How many jobs there should be for each worker; None where other targets are named, and this one isn't."""
        if self == Target():
            return JOBS_PER_REPLICA
        return self.queue_depth_per_replica


class Fallback(Part, frozen=True, kw_only=True):
    """How many workers there are at the least once a queue can't be read for a while."""

    replicas: int
    failure_threshold: int = 3

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.failure_threshold < 1:
            raise ValueError("replicas and failureThreshold must be 1 or more")


class Autoscaling(Part, frozen=True, kw_only=True):
    """How the number of workers follows the queue."""

    mode: ScalingMode = ScalingMode.HPA
    min_replicas: int = 0
    max_replicas: int = 10
    target: Target = Target()
    activation_depth: int = 1
    sample_interval_seconds: float = 5
    scale_to_zero_after_seconds: float = 60
    fallback: Fallback | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise ValueError(
                f"minReplicas ({self.min_replicas}) must be from 0 to maxReplicas ({self.max_replicas}), "
                "and maxReplicas 1 or more"
            )


class RollingUpdate(Part, frozen=True, kw_only=True):
    """How many workers are replaced at a time: numbers, or percentages such as 25%."""

    max_surge: int | str = "25%"
    max_unavailable: int | str = 1


class Strategy(Part, frozen=True, kw_only=True):
    """How workers are replaced when what they run changes."""

    type: Literal["RollingUpdate", "Recreate"] = "RollingUpdate"
    rolling_update: RollingUpdate | None = None

    def __post_init__(self) -> None:
        if self.type == "Recreate" and self.rolling_update is not None:
            raise ValueError("rollingUpdate goes with type RollingUpdate")


class PoolSpec(Part, frozen=True, kw_only=True):
    """A JobWorkerPool's spec."""

    handler: Handler
    queue_ref: QueueReference | None = None
    queue_refs: tuple[QueueReference, ...] = ()
    replicas: int | None = None
    image: str | None = None
    max_concurrent_jobs: int = 10
    poll_interval_seconds: float = 5
    job_timeout_seconds: float = 1800
    drain_timeout_seconds: int = 300
    retry: Retry = Retry()
    idempotency: Idempotency = Idempotency()
    autoscaling: Autoscaling = Autoscaling(mode=ScalingMode.OFF)
    strategy: Strategy = Strategy()
    template: dict[str, Any] = {}

    def __post_init__(self) -> None:
        names = self.queue_names
        if not names or (self.queue_ref is not None and self.queue_refs):
            raise ValueError("give exactly one of queueRef and queueRefs")
        if len(set(names)) < len(names):
            raise ValueError("queueRefs must name each queue once")

    @property
    def queue_names(self) -> tuple[str, ...]:
        """The queues that the workers take their jobs from: of the first that has some."""
        return tuple(reference.name for reference in (self.queue_ref, *self.queue_refs) if reference is not None)


class PoolNumber(Part, frozen=True, kw_only=True):
    """Of a JobWorkerPool's spec, how many workers there are to be."""

    replicas: int | None = None


class NumberedPool(Resource, frozen=True, kw_only=True):
    """A JobWorkerPool of which nothing else can be read, perhaps."""

    spec: PoolNumber


class JobWorkerPool(Resource, frozen=True, kw_only=True):
    """A set of equal workers on one queue, or several."""

    spec: PoolSpec

    @property
    def is_marked_as_our_zero(self) -> bool:
        """Whether the operator has taken it to zero; where there is a number, the mark is left over.

        It stands beside the number, and not in the status: a pool that is restored has its metadata and spec alone.
        """
        return SCALED_TO_ZERO_ANNOTATION in self.metadata.annotations

    @property
    def queue_keys(self) -> tuple[ObjectKey, ...]:
        """The JobQueues that the pool works on, the most urgent first."""
        return tuple(ObjectKey(self.metadata.namespace, name) for name in self.spec.queue_names)


AnyResource = TypeVar("AnyResource", bound=Resource)

AnyPart = TypeVar("AnyPart", bound=Part)

_PLACE = re.compile(r"^(?P<what>.*) - at `\$(?P<where>.*)`$", re.DOTALL)


def parse(manifest: Mapping[str, Any], kind: type[AnyResource]) -> AnyResource:
    """Read a custom resource.

    Raises
    ------
    RefusedError
        ``InvalidSpec``, with the field and what is wrong with it.
    """
    try:
        return msgspec.convert(kind.prepare(manifest), kind)
    except msgspec.ValidationError as error:
        raise _refusal(error, "") from None


def parse_block(queue: JobQueue, kind: type[AnyPart]) -> AnyPart:
    """Read the block of a JobQueue's spec that is its provider's own.

    Raises
    ------
    RefusedError
        ``InvalidSpec``, with the field and what is wrong with it.
    """
    name = block_name(queue.spec.provider)
    if queue.block is None:
        raise RefusedError("InvalidSpec", f"spec: Object missing required field {name}")
    try:
        return msgspec.convert(queue.block, kind)
    except msgspec.ValidationError as error:
        raise _refusal(error, f"spec.{name}") from None


def block_name(provider: object) -> str:
    """The field of a JobQueue's spec that is this provider's own: its name in camelCase."""
    name = str(provider)
    return name[:1].lower() + name[1:]


def _refusal(error: msgspec.ValidationError, above: str) -> RefusedError:
    """What is wrong, with the field; `above` is the field that was read."""
    found = _PLACE.match(str(error))
    field, what = (found["where"], found["what"]) if found else ("", str(error))
    where = f"{above}{field}".lstrip(".")
    return RefusedError("InvalidSpec", f"{where}: {what.replace('`', '')}" if where else what)
