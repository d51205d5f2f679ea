"""A JobQueue's status, from what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from headrace_operator.core import conditions
from headrace_operator.core.conditions import Condition
from headrace_operator.core.model import PAUSED_ANNOTATION, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headrace_operator.core.model import Finding, OperatorError, Reading, Sample

    Manifest = Mapping[str, Any]

PROVISIONING = "Provisioning"
MIGRATING = "Migrating"
REMOVING = "Removing"

CALM_REASONS = (PROVISIONING, MIGRATING, REMOVING)
"""Why a queue is not ready while nothing is wrong."""

NUMBERS_STEP = timedelta(seconds=30)
"""Numbers change with every sample, and metrics show them: they are written so often at most."""

AGE_STEP_SECONDS = 30.0
"""An age alone grows with every sample: it is worth a write when it has grown by so much."""

FIRST_READING_WITHIN = timedelta(seconds=30)
"""For so long nothing is said of a depth that was never read: at a start all queues are read for the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Provisioning, or removal, that has not come to its end."""

    step: str | None
    """What it is at, where that may take long; None where it has just begun, or waits for its turn."""
    since: datetime
    """When it began, or came to this step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """What one look at a queue has found, as far as it got."""

    label: str | None = None
    """What messages call the queue's place; None where that was not found."""
    paused: bool = False
    """By its annotation."""
    was_in_order: bool = False
    """Whether it was provisioned and bound before, and so can be used while it is adjusted."""
    work: Work | None = None
    """What is done about the place; None where it is as wanted."""
    failure: OperatorError | None = None
    """Why it is not."""
    findings: Sequence[Finding] | None = None
    """What of it is not as it should be, though it works, the most serious first; None where that was not looked at."""
    was_degraded: bool = False
    """Whether there were findings before."""
    reading: Reading | None = None
    """None before the first."""
    followed_since: datetime | None = None
    """Since when the depth is read; None where it is not."""


def queue_conditions(facts: QueueFacts, now: datetime) -> list[Condition]:
    """All conditions of a queue of which something is to be said; the others stay as they are."""
    found = [_ready(facts, now), _provisioned(facts), _synced(facts, now), _degraded(facts)]
    return [condition for condition in found if condition is not None]


def reading_failure(facts: QueueFacts, now: datetime) -> OperatorError | None:
    """Why the depth is not known."""
    if facts.reading is not None:
        return facts.reading.failure
    if facts.followed_since is not None and now - facts.followed_since >= FIRST_READING_WITHIN:
        return TransientError("DepthUnknown", "the depth was asked for, and nobody has answered yet")
    return None


def numbers_due_seconds(before: Manifest, sample: Sample | None) -> float | None:
    """In how long the depth is to be written into the status `before`; None where it stands there as it is."""
    if sample is None:
        return None
    age_seconds = round(sample.depth.oldest_ready_age_seconds)
    grown_seconds = abs(age_seconds - before.get("oldestReadyAgeSeconds", 0))
    if before.get("depth") == _depth(sample) and grown_seconds < AGE_STEP_SECONDS:
        return None
    if "sampledAt" not in before:
        return 0.0
    written_at = datetime.fromisoformat(before["sampledAt"])
    return max((written_at + NUMBERS_STEP - sample.sampled_at).total_seconds(), 0.0)


def queue_numbers(sample: Sample) -> dict[str, Any]:
    """The depth for the status."""
    return {
        "depth": _depth(sample),
        "oldestReadyAgeSeconds": round(sample.depth.oldest_ready_age_seconds),
        "sampledAt": conditions.timestamp(sample.sampled_at),
    }


def _depth(sample: Sample) -> dict[str, Any]:
    depth = sample.depth
    told: dict[str, Any] = {
        "ready": depth.ready,
        "blocked": depth.blocked,
        "delayed": depth.delayed,
        "inFlight": depth.in_flight,
        "deadLettered": depth.dead_lettered,
        "isLowerBound": depth.is_lower_bound,
    }
    return {**told, "isApproximate": True} if depth.is_approximate else told


def at_work(type_: str, work: Work, reason: str) -> Condition:
    """The condition is False while this goes on."""
    message = "waiting for its turn" if work.step is None else work.step
    return Condition(
        type=type_, status=False, reason=reason, message=f"{message}, since {conditions.timestamp(work.since)}"
    )


def _ready(facts: QueueFacts, now: datetime) -> Condition | None:
    failure = facts.failure or reading_failure(facts, now)
    if failure is not None:
        return Condition.failed(conditions.READY, failure)
    if facts.work is not None and not facts.was_in_order:
        return at_work(conditions.READY, facts.work, _work_reason(facts.work))
    sample = None if facts.reading is None else facts.reading.sample
    if sample is None and facts.was_in_order:
        # After a start of our own, say: until something else is known, it is as it was.
        return None
    return _in_order(facts, sample)


def _in_order(facts: QueueFacts, sample: Sample | None) -> Condition:
    holds = None
    if facts.paused:
        holds = f"the annotation {PAUSED_ANNOTATION} holds the queue"
    elif sample is not None and sample.depth.paused:
        holds = "the queue was paused by hand (`headrace queues resume` ends that)"
    if holds is not None:
        message = f"jobs are taken in and none is given out: {holds}"
        return Condition(type=conditions.READY, status=True, reason="Paused", message=message)
    return Condition(
        type=conditions.READY, status=True, reason="Ready", message="producers and workers can use the queue"
    )


def _provisioned(facts: QueueFacts) -> Condition | None:
    if facts.failure is not None:
        return Condition.failed(conditions.PROVISIONED, facts.failure)
    if facts.work is not None:
        if facts.work.step is None and facts.was_in_order:
            # It is made sure of once more, as at every start of our own.
            return None
        return at_work(conditions.PROVISIONED, facts.work, _work_reason(facts.work))
    if facts.label is None:
        return None
    return Condition(
        type=conditions.PROVISIONED,
        status=True,
        reason="Provisioned",
        message=f"{facts.label} is there, with the settings of the spec",
    )


def _synced(facts: QueueFacts, now: datetime) -> Condition | None:
    failure = reading_failure(facts, now)
    if failure is None and facts.followed_since is None:
        failure = facts.failure
    if failure is not None:
        return Condition.failed(conditions.SYNCED, failure)
    if facts.reading is None:
        return None
    message = "the depth is read regularly"
    if facts.reading.sample is not None and facts.reading.sample.depth.is_approximate:
        message += ", as far as the backend knows it: its counts are approximate, and may be a minute behind"
    return Condition(type=conditions.SYNCED, status=True, reason="DepthKnown", message=message)


def _degraded(facts: QueueFacts) -> Condition | None:
    """Said of queues alone that have, or had, something to be said."""
    if facts.findings:
        message = "; ".join(finding.message for finding in facts.findings)
        return Condition(type=conditions.DEGRADED, status=True, reason=facts.findings[0].reason, message=message)
    if facts.findings is None or not facts.was_degraded:
        return None
    return Condition(type=conditions.DEGRADED, status=False, reason="AsItShouldBe", message="nothing is to be mended")


def _work_reason(work: Work) -> str:
    return PROVISIONING if work.step is None else MIGRATING
