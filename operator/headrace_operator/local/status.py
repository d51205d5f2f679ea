"""How things stand, as a value: what the table, the lines and the JSON show."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace_operator.core.conditions import READY, find
from headrace_operator.core.pool_status import CALM_REASONS
from headrace_operator.reconcile.objects import key_of, queues_of
from headrace_operator.reconcile.reporting import conditions_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headrace_operator.core.model import QueueDepth

    Manifest = Mapping[str, Any]

RATE_WINDOW_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """A JobQueue; the numbers are None while they are unknown."""

    namespace: str
    name: str
    ready: int | None = None
    in_flight: int | None = None
    blocked: int | None = None
    delayed: int | None = None
    dead_lettered: int | None = None
    problem: str | None = None

    def line(self) -> str:
        """In one line."""
        depth = (
            f"ready {in_words(self.ready)}  in flight {in_words(self.in_flight)}  blocked {in_words(self.blocked)}  "
            f"delayed {in_words(self.delayed)}  dead {in_words(self.dead_lettered)}"
        )
        return f"queue {short_name(self)}: {depth}{_appended(self.problem)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus:
    """A JobWorkerPool."""

    namespace: str
    name: str
    queue: str
    current: int
    """The workers that there are, those that drain included."""
    ready: int
    desired: int
    reason: str
    message: str
    """Why so many are desired."""
    jobs_per_second: float
    problem: str | None = None

    def line(self) -> str:
        """In one line."""
        workers = f"{self.ready} ready of {self.current}, {self.desired} desired"
        return (
            f"pool {short_name(self)}: {workers}  {self.jobs_per_second:.1f} jobs/s  {self.reason}"
            f"{_appended(self.problem)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """All of them."""

    queues: Sequence[QueueStatus]
    pools: Sequence[PoolStatus]


class Rate:
    """How fast a counter has grown of late.

    Workers count what they complete and are asked now and then: what one completes just before it ends is not seen.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque()

    def per_second(self, count: float, now_seconds: float) -> float:
        """The rate over the window, with one more count in it."""
        self._seen.append((now_seconds, count))
        while len(self._seen) > 1 and now_seconds - self._seen[0][0] > RATE_WINDOW_SECONDS:
            self._seen.popleft()
        since_seconds, before = self._seen[0]
        return max(0.0, count - before) / (now_seconds - since_seconds) if now_seconds > since_seconds else 0.0


def queue_status(queue: Manifest, depth: QueueDepth | None) -> QueueStatus:
    """A JobQueue and its newest depth."""
    key, problem = key_of(queue), _problem(queue)
    if depth is None:
        return QueueStatus(namespace=key.namespace, name=key.name, problem=problem)
    return QueueStatus(
        namespace=key.namespace,
        name=key.name,
        ready=depth.ready,
        in_flight=depth.in_flight,
        blocked=depth.blocked,
        delayed=depth.delayed,
        dead_lettered=depth.dead_lettered,
        problem=problem,
    )


def pool_status(pool: Manifest, *, current: int, ready: int, jobs_per_second: float) -> PoolStatus:
    """A JobWorkerPool and its workers."""
    key, status = key_of(pool), pool.get("status") or {}
    scaling = status.get("scaling") or {}
    return PoolStatus(
        namespace=key.namespace,
        name=key.name,
        queue=", ".join(queue.name for queue in queues_of(pool)),
        current=current,
        ready=ready,
        desired=status.get("desiredReplicas", 0),
        reason=scaling.get("reason", ""),
        message=scaling.get("message", ""),
        jobs_per_second=round(jobs_per_second, 1),
        problem=_problem(pool),
    )


def short_name(status: QueueStatus | PoolStatus) -> str:
    """The name, with its namespace where it is not the usual one."""
    return status.name if status.namespace == "default" else f"{status.namespace}/{status.name}"


def in_words(number: int | None) -> str:
    """A number, or that it is unknown."""
    return "?" if number is None else str(number)


def _appended(problem: str | None) -> str:
    return f"  {problem}" if problem else ""


def _problem(manifest: Manifest) -> str | None:
    ready = find(conditions_of(manifest), READY)
    if ready is None or ready["status"] == "True" or ready["reason"] in CALM_REASONS:
        return None
    return f"{ready['reason']}: {ready['message']}"
