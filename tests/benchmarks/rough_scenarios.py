"""The queue's benchmarks in rougher weather: a hundred workers, failures, delays, history, keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.arena import Arena, Candidate, Crowded
from benchmarks.contestants.order import CHUNKS, DELAY_SECONDS, Workload
from benchmarks.report import LIMIT
from benchmarks.scenario import (
    Attempt,
    Scenario,
    drain,
    last_chunk_to_first,
    ours,
    pgqueuer,
    procrastinate,
    raw_sql,
)

_WORKERS = 100
_SLOTS = 10
_CONNECTIONS = 300
_CROWD_SECONDS = 6.0
_CROWD = Workload(jobs=250_000, seconds=0.1)
_ALONE = Workload(jobs=6000, seconds=0.1)

_HELD = 30_000
_TAKES = 800
_READY = Workload(jobs=60_000)

_FAILURES = Workload(failing=1)
# Chunks of a second: its last retries and delays, which wait for their time alone, must not be a third of one.
_PINNED_GROUPS = Workload(jobs=100_000, groups=10_000, failing=10, delayed=7)
_HISTORY = Workload(history=True)
_KEYS = Workload(keyed=True)

_TOO_LONG = "not run: it would take minutes"


class _Crowds:
    """Measures each contestant's crowd once, for all benchmarks that say something of it."""

    def __init__(self) -> None:
        self._crowds: dict[str, Crowded] = {}

    async def rate(self, arena: Arena, candidate: Candidate) -> Attempt:
        crowd = await self._crowd(arena, candidate)
        return Attempt(value=crowd.jobs_per_second, details=_server_time(crowd))

    async def growth(self, arena: Arena, candidate: Candidate) -> Attempt:
        crowd = await self._crowd(arena, candidate)
        with arena.wider(_CONNECTIONS) as wide:
            alone = replace(candidate, jobs=None)
            one = await wide.crowd(alone, _ALONE, workers=1, seconds=2 * _CROWD_SECONDS)
        return Attempt(
            value=crowd.server_seconds_per_job / one.server_seconds_per_job,
            details=f"{_server_time(crowd)}, of one worker {_server_time(one)}",
        )

    async def _crowd(self, arena: Arena, candidate: Candidate) -> Crowded:
        if str(candidate) not in self._crowds:
            with arena.wider(_CONNECTIONS) as wide:
                self._crowds[str(candidate)] = await wide.crowd(
                    candidate, _CROWD, workers=_WORKERS, seconds=_CROWD_SECONDS
                )
        return self._crowds[str(candidate)]


def _server_time(crowd: Crowded) -> str:
    return f"{1e6 * crowd.server_seconds_per_job:.0f} µs/job"


async def _beside(arena: Arena, candidate: Candidate) -> Attempt:
    alone, beside = await arena.beside(candidate, _READY, held=_HELD, samples=_TAKES)
    return Attempt(value=beside / alone, details=f"{1000 * alone:.2f} and {1000 * beside:.2f} ms")


_crowds = _Crowds()
_CROWD_CANDIDATES = (
    ours(slots=_SLOTS),
    pgqueuer(jobs=100_000, batch=_SLOTS // 2, concurrent=_SLOTS),
    raw_sql(batch=_SLOTS),
)
_OTHERS_CROWD = {"Procrastinate": _TOO_LONG}

ROUGH_SCENARIOS: Sequence[Scenario] = (
    Scenario(
        id="drain_100_workers",
        title=f"{_WORKERS} workers of {_SLOTS} slots on one queue, jobs of {_CROWD.seconds:g} s",
        unit="jobs/s",
        how=f"{_WORKERS} processes, which the machine's cores are too few for: it is how little each of them and the "
        f"server need. The slots allow {_WORKERS * _SLOTS / _CROWD.seconds:,.0f} jobs/s. All are up and at work before "
        f"the clock starts; then jobs are counted for {_CROWD_SECONDS:g} s. The server's only setting that is not "
        f"stock is `max_connections={_CONNECTIONS}`, for every contestant.",
        measure=_crowds.rate,
        candidates=_CROWD_CANDIDATES,
        missing=_OTHERS_CROWD,
    ),
    Scenario(
        id="crowd_server_time",
        title=f"The database server's processor time of a job with {_WORKERS} workers, over that with one of them",
        unit="times",
        how="In the run of `drain_100_workers`, and in another with one such worker alone: user and system time of all "
        "of the server's processes.",
        measure=_crowds.growth,
        candidates=_CROWD_CANDIDATES,
        better="lower",
        missing=_OTHERS_CROWD,
    ),
    Scenario(
        id="claim_beside_held",
        title=f"Requests for 15 jobs each while others hold {_HELD:,}, over the same without them",
        unit="times",
        how=f"The database server's processor time of {_TAKES} requests and completions, one after another, before and "
        "after the others took theirs, 300 each.",
        measure=_beside,
        candidates=(ours(), raw_sql()),
        better="lower",
        missing=dict.fromkeys(("PgQueuer", "Procrastinate"), "not measured: its requests aren't told from the rest"),
    ),
    Scenario(
        id="drain_failures",
        title="20,000 jobs, the first attempt of each fails",
        unit="jobs/s",
        how="It raises, from three calls down; error and traceback are stored, and the second attempt, which comes "
        "without a delay, succeeds. PgQueuer retries by its `DatabaseRetryEntrypointExecutor`. Procrastinate stores "
        "no error. The limit notes a batch's failures in one statement. Median of three.",
        measure=drain(_FAILURES),
        candidates=(
            *(ours(slots=slots) for slots in (100, 500)),
            *(pgqueuer(batch=batch, jobs=2000) for batch in (10, 100)),
            procrastinate(jobs=1000, concurrency=10, delete_jobs="always"),
            raw_sql(batch=500),
        ),
        repetitions=3,
    ),
    Scenario(
        id="drain_pinned_groups",
        title="100,000 jobs of 10,000 groups, with delays and failures, while another transaction stays open",
        unit="last tenth ÷ first",
        how=f"As `drain_pinned_xmin`, in {CHUNKS} chunks of 10,000, one of each group; of these each tenth job fails "
        f"at first, and each seventh is delayed by {DELAY_SECONDS:g} s. The order within each group is checked. Median "
        "of three.",
        measure=last_chunk_to_first(_PINNED_GROUPS),
        candidates=(ours(slots=500),),
        repetitions=3,
        missing={"PgQueuer": "has no groups", "Procrastinate": _TOO_LONG, LIMIT: "has no groups"},
    ),
    Scenario(
        id="drain_history",
        title="20,000 jobs that can be looked up once they are finished",
        unit="jobs/s",
        how="Ours with `completedRetentionSeconds`, Procrastinate without deleting; the limit moves rows to another "
        "table. Median of three.",
        measure=drain(_HISTORY),
        candidates=(
            ours(slots=500),
            pgqueuer(batch=500),
            procrastinate(concurrency=10, delete_jobs="never"),
            raw_sql(batch=500),
        ),
        repetitions=3,
    ),
    Scenario(
        id="drain_keys",
        title="20,000 jobs, each with a deduplication key",
        unit="jobs/s",
        how="Of PgQueuer it is the `dedupe_key`, of Procrastinate the `queueing_lock`, of the limit a unique column. "
        "Median of three.",
        measure=drain(_KEYS),
        candidates=(
            ours(slots=500),
            pgqueuer(batch=500),
            procrastinate(concurrency=10, delete_jobs="always"),
            raw_sql(batch=500),
        ),
        repetitions=3,
    ),
)
