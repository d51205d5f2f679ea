"""What a worker process writes to standard error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from headrace import new_job
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from support.verbs import enqueue
from support.worker_process import eventually, running_worker

if TYPE_CHECKING:
    from pathlib import Path

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("name", ["logging", "logging-in-thread", "logging-in-process"])
async def test_in_json_every_line_of_a_job_has_it_in_fields_the_handlers_own_too(
    database_dsn: str, tmp_path: Path, name: str
) -> None:
    place = Place(dsn=database_dsn)
    owner = Owner(namespace="shop", name="orders", uid="1")
    await PostgresProvisioner(place).ensure("orders", QueueSettings(), owner)
    headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    async with PostgresQueue(place, "orders") as queue:
        ids = await enqueue(queue, [new_job(name, "first", headers=headers), new_job(name, "second")])
    with running_worker(
        tmp_path, "--app", "support.worker_app:app", dsn=database_dsn, HEADRACE_LOG_FORMAT="json"
    ) as worker:
        await eventually(lambda: worker.metric("completed_total") == 2, what="both completed")
        lines = [json.loads(line) for line in worker.log.splitlines()]
    own = {line["message"].rpartition(": ")[2]: line for line in lines if "of the handler's own" in line["message"]}
    assert {payload: line["job"] for payload, line in own.items()} == {"first": ids[0], "second": ids[1]}
    assert (
        own["first"].items()
        >= {
            "level": "info",
            "logger": "support.worker_app",
            "queue": "orders",
            "name": name,
            "attempt": 1,
            "trace_id": TRACE,
        }.items()
    )
    assert "trace_id" not in own["second"]
    completed = [line["job"] for line in lines if line["message"].startswith("job completed")]
    assert sorted(completed) == sorted(ids)


async def test_a_wrong_format_is_refused_with_the_fix(tmp_path: Path) -> None:
    with running_worker(
        tmp_path,
        *("--app", "support.worker_app:app"),
        dsn="postgresql://127.0.0.1:1/x",
        HEADRACE_LOG_FORMAT="xml",
    ) as worker:
        assert await worker.exit_status() == 2
        assert "HEADRACE_LOG_FORMAT=xml: must be text or json" in worker.log
