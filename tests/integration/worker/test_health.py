"""A worker process whose event loop is blocked, or whose database is away: who is to blame, and what heals."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from headrace import new_job
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from support import worker_app
from support.verbs import enqueue
from support.worker_process import eventually, records, running_worker

if TYPE_CHECKING:
    from pathlib import Path

    from support.postgres import PostgresServer

APP = ("--app", "support.worker_app:app")


async def provision(dsn: str) -> PostgresQueue:
    place = Place(dsn=dsn)
    owner = Owner(namespace="shop", name="orders", uid="1")
    await PostgresProvisioner(place).ensure("orders", QueueSettings(), owner)
    return PostgresQueue(place, "orders")


async def test_a_blocked_event_loop_is_noticed_located_and_counted_and_makes_the_worker_unhealthy_while_it_lasts(
    database_dsn: str, tmp_path: Path
) -> None:
    async with await provision(database_dsn) as queue:
        with running_worker(tmp_path, *APP, dsn=database_dsn, BACKGROUND_JOBS__STUCKAFTERSECONDS="4") as worker:
            await eventually(lambda: worker.get("/readyz")[0] == 200, what="ready")
            assert worker.get("/healthz") == (200, "ok\n")
            (job_id,) = await enqueue(queue, [new_job("blocking", "gate")])
            await eventually(lambda: records(tmp_path, "started")[job_id] == 1, what="the job under way")
            await eventually(lambda: "event loop has not turned" in worker.log, what="the complaint")
            assert worker.metric("event_loop_stalls_total") == 1, "the metrics are served all the same"
            await eventually(lambda: worker.get("/healthz") == (503, "stuck\n"), what="unhealthy")
            (tmp_path / "gate").touch()
            await eventually(lambda: worker.get("/healthz") == (200, "ok\n"), what="healthy again")
            await eventually(lambda: "event loop turns again" in worker.log, what="how long it stood")
            await eventually(lambda: worker.metric("completed_total") == 1, what="the job completed")
            assert worker.metric("event_loop_stalls_total") == 1
            (complaint,) = [line for line in worker.log.splitlines() if "event loop has not turned" in line]
            assert re.search(rf"{re.escape(str(worker_app.__file__))}:\d+ in blocking", complaint)
            (stood,) = re.findall(r"it stood for ([\d.]+) s", worker.log)
            assert float(stood) >= 4


async def test_a_database_that_is_away_makes_a_worker_unready_and_never_unhealthy(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    async with await provision(own_postgres.dsn):
        with running_worker(tmp_path, *APP, dsn=own_postgres.dsn) as worker:
            await eventually(lambda: worker.get("/readyz")[0] == 200, what="ready")
            own_postgres.stop()
            await eventually(lambda: worker.get("/readyz") == (503, "takes no jobs\n"), what="not ready")
            assert worker.get("/healthz") == (200, "ok\n")
            own_postgres.start()
            await eventually(lambda: worker.get("/readyz")[0] == 200, what="ready again")
            assert worker.get("/healthz") == (200, "ok\n")
