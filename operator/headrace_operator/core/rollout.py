"""When the workers of which pool are replaced, and how that goes.

What a user has changed (a spec, a password) is carried out at once. What a new release of the operator makes otherwise
(its image, its pod template) is carried out pool by pool: one that doesn't work stops at the first pool of a namespace.
All of it stands on the Deployments, so that an operator that starts goes on where the last one ended.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from headrace_operator.core import conditions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headrace_operator.core.deployment import WorkedQueue
    from headrace_operator.core.model import ObjectKey
    from headrace_operator.core.spec import JobWorkerPool

    Manifest = Mapping[str, Any]

ASKED_ANNOTATION = "headrace.dev/asked"
"""On a Deployment: a digest of what its users have asked for."""
MADE_ANNOTATION = "headrace.dev/made"
"""On a Deployment: a digest of the pod template that a release of the operator has made of it."""
RELEASE_ANNOTATION = "headrace.dev/release-rollout"
"""On a Deployment that a release has changed: whether its workers were `READY` or `NOT_READY` when its turn came; or
`STUCK`, where they were ready, did not come up, and no worker of the release has been ready since."""
READY = "Ready"
NOT_READY = "NotReady"
STUCK = "Stuck"

# Neither changes what a worker runs.
_NO_WORKERS_BUSINESS = ("replicas", "autoscaling")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorRelease:
    """What a release of the operator gives to pools."""

    image: str
    """What pools run that name no image of their own."""
    image_pull_policy: str | None = None
    """For `image`; None leaves it to Kubernetes."""
    pools_at_once: int = 1
    """How many pools' workers are replaced at a time because of the release."""


class Cause(Enum):
    """Why a Deployment is not what it should be."""

    NONE = "none"
    ASKED = "asked"
    """Something else is asked for, or there is none yet."""
    RELEASE = "release"
    """This release makes something else of the same."""


class RolloutProgress(Enum):
    """How replacing a Deployment's workers goes."""

    COMPLETE = "complete"
    UNDER_WAY = "under way"
    FAILED = "failed"
    """Nothing has happened for longer than the progress deadline; it may still go on."""
    PAUSED = "paused"
    """Somebody has told the Deployment to replace nobody (`kubectl rollout pause`)."""


class Stage(IntEnum):
    """Where a pool stands in the row of those that a release changes; in the order in which they get their turns."""

    STOPPED = 0
    """Its workers, ready before, did not come up: the row of its namespace ends here."""
    UNDER_WAY = 1
    WAITING_HALFWAY = 2
    """An earlier release's change never came to its end: this one may mend it."""
    WAITING = 3
    WAITING_BROKEN = 4
    """No worker is ready: what it meets says nothing of the release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """How the workers of a pool stand to what they should be."""

    progress: RolloutProgress
    is_waiting: bool = False
    """Whether they run what an earlier release has made, until it is their turn."""
    stopped_by: ObjectKey | None = None
    """The pool at which the row has ended."""


def asked_digest(pool: JobWorkerPool, queues: Sequence[WorkedQueue], secret_revisions: Mapping[str, str]) -> str:
    """Of what the pool's users have asked for; the same whatever release reads it, new fields at their defaults."""
    spec = {name: value for name, value in _given(pool.spec).items() if name not in _NO_WORKERS_BUSINESS}
    worked = [(each.queue.metadata.name, each.queue.spec.provider, each.revision) for each in queues]
    return _digest([spec, worked, dict(secret_revisions)])


def made_digest(deployment: Manifest) -> str:
    """Of what a release has made of it."""
    return _digest(deployment["spec"]["template"])


def cause_of_change(live: Manifest | None, asked: str, made: str) -> Cause:
    """Why the Deployment is to be changed."""
    before = _annotations(live)
    if live is None or before.get(ASKED_ANNOTATION) != asked:
        return Cause.ASKED
    return Cause.NONE if before.get(MADE_ANNOTATION) == made else Cause.RELEASE


def progress_of(deployment: Manifest, *, since_generation: int | None = None) -> RolloutProgress:
    """How replacing its workers goes, as its controller tells; where none does, there is nothing to wait for.

    Parameters
    ----------
    since_generation
        The generation that changed what workers run, where it is known: later ones changed their number.
    """
    status = deployment.get("status") or {}
    progressing = conditions.find(status.get("conditions") or (), "Progressing")
    if progressing is None:
        return RolloutProgress.COMPLETE
    wanted = since_generation or deployment["metadata"].get("generation", 0)
    if status.get("observedGeneration", wanted) < wanted:
        return RolloutProgress.UNDER_WAY
    if progressing.get("reason") == "NewReplicaSetAvailable":
        return RolloutProgress.COMPLETE
    if progressing.get("reason") == "DeploymentPaused":
        return RolloutProgress.PAUSED
    return RolloutProgress.FAILED if progressing.get("status") == "False" else RolloutProgress.UNDER_WAY


def stage_after_turn(deployment: Manifest, progress: RolloutProgress) -> Stage | None:
    """Where a pool stands that has had its turn; None where it stands in nobody's way."""
    mark = _mark(deployment, progress)
    if mark == STUCK:
        return Stage.STOPPED
    return Stage.UNDER_WAY if mark is not None and progress is RolloutProgress.UNDER_WAY else None


def stage_before_turn(deployment: Manifest, progress: RolloutProgress) -> Stage:
    """Where a pool stands whose turn has not come."""
    if RELEASE_ANNOTATION in _annotations(deployment) and progress is not RolloutProgress.COMPLETE:
        return Stage.WAITING_HALFWAY
    return Stage.WAITING if is_ready(deployment) else Stage.WAITING_BROKEN


def is_ready(deployment: Manifest) -> bool:
    """Whether it has a ready worker."""
    return bool((deployment.get("status") or {}).get("readyReplicas"))


def marks(deployment: Manifest, progress: RolloutProgress) -> dict[str, str]:
    """The annotation of the release's change, where there is one."""
    mark = _mark(deployment, progress)
    return {} if mark is None else {RELEASE_ANNOTATION: mark}


def _mark(deployment: Manifest, progress: RolloutProgress) -> str | None:
    """What the annotation is to say. A pool that is scaled to zero has replaced all its workers, but shown nothing."""
    mark = _annotations(deployment).get(RELEASE_ANNOTATION)
    if mark == READY and progress is RolloutProgress.FAILED:
        return STUCK
    has_come_up = progress is RolloutProgress.COMPLETE and is_ready(deployment)
    return READY if mark == STUCK and has_come_up else mark


def turns(row: Mapping[ObjectKey, Stage], pools_at_once: int) -> frozenset[ObjectKey]:
    """Whose turn it is: as many as may be replaced at a time, none of a namespace whose row has ended."""
    under_way = sum(stage is Stage.UNDER_WAY for stage in row.values())
    ended = {pool.namespace for pool, stage in row.items() if stage is Stage.STOPPED}
    waiting = sorted(
        (stage, pool) for pool, stage in row.items() if stage > Stage.UNDER_WAY and pool.namespace not in ended
    )
    return frozenset(pool for _, pool in waiting[: max(0, pools_at_once - under_way)])


def stopped_by(row: Mapping[ObjectKey, Stage], pool: ObjectKey) -> ObjectKey | None:
    """The pool at which the row of this one's namespace has ended."""
    stopped = (each for each, stage in row.items() if stage is Stage.STOPPED and each.namespace == pool.namespace)
    return min(stopped, default=None)


def _given(part: msgspec.Struct) -> dict[str, Any]:
    """What is not at its default: a field that is new in a release has been asked for by nobody."""
    values = ((name, default, getattr(part, name)) for name, default in _defaults(type(part)))
    return {name: _plain(value) for name, default, value in values if value != default}


@cache
def _defaults(kind: type[msgspec.Struct]) -> Sequence[tuple[str, Any]]:
    """The fields with their defaults; each look wants them, and they are slow to come by."""
    return [
        (field.name, field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory())
        for field in msgspec.structs.fields(kind)
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return _given(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else msgspec.to_builtins(value)


def _annotations(deployment: Manifest | None) -> Mapping[str, str]:
    return ((deployment or {}).get("metadata") or {}).get("annotations") or {}


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()
