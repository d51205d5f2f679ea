"""Whether every job is accounted for. Pure: what was asked, what ran, what was done to it all -> what is wrong.

All times are of one monotonic clock, which the processes of a machine share.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.queues.base import HEARTBEAT_SECONDS, LEASE_SECONDS

MAX_RETRIES = 3
FOREVER = float("inf")

# A pause that is shorter can't cost a worker its lease.
LEASE_LOST_SECONDS = LEASE_SECONDS - 2 * HEARTBEAT_SECONDS
# How long after a disturbance its effects may show: a lease, a look at it, and a retry.
AFTERMATH_SECONDS = LEASE_SECONDS + 3 * HEARTBEAT_SECONDS


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One job as a producer asked for it."""

    token: str
    called_at: float
    answered_at: float | None
    """None: the call failed, and whether the job is there nobody can say."""
    job_id: str | None = None
    key: str | None = None
    """By which it is enqueued once while unfinished."""
    idempotency_key: str | None = None
    """As its producer gave it; None: the job's id stands for it."""
    group: str | None = None
    delay_seconds: float = 0.0
    failures: int = 0
    """How many attempts were to fail."""
    hopeless: bool = False


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a job, as its worker noted it."""

    name: str
    job_id: str
    token: str
    attempt: int
    process: int
    began_at: float
    group: str | None = None
    ended: str | None = None
    """done, failed, given up, stopped; None: it never came to an end."""
    ended_at: float = FOREVER


@dataclass(frozen=True, kw_only=True)
class Finish:
    """That a key's finish had been recorded by then, as the worker noted that did it."""

    key: str
    token: str
    at: float


@dataclass(frozen=True, kw_only=True)
class Blow:
    """What the monkey did."""

    kind: str
    at: float
    until: float
    process: int | None = None
    """Whom it hit; None: the database or Redis, and so everybody."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that is known at the end."""

    asked: Sequence[Asked]
    runs: Sequence[Run]
    blows: Sequence[Blow]
    exits: Mapping[int, float]
    """When each worker process ended."""
    left: Sequence[str]
    """Ids of jobs that are still in the queue."""
    dead: Mapping[str, str]
    """Reason by job id."""
    finishes: Sequence[Finish] = ()
    """What workers noted; one that was killed may have left its last ones out."""
    finished: Mapping[str, str] = field(default_factory=dict)
    """The token by which each key is finished, at the end, in Redis."""


@dataclass(kw_only=True)
class Verdict:
    """What is wrong, and what was counted."""

    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def judge(evidence: Evidence) -> Verdict:
    """Hold the evidence against the promises."""
    verdict = Verdict()
    runs = _with_real_ends(evidence)
    by_job: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.began_at):
        by_job[run.job_id].append(run)
    tokens: dict[str, Asked] = {asked.token: asked for asked in evidence.asked}
    of_job: dict[str, Asked] = {}
    for job_id, own in by_job.items():
        if own[0].token in tokens:
            of_job[job_id] = tokens[own[0].token]
    for asked in evidence.asked:
        if asked.job_id is not None:
            of_job.setdefault(asked.job_id, asked)
    verdict.counts.update(
        answered=sum(asked.answered_at is not None for asked in evidence.asked),
        unanswered=sum(asked.answered_at is None for asked in evidence.asked),
        jobs=len(of_job),
        runs=len(runs),
    )
    for check in (
        *(_nothing_lost, _nothing_invented, _failures, _nothing_early, _again, _lanes, _order, _keys),
        *(_finishes, _nothing_after_a_finish, _again_by_key),
    ):
        verdict.wrong += check(evidence, by_job, of_job, verdict.counts)
    return verdict


_Jobs = Mapping[str, Sequence[Run]]
_Of = Mapping[str, Asked]
_Counts = Counter[str]


def _with_real_ends(evidence: Evidence) -> list[Run]:
    """A run that never noted its end had it with its process."""
    return [
        run if run.ended is not None else Run(**{**vars(run), "ended_at": evidence.exits.get(run.process, FOREVER)})
        for run in evidence.runs
    ]


def _nothing_lost(evidence: Evidence, by_job: _Jobs, of_job: _Of, counts: _Counts) -> Iterator[str]:
    """Each acknowledged job is done, or dead for a stated reason, or its key was finished by another; none is left."""
    for job_id in evidence.left:
        yield f"job {job_id} is left in the queue, {_story(by_job.get(job_id, ()))}"
    for job_id in {asked.job_id for asked in evidence.asked if asked.job_id is not None}:
        ends = Counter(run.ended for run in by_job.get(job_id, ()))
        if job_id in evidence.dead:
            counts[f"dead: {evidence.dead[job_id]}"] += 1
            if ends["done"]:
                counts["dead though done, unreported"] += 1
        elif ends["done"]:
            counts["completed"] += 1
        elif job_id in of_job and _key_of(job_id, of_job[job_id]) in evidence.finished:
            counts["completed by their keys' finish"] += 1
        elif job_id not in evidence.left:
            yield f"job {job_id} is lost, {_story(by_job.get(job_id, ()))}"


def _nothing_invented(evidence: Evidence, by_job: _Jobs, of_job: _Of, counts: _Counts) -> Iterator[str]:
    """What ran had been asked for, under the id that the producer was told."""
    tokens = {asked.token: asked for asked in evidence.asked}
    told = {asked.job_id: asked for asked in evidence.asked if asked.job_id is not None and asked.key is None}
    for job_id, runs in by_job.items():
        for run in runs:
            asked = tokens.get(run.token)
            if asked is None:
                yield f"job {job_id} ran, and nobody asked for it: token {run.token}"
            elif asked.key is None and asked.job_id not in (None, job_id):
                yield f"job {job_id} ran what job {asked.job_id} was to run"
            elif job_id in told and told[job_id].token != run.token:
                yield f"job {job_id} ran the payload of another"
        if job_id in of_job and of_job[job_id].answered_at is None:
            counts["ran though unanswered"] += 1
    for job_id in evidence.dead.keys() - of_job.keys():
        yield f"job {job_id} is dead ({evidence.dead[job_id]}), and nobody asked for it"


def _failures(evidence: Evidence, by_job: _Jobs, of_job: _Of, counts: _Counts) -> Iterator[str]:
    """Only failures are charged; only what failed too often, was hopeless, or killed its workers, is dead."""
    for job_id, runs in by_job.items():
        failed = {run.attempt for run in runs if run.ended == "failed"}
        for run in runs:
            if run.attempt > 1 and run.attempt - 1 not in failed:
                yield f"job {job_id} was charged attempt {run.attempt - 1}, which did not fail, {_story(runs)}"
            if run.attempt > MAX_RETRIES + 1:
                yield f"job {job_id} had {run.attempt} attempts, {_story(runs)}"
    for job_id, reason in evidence.dead.items():
        if job_id not in of_job:
            continue
        runs = by_job.get(job_id, ())
        asked = of_job[job_id]
        justified = {
            "RetriesExhausted": asked.failures > MAX_RETRIES,
            "hopeless, as planned": asked.hopeless,
            "WorkerLost": sum(_is_interrupted(evidence, run) for run in runs) >= 3,
        }
        if not justified.get(reason):
            yield f"job {job_id} is dead without cause ({reason}), {_story(runs)}"


def _nothing_early(evidence: Evidence, by_job: _Jobs, of_job: _Of, counts: _Counts) -> Iterator[str]:
    """No delayed job starts before its time."""
    for job_id, asked in of_job.items():
        # The clocks of a machine drift by so much against each other.
        due_at = asked.called_at + asked.delay_seconds - 0.02
        if (runs := by_job.get(job_id)) and runs[0].began_at < due_at:
            yield f"job {job_id} began {due_at - runs[0].began_at:.3f} s too early"


def _again(evidence: Evidence, by_job: _Jobs, of_job: _Of, counts: _Counts) -> Iterator[str]:
    """Whatever ran again has a cause: it failed, was stopped or cut off, or its outcome could not be reported."""
    for job_id, runs in by_job.items():
        for run, next_run in itertools.pairwise(runs):
            if run.ended == "failed" and next_run.attempt == run.attempt + 1:
                counts["again: failed"] += 1
            elif run.ended == "stopped":
                counts["again: stopped by its worker"] += 1
            elif _is_interrupted(evidence, run):
                counts["again: worker killed or paused"] += 1
            elif _is_hit(evidence, run, until=min(next_run.began_at, run.ended_at + AFTERMATH_SECONDS)):
                counts["again: outcome not reported"] += 1
            else:
                yield f"job {job_id} ran again without cause, {_story(runs)}"


def _lanes(evidence: Evidence, by_job: _Jobs, of_job: _Of, counts: _Counts) -> Iterator[str]:
    """Of a job, a group, and an idempotency key, one run at a time.

    Whoever was paused beyond its lease is late, and fenced. So is who had a claim when Redis was away beyond it.
    """
    lanes: dict[str, list[Run]] = defaultdict(list)
    for job_id, runs in by_job.items():
        for run in runs:
            lanes[f"group {run.group}" if run.group else f"job {job_id}"].append(run)
            if job_id in of_job and (key := of_job[job_id].idempotency_key):
                lanes[f"idempotency key {key}"].append(run)
    for lane, runs in lanes.items():
        runs.sort(key=lambda run: run.began_at)
        for number, run in enumerate(runs):
            for other in runs[number + 1 :]:
                if other.began_at >= run.ended_at:
                    break
                if _is_late(evidence, run) or _is_late(evidence, other):
                    counts["late runs beside others, fenced"] += 1
                elif run.job_id != other.job_id and _has_lost_its_claim(evidence, run):
                    counts["two runs of a key: Redis was away for long"] += 1
                else:
                    yield (
                        f"{lane}: two runs at a time, of job {run.job_id} and {other.job_id}, {_story([run, other])}"
                    )


def _order(evidence: Evidence, by_job: _Jobs, of_job: _Of, counts: _Counts) -> Iterator[str]:
    """Of a group, no job begins before the one before it has come to its end, in the order of enqueueing."""
    groups: dict[str, list[str]] = defaultdict(list)
    asked_in_order: dict[str, list[int]] = defaultdict(list)
    for job_id, asked in of_job.items():
        if asked.group is not None:
            groups[asked.group].append(job_id)
    for asked in evidence.asked:
        if asked.group is not None and asked.job_id is not None:
            asked_in_order[asked.group].append(int(asked.job_id))
    for group, ids in asked_in_order.items():
        if ids != sorted(ids):
            yield f"group {group}: ids are not in the order of enqueueing"
    for group, jobs in groups.items():
        jobs.sort(key=int)
        counts["jobs in groups"] += len(jobs)
        ran = [job_id for job_id in jobs if by_job.get(job_id)]
        for earlier, later in itertools.pairwise(ran):
            settled_at = min(
                (run.ended_at for run in by_job[earlier] if run.ended in {"done", "given up", "failed"}),
                default=min(run.ended_at for run in by_job[earlier]),
            )
            if by_job[later][0].began_at < settled_at:
                yield (
                    f"group {group}: job {later} began before job {earlier} ended, "
                    f"{_story([*by_job[earlier], by_job[later][0]])}"
                )


def _keys(evidence: Evidence, by_job: _Jobs, of_job: _Of, counts: _Counts) -> Iterator[str]:
    """While a key's job is unfinished, another is not enqueued."""
    by_key: dict[str, list[Asked]] = defaultdict(list)
    for asked in evidence.asked:
        if asked.key is not None and asked.job_id is not None:
            by_key[asked.key].append(asked)
    for key, calls in by_key.items():
        calls.sort(key=lambda asked: asked.answered_at or 0.0)
        for earlier, later in itertools.pairwise(calls):
            if earlier.job_id == later.job_id:
                counts["deduplicated"] += 1
                continue
            assert earlier.job_id is not None
            ends = [
                run.ended_at for run in by_job.get(earlier.job_id, ()) if run.ended in {"done", "given up", "failed"}
            ]
            if earlier.job_id in evidence.dead and not ends:
                continue
            if not ends or min(ends) > (later.answered_at or 0.0):
                yield f"key {key}: job {later.job_id} was enqueued while job {earlier.job_id} was unfinished"


def _finishes(evidence: Evidence, by_job: _Jobs, of_job: _Of, counts: _Counts) -> Iterator[str]:
    """Each key has one finish, which is not forgotten; and what is finished has been done."""
    noted: dict[str, set[str]] = defaultdict(set)
    for finish in evidence.finishes:
        noted[finish.key].add(finish.token)
    done = {
        _key_of(job_id, of_job[job_id])
        for job_id, runs in by_job.items()
        if job_id in of_job and any(run.ended == "done" for run in runs)
    }
    counts["keys finished"] = len(evidence.finished)
    for key, tokens in noted.items():
        if key not in evidence.finished:
            yield f"idempotency key {key}: its recorded finish is forgotten"
        elif tokens != {evidence.finished[key]}:
            yield f"idempotency key {key}: finished by several: {sorted({*tokens, evidence.finished[key]})}"
    for key in evidence.finished.keys() - done:
        yield f"idempotency key {key}: finished, and no run of it came to its end"
    counts["keys done, their finish never recorded"] = len(done - evidence.finished.keys())


def _nothing_after_a_finish(evidence: Evidence, by_job: _Jobs, of_job: _Of, counts: _Counts) -> Iterator[str]:
    """Once a key's finish has been recorded, no run of it starts."""
    finished_at: dict[str, float] = {}
    for finish in evidence.finishes:
        finished_at[finish.key] = min(finish.at, finished_at.get(finish.key, FOREVER))
    for key, runs in _by_key(by_job, of_job).items():
        for run in runs:
            if run.began_at > finished_at.get(key, FOREVER):
                yield (
                    f"idempotency key {key}: job {run.job_id} began at {run.began_at:.2f} after a finish that was "
                    f"recorded at {finished_at[key]:.2f}, {_story(runs)}"
                )


def _again_by_key(evidence: Evidence, by_job: _Jobs, of_job: _Of, counts: _Counts) -> Iterator[str]:
    """A key that was done is run again, by another job, only where its finish could not be recorded."""
    for key, runs in _by_key(by_job, of_job).items():
        for run, next_run in itertools.pairwise(runs):
            if run.job_id == next_run.job_id or run.ended != "done":
                continue
            hit = _is_hit(evidence, run, until=min(next_run.began_at, run.ended_at + AFTERMATH_SECONDS))
            if hit or _is_interrupted(evidence, run) or next_run.began_at < run.ended_at:
                counts["keys again: finish not recorded"] += 1
            else:
                yield f"idempotency key {key}: ran again without cause, {_story(runs)}"


def _by_key(by_job: _Jobs, of_job: _Of) -> Mapping[str, Sequence[Run]]:
    """The runs of each idempotency key, by when they began."""
    runs_of: dict[str, list[Run]] = defaultdict(list)
    for job_id, runs in by_job.items():
        if job_id in of_job:
            runs_of[_key_of(job_id, of_job[job_id])] += runs
    for runs in runs_of.values():
        runs.sort(key=lambda run: run.began_at)
    return runs_of


def _key_of(job_id: str, asked: Asked) -> str:
    return asked.idempotency_key or f"job:{job_id}"


def _is_interrupted(evidence: Evidence, run: Run) -> bool:
    """Whether its process was killed or paused while it ran, or it was stopped."""
    return (
        run.ended is None
        or run.ended == "stopped"
        or any(
            blow.process == run.process and blow.at < run.ended_at and blow.until > run.began_at
            for blow in evidence.blows
        )
    )


def _is_hit(evidence: Evidence, run: Run, *, until: float) -> bool:
    """Whether, once it had ended, something kept its worker from reporting."""
    return any(
        blow.process in (None, run.process) and blow.at < until and blow.until > run.ended_at - 1.0
        for blow in evidence.blows
    )


def _is_late(evidence: Evidence, run: Run) -> bool:
    """Whether its process was paused for so long, while it ran, that its lease was lost."""
    return any(
        blow.kind == "pause"
        and blow.process == run.process
        and blow.until - blow.at >= LEASE_LOST_SECONDS
        and blow.at < run.ended_at
        and blow.until > run.began_at
        for blow in evidence.blows
    )


def _has_lost_its_claim(evidence: Evidence, run: Run) -> bool:
    """Whether Redis was away, before the run's end, for so long that its claim may have run out.

    Blows that leave it no time for a heartbeat in between are one.
    """
    away = sorted(
        (blow for blow in evidence.blows if blow.kind in {"redis killed", "redis paused"}),
        key=lambda blow: blow.at,
    )
    since = until = -FOREVER
    for blow in away:
        if blow.at > until + 2 * HEARTBEAT_SECONDS:
            since = blow.at
        until = blow.until
        if until - since >= LEASE_LOST_SECONDS and since < run.ended_at and until > run.began_at - LEASE_SECONDS:
            return True
    return False


def _story(runs: Iterable[Run]) -> str:
    told = "; ".join(
        f"attempt {run.attempt} in {run.process} from {run.began_at:.2f} to {run.ended_at:.2f} {run.ended or 'cut off'}"
        for run in runs
    )
    return told or "never run"
