"""Settings as a worker's process takes them: from a file, for several queues, and shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace import new_job
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from support.shell import headrace
from support.verbs import enqueue
from support.worker_process import eventually, records, running_worker

if TYPE_CHECKING:
    from pathlib import Path


async def provision(dsn: str, *queues: str) -> None:
    for queue in queues:
        owner = Owner(namespace="", name=queue, uid="")
        await PostgresProvisioner(Place(dsn=dsn)).ensure(queue, QueueSettings(), owner)


async def test_one_worker_runs_the_jobs_of_several_queues_each_in_its_own_way(
    database_dsn: str, tmp_path: Path
) -> None:
    await provision(database_dsn, "orders", "mails")
    config = tmp_path / "worker.yaml"
    config.write_text(f"""
BackgroundJobs:
  Handler: {{Python: {{App: "support.worker_app:app"}}}}
  Queues:
    - QueueName: orders
    - QueueName: mails
      Handler: {{Exec: {{Command: [/bin/sh, -c, 'cat > {tmp_path}/mail']}}}}
""")
    with running_worker(tmp_path, "--config", str(config), queue=None, dsn=database_dsn) as worker:
        async with PostgresQueue(Place(dsn=database_dsn), "orders") as orders:
            (job_id,) = await enqueue(orders, [new_job("quick")])
        async with PostgresQueue(Place(dsn=database_dsn), "mails") as mails:
            await mails.enqueue([new_job("welcome", {"user": 3})])
            await eventually(lambda: records(tmp_path, "done")[job_id] == 1, what="the function ran")
            await eventually((tmp_path / "mail").exists, what="the program ran")

            async def is_empty() -> bool:
                depth = await mails.depth()
                return depth.ready + depth.in_flight == 0

            await eventually(is_empty, what="completed")
        assert (tmp_path / "mail").read_text() == '{"user":3}'
        assert worker.get("/readyz")[0] == 200
        worker.terminate()
        assert await worker.exit_status() == 0


async def test_queues_that_share_slots_are_worked_off_in_their_order(database_dsn: str, tmp_path: Path) -> None:
    await provision(database_dsn, "bulk", "urgent")
    for name in ("bulk", "urgent"):
        async with PostgresQueue(Place(dsn=database_dsn), name) as queue:
            await enqueue(queue, [new_job("task", name) for _ in range(5)])
    order, config = tmp_path / "order", tmp_path / "worker.yaml"
    config.write_text(f"""
BackgroundJobs:
  Handler: {{Exec: {{Command: [/bin/sh, -c, 'cat >> {order}; echo >> {order}']}}}}
  SharedSlots: 1
  Queues: [{{QueueName: urgent}}, {{QueueName: bulk}}]
""")
    with running_worker(tmp_path, "--config", str(config), queue=None, dsn=database_dsn) as worker:
        await eventually(lambda: order.exists() and len(order.read_text().split()) == 10, what="all ran")
        assert order.read_text().split() == ['"urgent"'] * 5 + ['"bulk"'] * 5
        worker.terminate()
        assert await worker.exit_status() == 0


async def test_what_a_queue_says_otherwise_is_logged_and_the_worker_works(database_dsn: str, tmp_path: Path) -> None:
    await provision(database_dsn, "orders")
    app = ("--app", "support.worker_app:app")
    with running_worker(tmp_path, *app, dsn=database_dsn, BACKGROUND_JOBS__MAXRETRIES="5") as worker:
        await eventually(lambda: "settings differ queue=orders: MaxRetries is 5" in worker.log, what="said")
        assert worker.get("/readyz")[0] == 200


async def test_what_holds_is_printed_without_its_secrets_and_nothing_runs(tmp_path: Path) -> None:
    config = tmp_path / "worker.yaml"
    config.write_text("BackgroundJobs: {QueueName: orders, Handler: {Python: {App: 'no.such:app'}}}")
    dsn = "postgresql://me:hidden@127.0.0.1:1/x"
    shown = await headrace("worker", "--config", str(config), "--mode", "polling", "--print-config", dsn=dsn)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "  Mode: Polling  # option --mode\n" in shown.stdout
    assert "hidden" not in shown.stdout
    again = tmp_path / "again.yaml"
    again.write_text(shown.stdout.replace("***", "hidden"))
    assert (await headrace("worker", "--config", str(again), "--print-config")).stdout.count(" # again.yaml line ") > 10


async def test_all_that_is_wrong_is_said_at_once_a_line_each(tmp_path: Path) -> None:
    config = tmp_path / "worker.yaml"
    config.write_text("BackgroundJobs:\n  Mod: Polling\n  Handler: {Exec: {Command: /bin/x}}\n")
    done = await headrace(
        *("worker", "--config", str(config), "--concurrency", "0", "--exec", "'unbalanced"),
        dsn="postgresql://me:hidden@127.0.0.1:1/x",
    )
    assert done.returncode == 2
    assert "--exec: No closing quotation; quote it as for a shell" in done.stderr
    done = await headrace("worker", "--config", str(config), "--concurrency", "0", dsn="me:hidden@127.0.0.1:1/x")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "hidden" not in done.stderr
    assert [line.partition(": must")[0] for line in done.stderr.splitlines()] == [
        "headrace: worker.yaml line 2: Mod: there is no such setting; did you mean Mode?",
        "headrace: no queue: give --queue, BACKGROUND_JOBS__QUEUENAME, or Queues in a file",
        "headrace: HEADRACE_DSN",
        "headrace: worker.yaml line 3: Handler.Exec.Command",
        "headrace: --concurrency=0",
    ]
