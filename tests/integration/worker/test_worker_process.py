"""The worker as it runs in a pod: a process with signals, endpoints and a real database."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from headrace import NewJob, new_job
from headrace.queues.base import Depth, Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from support.verbs import enqueue, standing
from support.worker_process import attempts, eventually, records, running_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.postgres import PostgresServer

APP = ("--app", "support.worker_app:app")
SOON_AGAIN = {"BACKGROUND_JOBS__RETRY__INITIALDELAYSECONDS": "0.01"}


async def provision(dsn: str, **settings: int) -> PostgresQueue:
    place = Place(dsn=dsn)
    await PostgresProvisioner(place).ensure(
        "orders",
        QueueSettings(**settings),  # type: ignore[arg-type]
        Owner(namespace="shop", name="orders", uid="1"),
    )
    return PostgresQueue(place, "orders")


@pytest.fixture
async def queue(database_dsn: str) -> AsyncIterator[PostgresQueue]:
    async with await provision(database_dsn) as opened:
        yield opened


async def test_every_job_is_run_once_and_the_metrics_say_so(
    queue: PostgresQueue, database_dsn: str, tmp_path: Path
) -> None:
    ids = await enqueue(queue, [new_job("quick")] * 150 + [new_job("in-thread")] * 150)
    with running_worker(tmp_path, *APP, dsn=database_dsn) as worker:
        await eventually(lambda: worker.metric("completed_total") == 300, what="300 completed")
        assert records(tmp_path, "done") == dict.fromkeys(ids, 1)
        await eventually(lambda: worker.metric("queue_depth") == 0, what="an empty queue")
        text = worker.get("/metrics")[1]
        assert 'background_jobs_completed_total{namespace="shop",queue="orders"} 300.0' in text
        for series in (
            "enqueued_total",
            "failed_total",
            "retried_total",
            "duration_bucket",
            "queue_wait_time_bucket",
            "queue_delayed",
            "queue_in_flight",
            "queue_dead_lettered",
            "queue_oldest_age_seconds",
            "busy_slots",
            "lease_lost_total",
            "refused_completions_total",
            "unknown_name_total",
        ):
            assert f"\nbackground_jobs_{series}{{" in text
        labels = set(re.findall(r"(\w+)=\"", "\n".join(re.findall(r"^background_jobs_.*$", text, re.MULTILINE))))
        assert labels == {"namespace", "queue", "le"}
        assert worker.get("/healthz") == (200, "ok\n")
        assert worker.get("/readyz") == (200, "ok\n")
        worker.terminate()
        assert await worker.exit_status() == 0
    assert await standing(queue) == Depth()


async def test_failures_are_retried_then_dead_lettered_and_never_stop_the_worker(
    database_dsn: str, tmp_path: Path
) -> None:
    async with await provision(database_dsn, max_retries=2) as queue:
        (failing,) = await enqueue(queue, [new_job("failing", 7)])
        await queue.enqueue([new_job("hopeless"), new_job("exiting"), NewJob(name="quick", payload=b"{no json")])
        with running_worker(
            tmp_path, *APP, dsn=database_dsn, BACKGROUND_JOBS__RETRY__INITIALDELAYSECONDS="0.01"
        ) as worker:
            await eventually(lambda: worker.metric("failed_total") == 4, what="four dead letters")
            assert records(tmp_path, "started")[failing] == 3
            assert worker.metric("retried_total") == 4
            assert "no luck with 7" in worker.log
            assert "there is no such picture" in worker.log
            await queue.enqueue([new_job("quick")])
            await eventually(lambda: worker.metric("completed_total") == 1, what="a good job after the bad ones")
        assert (await queue.depth()).dead_lettered == 4


async def test_an_unknown_name_goes_back_uncharged_and_is_counted(
    queue: PostgresQueue, database_dsn: str, tmp_path: Path
) -> None:
    await queue.enqueue([new_job("deployed-tomorrow")])
    with running_worker(tmp_path, *APP, dsn=database_dsn) as worker:
        await eventually(lambda: (worker.metric("unknown_name_total") or 0) >= 2, what="met twice")
        assert worker.metric("retried_total") == 0
        assert worker.metric("failed_total") == 0


async def test_a_handler_enqueues_further_jobs_and_they_are_counted(
    queue: PostgresQueue, database_dsn: str, tmp_path: Path
) -> None:
    await queue.enqueue([new_job("parent")])
    with running_worker(tmp_path, *APP, dsn=database_dsn) as worker:
        await eventually(lambda: worker.metric("completed_total") == 3, what="the parent and its children")
        assert worker.metric("enqueued_total") == 2


async def test_a_job_of_a_killed_worker_completes_elsewhere_uncharged(
    queue: PostgresQueue, database_dsn: str, tmp_path: Path
) -> None:
    (job_id,) = await enqueue(queue, [new_job("gated", "gate")])
    with running_worker(tmp_path, *APP, dsn=database_dsn) as killed:
        await eventually(lambda: records(tmp_path, "started")[job_id] == 1, what="the job under way")
        with running_worker(tmp_path, *APP, dsn=database_dsn) as other:
            await eventually(lambda: other.get("/readyz")[0] == 200, what="the other worker ready")
            killed.kill()
            (tmp_path / "gate").touch()
            await eventually(lambda: other.metric("completed_total") == 1, what="the job completed by the other")
            assert other.metric("rescued_total") == 1
    assert attempts(tmp_path, job_id) == {"1"}, "a lost worker charges nothing"
    assert records(tmp_path, "done") == {job_id: 1}
    assert await standing(queue) == Depth()


async def test_a_drain_finishes_what_runs_and_takes_nothing_new(
    queue: PostgresQueue, database_dsn: str, tmp_path: Path
) -> None:
    running = await enqueue(queue, [new_job("gated", "gate")] * 2)
    with running_worker(tmp_path, *APP, "--concurrency", "2", dsn=database_dsn) as worker:
        await eventually(lambda: len(records(tmp_path, "started")) == 2, what="both slots taken")
        worker.terminate()
        await eventually(lambda: "draining" in worker.log, what="draining")
        (left,) = await enqueue(queue, [new_job("quick")])
        (tmp_path / "gate").touch()
        assert await worker.exit_status() == 0
    assert records(tmp_path, "done") == dict.fromkeys(running, 1)
    (delivery,) = await queue.receive(10)
    assert (delivery.job.id, delivery.job.attempt) == (left, 1)


async def test_a_worker_told_beforehand_takes_nothing_more_finishes_what_runs_and_then_ends_at_once(
    queue: PostgresQueue, database_dsn: str, tmp_path: Path
) -> None:
    running = await enqueue(queue, [new_job("gated", "gate")] * 2)
    with running_worker(tmp_path, *APP, "--concurrency", "2", dsn=database_dsn) as worker:
        await eventually(lambda: len(records(tmp_path, "started")) == 2, what="both slots taken")
        worker.process.send_signal(signal.SIGUSR1)
        await eventually(lambda: worker.get("/readyz") == (503, "takes no jobs\n"), what="no longer ready")
        (left,) = await enqueue(queue, [new_job("quick")])
        (tmp_path / "gate").touch()
        await eventually(lambda: worker.metric("completed_total") == 2, what="what ran has been finished and reported")
        await eventually(lambda: "nothing runs any more" in worker.log, what="it says that it can go")
        assert worker.get("/healthz") == (200, "ok\n"), "it waits to be stopped"
        assert worker.metric("draining") == 0
        worker.terminate()
        assert await worker.exit_status() == 0
    assert records(tmp_path, "done") == dict.fromkeys(running, 1)
    (delivery,) = await queue.receive(10)
    assert (delivery.job.id, delivery.job.attempt) == (left, 1)


async def test_a_worker_told_before_its_backend_is_there_never_takes_anything(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    await (await provision(own_postgres.dsn)).__aexit__(None, None, None)
    own_postgres.stop()
    with running_worker(tmp_path, *APP, dsn=own_postgres.dsn) as worker:
        await eventually(lambda: "waiting for the backend" in worker.log, what="it says that it waits")
        worker.process.send_signal(signal.SIGUSR1)
        await eventually(lambda: "taking nothing more" in worker.log, what="told")
        own_postgres.start()
        async with PostgresQueue(Place(dsn=own_postgres.dsn), "orders") as queue:
            await queue.enqueue([new_job("quick")])
            await eventually(lambda: "nothing runs any more" in worker.log, what="it has found its backend")
            assert (await queue.depth()).ready == 1
        worker.terminate()
        assert await worker.exit_status() == 0


@pytest.mark.parametrize("hasten", ["timeout", "second-signal"])
async def test_what_outlasts_the_drain_goes_back_uncharged_at_once(
    queue: PostgresQueue, database_dsn: str, tmp_path: Path, hasten: str
) -> None:
    (job_id,) = await enqueue(queue, [new_job("gated", "never")])
    timeout = "0.1" if hasten == "timeout" else "3600"
    with running_worker(tmp_path, *APP, "--drain-timeout", timeout, dsn=database_dsn) as worker:
        await eventually(lambda: records(tmp_path, "started")[job_id] == 1, what="the job under way")
        worker.terminate()
        if hasten == "second-signal":
            await eventually(lambda: "draining" in worker.log, what="draining")
            worker.terminate()
        assert await worker.exit_status() == 0
    (delivery,) = await queue.receive(1)
    assert (delivery.job.id, delivery.job.attempt) == (job_id, 1)


@pytest.mark.parametrize("name", ["stuck-thread", "deaf"])
async def test_a_function_that_nobody_can_stop_does_not_hold_the_process(
    queue: PostgresQueue, database_dsn: str, tmp_path: Path, name: str
) -> None:
    (job_id,) = await enqueue(queue, [new_job(name, "never")])
    with running_worker(tmp_path, *APP, "--drain-timeout", "0", dsn=database_dsn) as worker:
        await eventually(lambda: records(tmp_path, "started")[job_id] == 1, what="the job under way")
        worker.terminate()
        assert await worker.exit_status() == 0
    (delivery,) = await queue.receive(1)
    assert (delivery.job.id, delivery.job.attempt) == (job_id, 1)


async def test_a_timed_out_job_is_a_failed_attempt(database_dsn: str, tmp_path: Path) -> None:
    async with await provision(database_dsn, max_retries=0) as queue:
        await queue.enqueue([new_job("gated", "never"), new_job("stuck-thread", "gate")])
        with running_worker(
            tmp_path, *APP, "--concurrency", "2", dsn=database_dsn, BACKGROUND_JOBS__JOBTIMEOUTSECONDS="0.2"
        ) as worker:
            await eventually(lambda: worker.metric("failed_total") == 1, what="the coroutine's is dead-lettered")
            await queue.enqueue([new_job("quick")])
            await eventually(lambda: worker.metric("completed_total") == 1, what="the other slot still works")
            assert "timed out after 0.2 s" in worker.log
            assert (await standing(queue)).in_flight == 1, "a function in a thread is held until it has returned"
            (tmp_path / "gate").touch()
            await eventually(lambda: worker.metric("failed_total") == 2, what="the thread's is dead-lettered, too")


SCRIPT = """#!/bin/sh
payload=$(cat)
job="$HEADRACE_JOB_ATTEMPT $HEADRACE_JOB_QUEUE $HEADRACE_JOB_HEADERS"
case "$HEADRACE_JOB_NAME" in
  good) echo "$payload $job" >"$RECORDS/out-$HEADRACE_JOB_ID" ;;
  secret) env >"$RECORDS/env-$HEADRACE_JOB_ID" ;;
  bad) echo "disk on fire" >&2; exit 1 ;;
  hopeless) echo "no such picture" >&2; exit 100 ;;
  hanging) echo $$ >"$RECORDS/pid"; sleep 3600 & wait ;;
esac
"""


async def test_a_program_gets_its_job_and_its_exit_status_decides(database_dsn: str, tmp_path: Path) -> None:
    script = tmp_path / "render"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    async with await provision(database_dsn, max_retries=1) as queue:
        (good,) = await enqueue(queue, [new_job("good", {"picture": 17}, headers={"traceparent": "00"})])
        (secret,) = await enqueue(queue, [new_job("secret", "x" * 200_000)])
        await queue.enqueue([new_job("bad"), new_job("hopeless")])
        with running_worker(tmp_path, "--exec", str(script), dsn=database_dsn, **SOON_AGAIN) as worker:
            await eventually(lambda: worker.metric("failed_total") == 2, what="the bad ones dead-lettered")
            await eventually(lambda: worker.metric("completed_total") == 2, what="the good ones completed")
            assert worker.metric("retried_total") == 1
            assert "exit status 1: disk on fire" in worker.log
            assert "exit status 100: no such picture" in worker.log
    assert (tmp_path / f"out-{good}").read_text() == '{"picture":17} 1 orders {"traceparent": "00"}\n'
    assert "HEADRACE_DSN" not in (tmp_path / f"env-{secret}").read_text()


async def test_a_program_need_not_read_its_payload(queue: PostgresQueue, database_dsn: str, tmp_path: Path) -> None:
    await queue.enqueue([new_job("any", "x" * 200_000)] * 100)
    with running_worker(tmp_path, "--exec", "true", dsn=database_dsn) as worker:
        await eventually(lambda: worker.metric("completed_total") == 100, what="all completed")
        assert worker.metric("retried_total") == 0


async def test_a_program_that_times_out_ends_with_all_its_children(database_dsn: str, tmp_path: Path) -> None:
    script = tmp_path / "render"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    # However long a program takes to start on a busy machine: it is tried until one has.
    async with await provision(database_dsn, max_retries=1000) as queue:
        await queue.enqueue([new_job("hanging")])
        with running_worker(
            tmp_path,
            *("--exec", str(script), "--drain-timeout", "0"),
            dsn=database_dsn,
            BACKGROUND_JOBS__JOBTIMEOUTSECONDS="1",
            **SOON_AGAIN,
        ) as worker:
            noted = tmp_path / "pid"
            await eventually(lambda: noted.exists() and noted.read_text().endswith("\n"), what="started")
            group = noted.read_text().strip()
            await eventually(lambda: not group_members(group), what="nobody left of the group")
            await eventually(lambda: (worker.metric("retried_total") or 0) >= 1, what="timed out")
            worker.terminate()  # It ends what it has started since.
            assert await worker.exit_status() == 0


def group_members(group: str) -> list[str]:
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rpartition(") ")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if process_group == group and state != "Z":
            members.append(stat.parent.name)
    return members


async def test_a_worker_waits_for_its_database_and_works_when_it_comes(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    await (await provision(own_postgres.dsn)).__aexit__(None, None, None)
    own_postgres.stop()
    with running_worker(tmp_path, *APP, dsn=own_postgres.dsn) as worker:
        await eventually(lambda: "waiting for the backend" in worker.log, what="it says that it waits")
        assert worker.get("/healthz")[0] == 200
        assert worker.get("/readyz")[0] == 503
        own_postgres.start()
        await eventually(lambda: worker.get("/readyz")[0] == 200, what="ready")
        async with PostgresQueue(Place(dsn=own_postgres.dsn), "orders") as queue:
            await queue.enqueue([new_job("quick")])
        await eventually(lambda: worker.metric("completed_total") == 1, what="the job completed")
        assert "postgres@" not in worker.log, "the DSN stays out of the log"


async def test_a_worker_that_waits_for_its_database_stops_when_told(tmp_path: Path) -> None:
    with running_worker(tmp_path, *APP, dsn="postgresql://nobody:secret@127.0.0.1:1/none") as worker:
        await eventually(lambda: "waiting for the backend" in worker.log, what="it says that it waits")
        worker.terminate()
        assert await worker.exit_status() == 0
        assert "secret" not in worker.log


async def test_jobs_go_on_while_the_database_restarts_and_their_completions_arrive(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    async with await provision(own_postgres.dsn) as queue:
        ids = await enqueue(queue, [new_job("gated", "gate")] * 5)
        with running_worker(tmp_path, *APP, dsn=own_postgres.dsn) as worker:
            await eventually(lambda: len(records(tmp_path, "started")) == 5, what="all under way")
            own_postgres.stop()
            (tmp_path / "gate").touch()
            await eventually(lambda: len(records(tmp_path, "done")) == 5, what="all done without a database")
            await eventually(lambda: "outcomes not reported" in worker.log, what="nobody to report to")
            assert worker.get("/healthz")[0] == 200
            await eventually(lambda: worker.get("/readyz")[0] == 503, what="not ready")
            own_postgres.start()
            await eventually(lambda: worker.metric("completed_total") == 5, what="all reported")
            await queue.enqueue([new_job("quick")])
            await eventually(lambda: worker.metric("completed_total") == 6, what="work goes on")
        assert records(tmp_path, "started") == dict.fromkeys(ids, 1)


async def test_a_worker_cut_off_for_longer_than_its_lease_stops_its_jobs_by_itself(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    async with await provision(own_postgres.dsn) as queue:
        (job_id,) = await enqueue(queue, [new_job("gated", "gate")])
        with running_worker(tmp_path, *APP, dsn=own_postgres.dsn) as worker:
            await eventually(lambda: records(tmp_path, "started")[job_id] == 1, what="under way")
            own_postgres.stop()
            await eventually(lambda: "lease out of reach" in worker.log, what="it gives its jobs up in time")
            await eventually(lambda: worker.metric("busy_slots") == 0, what="nothing runs")
            own_postgres.start()
            await eventually(lambda: records(tmp_path, "started")[job_id] == 2, what="started again")
            (tmp_path / "gate").touch()
            await eventually(lambda: worker.metric("completed_total") == 1, what="completed")
        assert attempts(tmp_path, job_id) == {"1"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--app", "no_such_module:app"), "is it installed, or in the current directory"),
        (("--app", "support.worker_app:nothing"), "nothing"),
        (("--app", "support.worker_app:note"), "must be a headrace.App"),
        (("--exec", "/no/such/program"), "there is no program"),
        (("--app", "a:b", "--exec", "c"), "exactly one"),
        ((*APP, "--concurrency", "none", "--drain-timeout", "-1"), "--drain-timeout=-1: must be a number, at least 0"),
        ((*APP, "--mode", "Sometimes"), "--mode=Sometimes: must be Polling or MessageQueue"),
        ((*APP, "--poll-interval", "0"), "--poll-interval=0: must be a number, above 0"),
    ],
)
async def test_wrong_settings_end_the_worker_with_the_fix(
    tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    with running_worker(tmp_path, *arguments, dsn="postgresql://127.0.0.1:1/x") as worker:
        assert await worker.exit_status() == 2
        assert complaint in worker.log
        assert "Traceback" not in worker.log


async def test_a_check_loads_the_handler_and_ends(tmp_path: Path) -> None:
    with running_worker(tmp_path, *APP, "--check", dsn="postgresql://127.0.0.1:1/x") as worker:
        assert await worker.exit_status() == 0
        assert worker.log == ""
    with running_worker(tmp_path, "--app", "no_such_module:app", "--check", dsn="postgresql://127.0.0.1:1/x") as worker:
        assert await worker.exit_status() == 2
        assert "No module named 'no_such_module'" in worker.log


async def test_a_taken_metrics_address_is_said(own_postgres: PostgresServer, tmp_path: Path) -> None:
    address = f"127.0.0.1:{own_postgres.port}"
    with running_worker(tmp_path, *APP, "--metrics-address", address, dsn=own_postgres.dsn) as worker:
        assert await worker.exit_status() == 2
        assert "HEADRACE_METRICS_ADDRESS" in worker.log
