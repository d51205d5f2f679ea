"""What an application and its worker ask of a queue's backend that it can't give: told at the start.

What a single job asks for when it is enqueued, `headrace.queues.capabilities` refuses. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.queues.errors import UnsupportedCapabilityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from headrace.app import Declaration
    from headrace.queues.capabilities import Capabilities
    from headrace.retry import RetryPolicy


def refusals(
    declarations: Iterable[Declaration],
    capabilities: Capabilities,
    *,
    job_timeout_seconds: float | None = None,
    retry: RetryPolicy | None = None,
) -> list[str]:
    """What can't be had, each with its fix; empty where a worker may start.

    Parameters
    ----------
    declarations
        The App's jobs; none for other handlers.
    capabilities
        The backend's.
    job_timeout_seconds, retry
        The worker's own, for jobs that declare none. None: not looked at.
    """
    found = list(_refusals("", capabilities, job_timeout_seconds, retry))
    for declared in declarations:
        found += _refusals(f"job {declared.name!r}: ", capabilities, declared.timeout_seconds, declared.retry)
    return found


def remarks(declarations: Iterable[Declaration], capabilities: Capabilities) -> list[str]:
    """What works otherwise than it may be expected to, each for a line in the log."""
    return [
        f"job {declared.name!r}: max_concurrent: this queue's backend can't leave out a name that is full: jobs beyond "
        "it are received and handed back; a queue of its own serves it better"
        for declared in declarations
        if declared.max_concurrent is not None and not capabilities.skips_names
    ]


def refuse_to_start(
    declarations: Iterable[Declaration],
    capabilities: Capabilities,
    *,
    job_timeout_seconds: float | None = None,
    retry: RetryPolicy | None = None,
) -> None:
    """Raise where there is any of `refusals`.

    Raises
    ------
    UnsupportedCapabilityError
        It names them all.
    """
    if found := refusals(declarations, capabilities, job_timeout_seconds=job_timeout_seconds, retry=retry):
        raise UnsupportedCapabilityError("; ".join(found))


def _refusals(whose: str, can: Capabilities, timeout_seconds: float | None, retry: RetryPolicy | None) -> Iterator[str]:
    hold = can.max_hold_seconds
    if hold is not None and timeout_seconds is not None and timeout_seconds > hold:
        yield (
            f"{whose}a timeout of {timeout_seconds:g} s: this queue's backend lets a job be held for {hold:g} s at "
            "most; make it shorter, or let the job enqueue the rest of its work"
        )
    if retry is not None and (longest := _longest(retry)) > can.max_retry_delay_seconds:
        yield (
            f"{whose}retries after up to {longest:g} s: this queue's backend delays a retry by "
            f"{can.max_retry_delay_seconds:g} s at most; lower max_delay_seconds of the retry policy"
        )


def _longest(retry: RetryPolicy) -> float:
    """The longest delay that the policy can come to: that of its last retry, where it has one."""
    if retry.max_retries is None:
        return retry.max_delay_seconds
    return retry.delay_seconds(max(retry.max_retries, 1), 0.0) if retry.max_retries else 0.0
