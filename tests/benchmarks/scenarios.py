"""The benchmarks: what each measures, of whom, at which settings. Those of rougher weather and of
the worker are modules of their own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

from benchmarks.arena import Arena, Candidate
from benchmarks.busy import busy_cores
from benchmarks.contestants.order import CALLERS, CHUNKS, Workload
from benchmarks.report import LIMIT, OURS
from benchmarks.rough_scenarios import ROUGH_SCENARIOS
from benchmarks.scenario import (
    Attempt,
    Measure,
    Scenario,
    drain,
    last_chunk_to_first,
    ours,
    pgqueuer,
    procrastinate,
    raw_sql,
)
from benchmarks.sqs_scenarios import SQS_SCENARIOS
from benchmarks.worker_scenarios import WORKER_SCENARIOS

_DECODING = (
    "Ours and Procrastinate decode them from JSON; PgQueuer hands bytes over, and so does the limit. Median of three."
)

# Of each the best setting, or one that is as good, where only one is measured: `drain_best` shows how they differ.
BEST = (
    ours(slots=500),
    pgqueuer(batch=500),
    procrastinate(concurrency=10, delete_jobs="always"),
    raw_sql(batch=500),
)


def _wal(workload: Workload) -> Measure:
    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        drained = await arena.drain(candidate, workload, settles=False)
        return Attempt(value=drained.wal_bytes / candidate.share(workload).jobs)

    return measure


def _enqueue_many(workload: Workload) -> Measure:
    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        return Attempt(value=await arena.enqueue(candidate, workload, "enqueue_many"))

    return measure


def _enqueue_concurrent(workload: Workload) -> Measure:
    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        return Attempt(value=await arena.enqueue(candidate, workload, "enqueue_concurrent"))

    return measure


def _idle(seconds: float) -> Measure:
    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        return Attempt(value=await arena.idle(candidate, seconds))

    return measure


def _wake(samples: int, *, is_busy: bool = False) -> Measure:
    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        with busy_cores() if is_busy else nullcontext():
            seconds = await arena.wake(candidate, samples)
        p50, p99 = (1000 * seconds[int(share * len(seconds))] for share in (0.5, 0.99))
        return Attempt(value=p99, details=f"median {p50:.2f} ms")

    return measure


_NO_OP = Workload()
_MANY = Workload(jobs=200_000)
_PINNED = Workload(jobs=100_000)
_BACKLOG = Workload(jobs=1_000_000)
_GROUPS = Workload(groups=1000)
_PRIORITIES = Workload(priorities=11)
_2KB = Workload(payload_bytes=2048)
_100KB = Workload(jobs=1000, per_call=10, payload_bytes=100 * 1024)
_FOUR = Workload(jobs=80_000)

_IDLE_SECONDS = 60.0
_WAKE_SAMPLES = 300

SCENARIOS: Sequence[Scenario] = (
    Scenario(
        id="drain_best",
        title="One worker, 20,000 jobs, at the best of a few settings",
        unit="jobs/s",
        how="Median of three at each setting.",
        measure=drain(_NO_OP),
        candidates=(
            *(ours(slots=slots) for slots in (100, 500, 1000)),
            *(pgqueuer(batch=batch) for batch in (100, 500, 1000)),
            procrastinate(concurrency=10, delete_jobs="always"),
            *(raw_sql(batch=batch) for batch in (100, 500, 1000)),
        ),
        repetitions=3,
    ),
    Scenario(
        id="drain_default",
        title="The same with every library's defaults",
        unit="jobs/s",
        how="Ours runs 10 jobs at a time, PgQueuer takes 10 at a time, Procrastinate runs one and keeps finished jobs. "
        "The limit has no defaults: it is that at batch 500. Median of three.",
        measure=drain(_NO_OP),
        candidates=(ours(), pgqueuer(autovacuum=False), procrastinate(), raw_sql(batch=500)),
        repetitions=3,
    ),
    Scenario(
        id="enqueue_concurrent",
        title=f"Jobs enqueued one a call by {CALLERS} concurrent callers, each of which waits until its own is durable",
        unit="jobs/s",
        how="20,000 jobs, made before the clock starts. Callers of PgQueuer share ten pooled connections, those "
        "of Procrastinate twelve; the limit collects what callers ask for while a statement is under way. Median of "
        "three.",
        measure=_enqueue_concurrent(_NO_OP),
        candidates=(ours(), pgqueuer(jobs=5000), procrastinate(jobs=3000), raw_sql()),
        repetitions=3,
    ),
    Scenario(
        id="enqueue_many",
        title="Jobs enqueued 1,000 a call, one call after another",
        unit="jobs/s",
        how="200,000 jobs, made before the clock starts. The limit is COPY. Median of three.",
        measure=_enqueue_many(_MANY),
        candidates=(ours(), pgqueuer(), procrastinate(jobs=20_000), raw_sql()),
        repetitions=3,
    ),
    Scenario(
        id="drain_pinned_xmin",
        title="100,000 jobs while another transaction stays open, so that no dead row can be removed",
        unit="last tenth ÷ first",
        how=f"The same worker works off {CHUNKS} chunks of 10,000, each enqueued in one call and timed from its first "
        "job to its last; the figure is the last chunk's rate over the first's. The limit's SQL does nothing about it. "
        "Median of three.",
        measure=last_chunk_to_first(_PINNED),
        candidates=(ours(slots=500), pgqueuer(batch=500), raw_sql(batch=500)),
        repetitions=3,
        missing={"Procrastinate": "not run: it would take minutes"},
    ),
    Scenario(
        id="wal_bytes_per_job",
        title="Write-ahead log of a job, from its enqueueing to its completion",
        unit="bytes/job",
        how="20,000 jobs enqueued 1,000 a call and worked off; whatever the server wrote meanwhile counts. "
        "A checkpoint comes before and none after that.",
        measure=_wal(_NO_OP),
        candidates=BEST,
        better="lower",
    ),
    Scenario(
        id="drain_backlog_1m",
        title="A million jobs waiting; how fast the first of them go",
        unit="jobs/s",
        how="From the first request to the 20,000th job handled (the 2,000th of Procrastinate's).",
        measure=drain(_BACKLOG, some={OURS: 20_000, "PgQueuer": 20_000, "Procrastinate": 2000, LIMIT: 20_000}),
        candidates=(
            ours(slots=500),
            pgqueuer(batch=500),
            procrastinate(jobs=200_000, concurrency=10, delete_jobs="always"),
            raw_sql(batch=500),
        ),
    ),
    Scenario(
        id="drain_groups",
        title="20,000 jobs in 1,000 message groups, each group in order and one at a time",
        unit="jobs/s",
        how="The order within each group is checked. Procrastinate's locks are the nearest that the peers have. Median "
        "of three.",
        measure=drain(_GROUPS),
        candidates=(
            *(ours(slots=slots) for slots in (100, 500)),
            procrastinate(concurrency=10, delete_jobs="always"),
        ),
        repetitions=3,
        missing={"PgQueuer": "has no groups", LIMIT: "has no groups"},
    ),
    Scenario(
        id="drain_priorities",
        title="20,000 jobs of 11 priorities, mixed",
        unit="jobs/s",
        how="Median of three.",
        measure=drain(_PRIORITIES),
        candidates=BEST,
        repetitions=3,
    ),
    Scenario(
        id="drain_2kb",
        title="20,000 jobs with 2 kB each that do not compress",
        unit="jobs/s",
        how=_DECODING,
        measure=drain(_2KB),
        candidates=BEST,
        repetitions=3,
    ),
    Scenario(
        id="drain_100kb",
        title="1,000 jobs with 100 kB each that do not compress",
        unit="jobs/s",
        how=_DECODING,
        measure=drain(_100KB),
        candidates=(
            ours(slots=100),
            pgqueuer(batch=100),
            procrastinate(jobs=500, concurrency=10, delete_jobs="always"),
            raw_sql(batch=100),
        ),
        repetitions=3,
    ),
    Scenario(
        id="drain_4_processes",
        title="80,000 jobs worked off by four processes",
        unit="jobs/s",
        how="Four workers on one queue, begun together. Which job is the last, the processes find out between them: "
        "nobody asks the database before. Median of three.",
        measure=drain(_FOUR, processes=4),
        candidates=BEST,
        repetitions=3,
    ),
    Scenario(
        id="idle_queries_per_minute",
        title="Statements that a worker with an empty queue sends, by default settings",
        unit="statements/min",
        how="As the server logs them (`log_statement=all`) for a minute, when the worker has been up for a while.",
        measure=_idle(_IDLE_SECONDS),
        candidates=(ours(), pgqueuer(), procrastinate(jobs=None)),
        at_once=True,
        better="lower",
        missing={LIMIT: "none"},
    ),
    Scenario(
        id="wake_p99_ms",
        title="Milliseconds from calling enqueue to the job's start, on a worker that waits",
        unit="ms",
        how=f"99th percentile of {_WAKE_SAMPLES}, at irregular pauses of about 0.1 s, default settings, producer and "
        "worker in one process on connections of their own. The limit is LISTEN and NOTIFY by hand.",
        measure=_wake(_WAKE_SAMPLES),
        candidates=(ours(), pgqueuer(), procrastinate(jobs=None), raw_sql()),
        better="lower",
    ),
    Scenario(
        id="wake_busy_p99_ms",
        title="The same beside one spinning process a core",
        unit="ms",
        how="As `wake_p99_ms`, while on each core a process of the same priority does nothing but spin.",
        measure=_wake(_WAKE_SAMPLES, is_busy=True),
        candidates=(ours(), pgqueuer(), procrastinate(jobs=None), raw_sql()),
        better="lower",
    ),
    *ROUGH_SCENARIOS,
    *WORKER_SCENARIOS,
    *SQS_SCENARIOS,
)
