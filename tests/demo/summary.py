"""What the demo proves, worked out from the jobs' own ledger. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

FEWEST_REPLICAS_AT_PEAK = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of one job, as its handler wrote it down."""

    job_id: str
    enqueued_at: datetime
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The demo's result; its fields are those of ``build/demo/summary.json``."""

    cluster: str
    """``kind``, or ``none`` where no container can run."""
    kubernetes_version: str | None
    jobs_enqueued: int
    jobs_completed: int
    jobs_lost: int
    jobs_run_twice: int
    peak_replicas: int
    final_replicas: int
    wake_seconds: float
    drain_seconds: float

    @property
    def failures(self) -> list[str]:
        """Why this is no success; empty for one."""
        checks = {
            f"{self.jobs_lost} jobs lost": self.jobs_lost != 0,
            f"{self.jobs_run_twice} jobs run twice": self.jobs_run_twice != 0,
            f"only {self.jobs_completed} of {self.jobs_enqueued} jobs completed": self.jobs_completed
            != self.jobs_enqueued,
            f"the pool peaked at {self.peak_replicas}, below {FEWEST_REPLICAS_AT_PEAK}": self.peak_replicas
            < FEWEST_REPLICAS_AT_PEAK,
            f"the pool is at {self.final_replicas}, not back at 0": self.final_replicas != 0,
        }
        return [failure for failure, failed in checks.items() if failed]

    def as_json(self) -> dict[str, object]:
        """For ``summary.json``."""
        return asdict(self)


def summarize(
    runs: Sequence[Run],
    *,
    cluster: str,
    kubernetes_version: str | None,
    jobs_enqueued: int,
    peak_replicas: int,
    final_replicas: int,
) -> Summary:
    """Count the ledger: a job with no run is lost, a job with two was run twice."""
    by_job = Counter(run.job_id for run in runs)
    first_enqueued = min((run.enqueued_at for run in runs), default=None)

    def since_first_enqueue(moment: datetime) -> float:
        return 0.0 if first_enqueued is None else round((moment - first_enqueued).total_seconds(), 3)

    return Summary(
        cluster=cluster,
        kubernetes_version=kubernetes_version,
        jobs_enqueued=jobs_enqueued,
        jobs_completed=len(by_job),
        jobs_lost=jobs_enqueued - len(by_job),
        jobs_run_twice=sum(1 for count in by_job.values() if count > 1),
        peak_replicas=peak_replicas,
        final_replicas=final_replicas,
        wake_seconds=since_first_enqueue(min(run.started_at for run in runs)) if runs else 0.0,
        drain_seconds=since_first_enqueue(max(run.finished_at for run in runs)) if runs else 0.0,
    )
