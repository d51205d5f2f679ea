"""A pool's status, from what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace_operator.core import conditions
from headrace_operator.core.conditions import Condition
from headrace_operator.core.hpa import autoscaler_of_deployment
from headrace_operator.core.labels import pool_selector
from headrace_operator.core.model import PAUSED_ANNOTATION, OperatorError, RefusedError, TransientError
from headrace_operator.core.rollout import RolloutProgress
from headrace_operator.core.spec import ScalingMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from headrace_operator.core.model import Sample, WorkerPod
    from headrace_operator.core.rollout import Rollout
    from headrace_operator.core.scaling import Decision, Limit
    from headrace_operator.core.spec import JobWorkerPool

    Manifest = Mapping[str, Any]

WORKERS_STARTING = "WorkersStarting"
QUEUE_PENDING = "QueuePending"

NOT_COMING_UP = "ProgressDeadlineExceeded"
"""Why a pool is not updated: a Deployment's own word for workers that were to be replaced, and could not be."""

_UP_TO_DATE = "UpToDate"

CALM_REASONS = (WORKERS_STARTING, QUEUE_PENDING)
"""Why a pool is not ready while nothing is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """What is known of a pool once its decision is carried out."""

    decision: Decision
    replicas: int
    """The Deployment's number: the decided one, unless somebody else's autoscaler writes it."""
    samples: Sequence[Sample]
    """Of the queues that could be read."""
    deployment: Manifest | None
    """None where there is none yet."""
    pods: Sequence[WorkerPod]
    queue_failure: OperatorError | None
    """Why the queue can't be used at present."""
    scaling_failure: OperatorError | None
    """Why the number of workers doesn't follow the load at present."""
    workers_failure: OperatorError | None = None
    """Why the Deployment's pod template is not what the spec says."""
    rollout: Rollout | None = None
    """How the workers stand to what they should be; None where that is not known, or they can't be that."""
    number_failure: OperatorError | None = None
    """Why the Deployment has another number of workers."""
    ceiling: Limit | None = None
    """What to say where the pool may have more workers than the queue's backend can take."""


def pool_conditions(pool: JobWorkerPool, facts: PoolFacts) -> list[Condition]:
    """All conditions of a pool."""
    return [
        _ready(facts),
        _available(facts),
        _scaling_active(pool, facts),
        _scaling_limited(facts.decision, facts.ceiling),
        _scaled_to_zero(pool, facts.decision),
        _paused(facts.decision),
        *_updated(facts),
    ]


def _scaled_to_zero(pool: JobWorkerPool, decision: Decision) -> Condition:
    """Whose zero it is."""
    if decision.scaled_to_zero:
        wake = _wake(pool, decision)
        return Condition(
            type=conditions.SCALED_TO_ZERO,
            status=True,
            reason="Idle",
            message=f"the operator took the pool to zero; {wake}",
        )
    if decision.desired_replicas == 0:
        return Condition(
            type=conditions.SCALED_TO_ZERO,
            status=False,
            reason="PausedAtZero",
            message="the zero was not written by the operator, who leaves it alone",
        )
    return Condition(
        type=conditions.SCALED_TO_ZERO, status=False, reason="HasWorkers", message="the pool is not at zero"
    )


def _wake(pool: JobWorkerPool, decision: Decision) -> str:
    """What ends a zero of ours."""
    at = f"wakes at {pool.spec.autoscaling.activation_depth} ready"
    if decision.reason == "Paused":
        return f"the annotation {PAUSED_ANNOTATION} holds it there: without that it {at}"
    return f"it {at}, once its queue is resumed" if decision.reason == "QueuePaused" else f"it {at}"


def pool_numbers(pool: JobWorkerPool, facts: PoolFacts) -> dict[str, Any]:
    """What the scale subresource and the printer columns show."""
    desired = facts.decision.desired_replicas
    selector = pool_selector(pool.metadata.name)
    return {
        # The Deployment's number at once, not what it has achieved: an autoscaler writes back what it reads here.
        "replicas": facts.replicas,
        "readyReplicas": _ready_replicas(facts),
        "desiredReplicas": desired,
        "queues": ", ".join(pool.spec.queue_names),
        "selector": ",".join(f"{name}={value}" for name, value in selector.items()),
    }


def scaling_status(facts: PoolFacts) -> dict[str, Any]:
    """Why this number of workers."""
    signals = {}
    depths = [sample.depth for sample in facts.samples]
    if depths:
        signals = {
            "ready": sum(depth.ready for depth in depths),
            "inFlight": sum(depth.in_flight for depth in depths),
            "blocked": sum(depth.blocked for depth in depths),
            "delayed": sum(depth.delayed for depth in depths),
            "oldestReadyAgeSeconds": round(max(depth.oldest_ready_age_seconds for depth in depths)),
        }
    return {"reason": facts.decision.reason, "message": facts.decision.message, "signals": signals}


def replica_failure(deployment: Manifest | None) -> OperatorError | None:
    """Why pods can't even be made (a quota, an admission rule that refuses them)."""
    status = (deployment or {}).get("status") or {}
    failure = conditions.find(status.get("conditions") or (), "ReplicaFailure")
    if failure is None or failure.get("status") != "True":
        return None
    return TransientError(failure.get("reason") or "FailedCreate", failure.get("message") or "pods can't be made")


def scaling_failure(
    pool: JobWorkerPool,
    decision: Decision,
    autoscalers: Sequence[Manifest],
    *,
    autoscaler_failure: OperatorError | None,
    metrics_api_failure: OperatorError | None,
) -> OperatorError | None:
    """Why the number of workers doesn't follow the load, but for an unknown depth.

    Parameters
    ----------
    autoscalers
        Those that scale the pool, whoever has made them.
    autoscaler_failure
        Why ours is not as it should be.
    metrics_api_failure
        Why they can't read the depth of queues.
    """
    if pool.spec.autoscaling.mode is ScalingMode.OFF:
        return _yielding(pool, autoscalers)
    if (foreign := next((each for each in autoscalers if not pool.owns(each)), None)) is not None:
        # Two autoscalers over one set of pods stop each other.
        name = foreign["metadata"]["name"]
        return RefusedError(
            "ForeignAutoscaler",
            f"HorizontalPodAutoscaler {name} scales this pool too: delete it, or set spec.autoscaling.mode to Off",
        )
    if pool.spec.autoscaling.mode is not ScalingMode.HPA:
        return None
    if autoscaler_failure is not None or metrics_api_failure is not None:
        return autoscaler_failure or metrics_api_failure
    at_zero = decision.desired_replicas == 0
    failures = (_autoscaler_failure(each, at_zero=at_zero) for each in autoscalers)
    return next((failure for failure in failures if failure is not None), None)


def _yielding(pool: JobWorkerPool, autoscalers: Sequence[Manifest]) -> OperatorError | None:
    foreign = autoscaler_of_deployment(pool, autoscalers)
    if foreign is None:
        return None
    return RefusedError(
        "ForeignAutoscaler",
        f"HorizontalPodAutoscaler {foreign['metadata']['name']} scales the Deployment, whose number is left to it: let "
        f"it, or the ScaledObject that it is made from, scale {pool.kind} {pool.metadata.name} "
        f"({pool.api_version}) instead",
    )


def _autoscaler_failure(autoscaler: Manifest, *, at_zero: bool) -> OperatorError | None:
    """Why our HorizontalPodAutoscaler can't do its work. At zero it rests, as it should."""
    status = autoscaler.get("status") or {}
    active = conditions.find(status.get("conditions") or (), "ScalingActive")
    if at_zero or active is None or active.get("status") != "False" or active.get("reason") == "ScalingDisabled":
        return None
    return TransientError(active["reason"], f"the HorizontalPodAutoscaler can't scale: {active['message']}")


def _ready(facts: PoolFacts) -> Condition:
    desired, ready = facts.replicas, _ready_replicas(facts)
    trouble = facts.queue_failure or facts.workers_failure or facts.number_failure
    if trouble is None and desired:
        trouble = replica_failure(facts.deployment) or _pod_failure(facts.pods)
    if trouble is not None:
        return Condition.failed(conditions.READY, trouble)
    if desired and not ready:
        return Condition(
            type=conditions.READY, status=False, reason=WORKERS_STARTING, message=f"0 of {desired} workers are ready"
        )
    if desired:
        return Condition(
            type=conditions.READY, status=True, reason="WorkersReady", message="workers take jobs from the queue"
        )
    return Condition(type=conditions.READY, status=True, reason="AtZero", message="no worker is wanted")


def _available(facts: PoolFacts) -> Condition:
    desired, ready = facts.replicas, _ready_replicas(facts)
    if desired == 0:
        return Condition(type=conditions.AVAILABLE, status=True, reason="AtZero", message="no worker is wanted")
    return Condition(
        type=conditions.AVAILABLE,
        status=ready > 0,
        reason="WorkersReady" if ready else "NoWorkerReady",
        message=f"{ready} of {desired} workers are ready",
    )


def _scaling_active(pool: JobWorkerPool, facts: PoolFacts) -> Condition:
    mode = pool.spec.autoscaling.mode
    is_off = mode is ScalingMode.OFF
    if facts.scaling_failure is not None and (is_off or not _is_paused(facts.decision)):
        return Condition.failed(conditions.SCALING_ACTIVE, facts.scaling_failure)
    if is_off or _is_paused(facts.decision):
        return Condition(
            type=conditions.SCALING_ACTIVE,
            status=False,
            reason=facts.decision.reason,
            message=facts.decision.message,
        )
    return Condition(
        type=conditions.SCALING_ACTIVE,
        status=True,
        reason=mode,
        message=f"the number of workers follows queue {', '.join(pool.spec.queue_names)}",
    )


def _scaling_limited(decision: Decision, ceiling: Limit | None) -> Condition:
    limits = [limit for limit in (decision.limited, ceiling) if limit is not None]
    if not limits:
        return Condition(
            type=conditions.SCALING_LIMITED,
            status=False,
            reason="WithinBounds",
            message="the number of workers is not held by minReplicas or maxReplicas",
        )
    return Condition(
        type=conditions.SCALING_LIMITED,
        status=True,
        reason=limits[0].reason,
        message="; ".join(limit.message for limit in limits),
    )


def _updated(facts: PoolFacts) -> Iterable[Condition]:
    """Whether the workers run what the spec says, as this release makes it; nothing where that is not known."""
    if facts.workers_failure is not None:
        yield Condition.failed(conditions.UPDATED, facts.workers_failure)
    elif facts.rollout is not None:
        reason, message = _update_state(facts.rollout)
        yield Condition(type=conditions.UPDATED, status=reason == _UP_TO_DATE, reason=reason, message=message)


def _update_state(rollout: Rollout) -> tuple[str, str]:
    if rollout.stopped_by is not None:
        pool = rollout.stopped_by.name
        why = f"those of JobWorkerPool {pool} did not come up with this one: mend that pool, or the release"
        return "ReleaseStopped", f"the workers stay as an earlier release of the operator made them, since {why}"
    if rollout.is_waiting:
        return "WaitingForTurn", "a new release of the operator replaces the workers of one pool after another"
    if rollout.progress is RolloutProgress.FAILED:
        return NOT_COMING_UP, "workers were to be replaced, and their successors do not become ready"
    if rollout.progress is RolloutProgress.PAUSED:
        return "DeploymentPaused", "somebody has paused the Deployment, which replaces nobody: kubectl rollout resume"
    if rollout.progress is RolloutProgress.UNDER_WAY:
        return "Replacing", "workers of what the spec says start, in the place of those that run something else"
    return _UP_TO_DATE, "workers run what the spec says"


def _paused(decision: Decision) -> Condition:
    paused = _is_paused(decision)
    return Condition(
        type=conditions.PAUSED,
        status=paused,
        reason=decision.reason if paused else "NotPaused",
        message=decision.message if paused else "nothing holds the number of workers",
    )


def _is_paused(decision: Decision) -> bool:
    return decision.reason in ("Paused", "PausedAtZero")


def _ready_replicas(facts: PoolFacts) -> int:
    ready: int = ((facts.deployment or {}).get("status") or {}).get("readyReplicas") or 0
    return ready


def _pod_failure(pods: Sequence[WorkerPod]) -> OperatorError | None:
    """What keeps workers from starting; the reason that most of them have."""
    waiting = [pod for pod in pods if pod.waiting_reason is not None]
    if not waiting:
        return None
    reasons = [pod.waiting_reason or "" for pod in waiting]
    reason = max(sorted(set(reasons)), key=reasons.count)
    message = next((pod.waiting_message for pod in waiting if pod.waiting_reason == reason and pod.waiting_message), "")
    return TransientError(reason, f"workers can't start: {message or reason}")
