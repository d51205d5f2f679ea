"""What a backend can do, as values; and the one place that refuses what it can't."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from headrace.job import MAX_DELAY_SECONDS, MAX_PAYLOAD_BYTES, InvalidJobError, NewJob
from headrace.queues.errors import UnsupportedCapabilityError

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do; what it can't is refused with `UnsupportedCapabilityError`, never ignored."""

    ordered: bool
    """Whether jobs of one priority are given oldest first; else in about that order."""
    priorities: bool
    groups: bool
    """Whether jobs can run one at a time and in order, each group for itself."""
    fairness: bool
    """Whether jobs of many tenants are given in turn, by `NewJob.fairness_key`."""
    expiry: bool
    """Whether a job can have a time by which it must have started."""
    max_enqueue_delay_seconds: float = MAX_DELAY_SECONDS
    """The longest time from its enqueue for which a job can be told to wait; 0: none at all."""
    max_retry_delay_seconds: float = MAX_DELAY_SECONDS
    """The longest time for which a job that was received can wait until it is given again, by a retry or a release."""
    max_payload_bytes: int = MAX_PAYLOAD_BYTES
    """The largest payload of text. Where messages hold text alone, one of other bytes travels as base64, and may be
    refused from three quarters of that on."""
    deduplicates_unfinished: bool
    """Whether a key can be taken for as long as its job is unfinished."""
    max_deduplication_window_seconds: float
    """The longest time for which a key can be taken, counted from the enqueue; 0: there are no windows."""
    max_hold_seconds: float | None = None
    """The longest time for which a job can be held, however often its lease is extended. None: there is no limit."""
    attempts: Literal["failures", "deliveries"]
    """What `Job.attempt` counts: failed attempts, or every delivery, interrupted ones too."""
    atomic_batches: bool
    """Whether many jobs are enqueued all or none; else `PartlyEnqueuedError` names those that were not."""
    fenced: bool
    """Whether a settlement by somebody who has lost its lease and doesn't know is refused. What was settled before, or
    told as lost, is refused by every backend."""
    cancellation: bool
    """Whether a job that runs can be told to stop."""
    keeps_errors: bool
    """Whether failures are kept with a job, for people to read."""
    pausing: bool
    """Whether a queue can be told to give nothing."""
    skips_names: bool
    """Whether `Queue.receive` leaves out the names it is told to; else they are given all the same."""
    transactions: bool
    """Whether jobs can be enqueued and completed within a transaction of the caller's own (`Transactional`)."""


def refuse_unsupported(jobs: Sequence[NewJob], capabilities: Capabilities, *, now: datetime | None = None) -> None:
    """Raise where a job asks for what a backend lacks.

    Parameters
    ----------
    jobs
        All that is to be enqueued together: nothing of it has been sent.
    capabilities
        The backend's.
    now
        From when `NewJob.run_at` counts. None: a moment is not compared with the longest delay.

    Raises
    ------
    InvalidJobError
        When they are no sequence of `NewJob`: an iterator would be empty when it comes to sending them.
    UnsupportedCapabilityError
        It names the first field that can't be had, and the fix.
    """
    if not isinstance(jobs, Sequence):
        raise InvalidJobError(f"jobs: must be a list of NewJob, not {type(jobs).__name__}")
    for job in jobs:
        if not isinstance(job, NewJob):
            raise InvalidJobError(f"jobs: must be a list of NewJob, not of {type(job).__name__}; new_job() makes one")
        if refusal := _refusal(job, capabilities, now):
            raise UnsupportedCapabilityError(refusal)


def _refusal(job: NewJob, can: Capabilities, now: datetime | None) -> str:
    if job.priority and not can.priorities:
        return "priority: this queue's backend has none; leave it out"
    if job.group is not None and not can.groups:
        instead = "; for tenants in turn, give fairness_key" if can.fairness else ""
        return f"group: this queue's backend has no groups; leave it out{instead}"
    if job.fairness_key is not None and not can.fairness:
        return "fairness_key: this queue's backend gives nobody's jobs in turn; leave it out"
    if job.expires_at is not None and not can.expiry:
        return "expires_at: this queue's backend knows no expiry of single jobs; leave it out"
    delay_seconds = job.delay_seconds
    if job.run_at is not None and now is not None:
        delay_seconds = (job.run_at - now).total_seconds()
    if can.max_enqueue_delay_seconds == 0 and (job.delay_seconds or job.run_at is not None):
        return "delay_seconds or run_at: this queue's backend has no delays; leave it out"
    if delay_seconds > can.max_enqueue_delay_seconds:
        return (
            f"a delay of {delay_seconds:g} s: this queue's backend delays a new job by "
            f"{can.max_enqueue_delay_seconds:g} s at most"
        )
    if len(job.payload) > can.max_payload_bytes:
        return (
            f"payload of {len(job.payload)} bytes: this queue's backend takes {can.max_payload_bytes} at most; "
            "store the data elsewhere and enqueue its address"
        )
    if job.deduplication_key is not None:
        return _key_refusal(job, can)
    return ""


def _key_refusal(job: NewJob, can: Capabilities) -> str:
    window = job.deduplication_window_seconds
    longest = can.max_deduplication_window_seconds
    if not can.deduplicates_unfinished and not longest:
        return "deduplication_key: this queue's backend has no deduplication; leave it out"
    if window is None and not can.deduplicates_unfinished:
        return (
            "deduplication_key: this queue's backend can't tell when a job is finished; "
            f"give deduplication_window_seconds, at most {longest:g}"
        )
    if window is not None and window > longest:
        return f"deduplication_window_seconds {window:g}: this queue's backend keeps a key for {longest:g} s at most"
    return ""
