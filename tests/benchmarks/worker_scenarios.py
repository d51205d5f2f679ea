"""The worker's benchmarks: what it costs beside the queue, to run, to keep jobs, and to start."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.arena import Arena, Candidate
from benchmarks.contestants.order import Workload
from benchmarks.report import LIMIT, OURS
from benchmarks.scenario import Attempt, Measure, Scenario, by_hand, ours, pgqueuer, procrastinate, raw_sql

_NO_HANDLER = {"PgQueuer": "has no such handler", "Procrastinate": "has no such handler"}

_CLAIM_SAMPLES = 2000
_READY = Workload(jobs=200_000)
_ASLEEP = Workload(jobs=1000)
_REQUESTS = Workload(handler="http")
_PROGRAMS = Workload(jobs=3000, handler="exec")
_STARTS = 5


def _claims(samples: int) -> Measure:
    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        seconds = await arena.claim(candidate, samples)
        return Attempt(value=1000 * median(seconds), details=f"p99 {1000 * seconds[int(0.99 * len(seconds))]:.2f} ms")

    return measure


def _overhead(workload: Workload) -> Measure:
    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        return Attempt(value=1e6 * await arena.overhead(candidate, workload))

    return measure


def _sleep(workload: Workload) -> Measure:
    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        return Attempt(value=await arena.sleep(candidate, workload) / 2**20)

    return measure


def _requests(workload: Workload) -> Measure:
    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        return Attempt(value=(await arena.drain_to_server(candidate, workload)).jobs_per_second)

    return measure


def _programs(workload: Workload) -> Measure:
    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        return Attempt(value=(await arena.drain(candidate, workload)).jobs_per_second)

    return measure


def _start(samples: int) -> Measure:
    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        seconds = await arena.start(candidate, samples)
        return Attempt(value=median(seconds), details=f"{min(seconds):.2f} to {max(seconds):.2f} s")

    return measure


WORKER_SCENARIOS: Sequence[Scenario] = (
    Scenario(
        id="idempotency_claim_ms",
        title="Milliseconds in which a batch of 100 new idempotency keys is claimed in Redis",
        unit="ms",
        how=f"Median of {_CLAIM_SAMPLES:,} calls, one after another, to a Redis without persistence. The limit is "
        "`SET … NX PX` for each key, pipelined by hand over a bare connection, and can't tell who has a key that is "
        "taken. Median of three.",
        measure=_claims(_CLAIM_SAMPLES),
        candidates=(
            Candidate(contestant=OURS, module="ours_claims", settings={"batch": 100}),
            Candidate(contestant=LIMIT, module="raw_claims", settings={"batch": 100}),
        ),
        repetitions=3,
        better="lower",
        missing={"PgQueuer": "has no idempotency", "Procrastinate": "has no idempotency"},
    ),
    Scenario(
        id="runtime_overhead_us",
        title="Processor time of a job that does nothing, on a queue that costs nothing",
        unit="µs/job",
        how="What a worker costs beside its queue. Each runs on its own backend in memory, but that jobs are "
        "ready-made and their completion is only counted, so that no backend's cost is in the figure (that of "
        "Procrastinate's, made for tests, would be nearly all of it). It is the processor time of the whole process "
        "from the worker's start to the last completion, divided by the jobs: 200,000 of ours and the limit's, fewer "
        "of the peers'. The limit decodes each payload and awaits the function, no more. Median of three of ours and "
        "the limit's.",
        measure=_overhead(_READY),
        candidates=(
            *(Candidate(contestant=OURS, module="stand_ins.ours", settings={"slots": slots}) for slots in (10, 100)),
            *(
                Candidate(contestant="PgQueuer", module="stand_ins.pgqueuer", settings={"batch": batch}, jobs=30_000)
                for batch in (10, 500)
            ),
            *(
                Candidate(
                    contestant="Procrastinate",
                    module="stand_ins.procrastinate",
                    settings={"concurrency": concurrency},
                    jobs=10_000,
                )
                for concurrency in (1, 10)
            ),
            by_hand(),
        ),
        repetitions=3,
        better="lower",
    ),
    Scenario(
        id="sleeping_jobs_rss_mib",
        title="Memory of a worker's process while 1,000 jobs sleep in it",
        unit="MiB",
        how="Resident memory (VmRSS) once all have begun; then they wake, and end. Ours and Procrastinate are told to "
        "run 1,000 at a time; PgQueuer runs what it takes.",
        measure=_sleep(_ASLEEP),
        candidates=(
            ours(slots=1000),
            *(pgqueuer(batch=batch) for batch in (10, 500)),
            procrastinate(jobs=None, concurrency=1000, delete_jobs="always"),
            raw_sql(batch=1000),
        ),
        better="lower",
    ),
    Scenario(
        id="http_handler",
        title="20,000 jobs, each a POST to a server that does nothing",
        unit="jobs/s",
        how="The server is a process of its own on the same machine, as little as there can be, and is asked "
        "afterwards which jobs it was sent. The limit sends the same requests over connections that are kept, without "
        "a queue. Median of three.",
        measure=_requests(_REQUESTS),
        candidates=(
            *(ours(slots=slots) for slots in (10, 50, 100)),
            *(by_hand(at_once=at_once) for at_once in (10, 50, 100)),
        ),
        repetitions=3,
        missing=_NO_HANDLER,
    ),
    Scenario(
        id="exec_handler",
        title="3,000 jobs, each a run of /bin/true",
        unit="jobs/s",
        how="The limit calls `posix_spawn` and `waitpid` with so many at once, without a queue, a pipe or a payload. "
        "Median of three.",
        measure=_programs(_PROGRAMS),
        candidates=(ours(slots=8), *(by_hand(at_once=at_once) for at_once in (2, 4, 8))),
        repetitions=3,
        missing=_NO_HANDLER,
    ),
    Scenario(
        id="start_to_first_job_s",
        title="Seconds from a worker's command to the start of the job that waits for it",
        unit="s",
        how=f"Median of {_STARTS}, with defaults. The commands are `headrace worker` and `procrastinate worker`; "
        "PgQueuer's is a script that calls its `run`, since `pgq run` does not start with the typer that it is "
        "installed with. The limit is a script that connects by asyncpg and runs one job. All are compiled before.",
        measure=_start(_STARTS),
        candidates=(ours(), pgqueuer(), procrastinate(jobs=None), raw_sql()),
        better="lower",
    ),
)
