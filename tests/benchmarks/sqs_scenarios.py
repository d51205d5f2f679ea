"""The benchmarks of queues in SQS, on a server of its protocol: what a client and a worker cost, not what AWS does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from benchmarks.arena import Arena, Candidate
from benchmarks.contestants.order import CALLERS, Setting, Workload
from benchmarks.report import BARE, LIMIT, OURS
from benchmarks.scenario import Attempt, Measure, Scenario
from benchmarks.sqs_arena import SqsArena

_CALLERS = 16

_DRAIN = Workload(jobs=20_000)
_DISTANT = Workload(jobs=20_000)
_COUNTED = Workload(jobs=2000)
_ENQUEUE = Workload(jobs=20_000)

_DELAY_SECONDS = 0.01


def _ours(**settings: Setting) -> Candidate:
    return Candidate(contestant=OURS, module="sqs_ours", settings=settings)


def _sqs_workers(*, jobs: int | None = 5000, **settings: Setting) -> Candidate:
    return Candidate(contestant="sqs-workers", module="sqs_workers", settings=settings, jobs=jobs)


def _taskiq(*, jobs: int | None = 3000, **settings: Setting) -> Candidate:
    return Candidate(contestant="taskiq-aio-sqs", module="taskiq_on_sqs", settings=settings, jobs=jobs)


def _bare(*, jobs: int | None = None, **settings: Setting) -> Candidate:
    return Candidate(contestant=BARE, module="sqs_by_hand", settings={"client": "aiobotocore", **settings}, jobs=jobs)


def _by_hand(**settings: Setting) -> Candidate:
    return Candidate(contestant=LIMIT, module="sqs_by_hand", settings={"client": "signed", **settings})


def _on_sqs(value: Callable[[SqsArena, Candidate], Awaitable[Attempt]]) -> Measure:
    async def measure(arena: Arena, candidate: Candidate) -> Attempt:
        assert arena.sqs is not None, "a server was started"
        return await value(arena.sqs, candidate)

    return measure


def _drain(workload: Workload, *, delay_seconds: float = 0.0) -> Measure:
    async def value(arena: SqsArena, candidate: Candidate) -> Attempt:
        return Attempt(value=await arena.drain(candidate, workload, delay_seconds=delay_seconds))

    return _on_sqs(value)


def _calls(workload: Workload) -> Measure:
    async def value(arena: SqsArena, candidate: Candidate) -> Attempt:
        calls = await arena.calls(candidate, workload)
        details = ", ".join(f"{number:,} {operation}" for operation, number in calls.most_common())
        return Attempt(value=1000 * calls.total() / workload.jobs, details=details)

    return _on_sqs(value)


def _enqueue(workload: Workload) -> Measure:
    async def value(arena: SqsArena, candidate: Candidate) -> Attempt:
        return Attempt(value=await arena.enqueue(candidate, workload))

    return _on_sqs(value)


SQS_SCENARIOS: Sequence[Scenario] = (
    Scenario(
        id="sqs_drain",
        title="One worker on SQS, 20,000 jobs, on an ElasticMQ that is warm",
        unit="jobs/s",
        how=f"The limits are {_CALLERS} callers that receive ten, decode and delete ten, one call after another: with "
        "aiobotocore bare, and with requests signed by hand over aiohttp. sqs-workers has one loop, as its command "
        "has, or four threads with one each. Median of three.",
        measure=_drain(_DRAIN),
        candidates=(
            *(_ours(slots=slots) for slots in (100, 200)),
            *(_sqs_workers(threads=threads) for threads in (1, 4)),
            _taskiq(tasks=100),
            _bare(callers=_CALLERS),
            _by_hand(callers=_CALLERS),
        ),
        repetitions=3,
    ),
    Scenario(
        id="sqs_drain_10ms",
        title="The same with 10 ms added to each call, as to a region nearby",
        unit="jobs/s",
        how="By a proxy. The limits have 64 callers. Median of three.",
        measure=_drain(_DISTANT, delay_seconds=_DELAY_SECONDS),
        candidates=(
            *(_ours(slots=slots) for slots in (200, 500)),
            *(_sqs_workers(threads=threads, jobs=2000) for threads in (1, 4)),
            _taskiq(tasks=100, jobs=2000),
            _bare(callers=64),
            _by_hand(callers=64),
        ),
        repetitions=3,
    ),
    Scenario(
        id="sqs_calls_per_1000",
        title="Calls of the service for 1,000 jobs that are worked off, which is what SQS costs",
        unit="calls",
        how="2,000 jobs, one worker, from its start to its end, counted by a proxy. A hundred receives and a hundred "
        "deletes of ten are the fewest.",
        measure=_calls(_COUNTED),
        candidates=(
            _ours(slots=100),
            _sqs_workers(jobs=None),
            _taskiq(tasks=100, jobs=None),
            _by_hand(callers=_CALLERS),
        ),
        better="lower",
    ),
    Scenario(
        id="sqs_enqueue_concurrent",
        title=f"Jobs enqueued one a call by {CALLERS} concurrent callers, each of which waits until its own is durable",
        unit="jobs/s",
        how="20,000 jobs, made before the clock starts. Callers of sqs-workers are threads; taskiq's batches are off, "
        "since its callers would not wait, and jobs are lost with them. The limits send what callers ask for at the "
        "same time. Median of three.",
        measure=_enqueue(_ENQUEUE),
        candidates=(
            _ours(),
            *(_sqs_workers(threads=threads) for threads in (4, 16)),
            _taskiq(),
            _bare(),
            _by_hand(),
        ),
        repetitions=3,
    ),
)
