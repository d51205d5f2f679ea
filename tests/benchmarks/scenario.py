"""One benchmark: its candidates, measured, and what becomes a figure."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import monotonic

from benchmarks.arena import Arena, Candidate
from benchmarks.contestants.contestant import MissingError
from benchmarks.contestants.order import Setting, Workload
from benchmarks.report import CONTESTANTS, LIMIT, OURS, Better, Figure, Result, best, said

Tell = Callable[[str], None]


def ours(**settings: Setting) -> Candidate:
    """Headrace."""
    return Candidate(contestant=OURS, settings=settings)


def pgqueuer(*, jobs: int | None = None, **settings: Setting) -> Candidate:
    """PgQueuer; with its own tuning of autovacuum, unless told otherwise."""
    return Candidate(contestant="PgQueuer", settings={"autovacuum": True, **settings}, jobs=jobs)


def procrastinate(*, jobs: int | None = 4000, **settings: Setting) -> Candidate:
    """Procrastinate, with fewer jobs: its rate does not depend on their number."""
    return Candidate(contestant="Procrastinate", settings=settings, jobs=jobs)


def raw_sql(**settings: Setting) -> Candidate:
    """The limit of queues."""
    return Candidate(contestant=LIMIT, settings=settings)


def by_hand(**settings: Setting) -> Candidate:
    """The limit of what runs jobs: there is no queue."""
    return Candidate(contestant=LIMIT, module="by_hand", settings=settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One candidate, measured once."""

    value: float
    details: str = ""


Measure = Callable[[Arena, Candidate], Awaitable[Attempt]]


def drain(workload: Workload, *, processes: int = 1, some: Mapping[str, int] | None = None) -> Measure:
    """The rate at which these jobs are worked off, or the first of them, so many by contestant."""

    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        count = None if some is None else some[candidate.contestant]
        drained = await arena.drain(candidate, workload, processes=processes, some=count)
        return Attempt(value=drained.jobs_per_second, details="" if count is None else f"{count:,} of them")

    return measure


def last_chunk_to_first(workload: Workload) -> Measure:
    """How the rate fares while another transaction holds xmin."""

    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        rates = await arena.drain_chunks(candidate, workload)
        said_rates = ", ".join(f"{rate / 1000:.1f}" for rate in rates)
        return Attempt(value=rates[-1] / rates[0], details=f"thousand jobs/s: {said_rates}")

    return measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One benchmark."""

    id: str
    title: str
    unit: str
    how: str
    measure: Measure
    candidates: Sequence[Candidate]
    workload: Workload = field(default_factory=Workload)
    """For what is said of it; `measure` knows it, too."""
    repetitions: int = 1
    """Of the quick ones; the median counts. One with fewer jobs than the others is measured once."""
    at_once: bool = False
    """Whether all may be measured at the same time: only where nothing is timed."""
    better: Better = "higher"
    missing: Mapping[str, str] = field(default_factory=dict)
    """Who is not measured, and why."""

    async def run(self, arena: Arena, tell: Tell) -> Result:
        """Measure all candidates; the repetitions of one are spread over the time that all take."""
        attempts: dict[int, list[Attempt]] = defaultdict(list)
        missing = dict(self.missing)
        candidates = list(enumerate(self.candidates))

        async def attempt(number: int, candidate: Candidate) -> None:
            started = monotonic()
            try:
                made = await self.measure(arena, candidate)
            except MissingError as error:
                missing[candidate.contestant] = f"lacks: {error}"
                tell(f"{self.id}: {candidate}: lacks {error}")
                return
            attempts[number].append(made)
            tell(f"{self.id}: {candidate}: {said(made.value)} {self.unit} ({monotonic() - started:.1f} s)")

        for repetition in range(self.repetitions):
            due = [
                (number, candidate)
                for number, candidate in candidates
                if candidate.contestant not in missing and not (repetition and candidate.jobs)
            ]
            if self.at_once:
                await asyncio.gather(*(attempt(*one) for one in due))
            else:
                for one in due:
                    await attempt(*one)
        return Result(
            id=self.id,
            title=self.title,
            unit=self.unit,
            better=self.better,
            how=self.how,
            figures=self._figures(attempts),
            missing=missing,
        )

    def _figures(self, attempts: Mapping[int, Sequence[Attempt]]) -> list[Figure]:
        """Each contestant's median at its best setting."""
        by_contestant: dict[str, list[Figure]] = defaultdict(list)
        for number, made in attempts.items():
            candidate = self.candidates[number]
            value = median(attempt.value for attempt in made)
            nearest = min(made, key=lambda attempt: abs(attempt.value - value))
            by_contestant[candidate.contestant].append(
                Figure(
                    contestant=candidate.contestant,
                    value=value,
                    settings=self._settings(candidate),
                    details=nearest.details,
                )
            )
        return [best(by_contestant[name], self.better) for name in CONTESTANTS if name in by_contestant]

    def _settings(self, candidate: Candidate) -> str:
        parts = [f"{name}={value}" for name, value in candidate.settings.items()] or ["defaults"]
        if candidate.jobs is not None:
            parts.append(f"{candidate.jobs:,} jobs")
        return ", ".join(parts)
