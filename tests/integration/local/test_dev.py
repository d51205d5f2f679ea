"""`headrace-operator dev` with real workers and its real embedded PostgreSQL."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

from headrace_operator.local.processes import birth
from support.dev_process import COMMAND, DevProcess, eventually, running_dev
from support.in_cluster import job_queue, worker_pool
from support.small_disk import fill, small_disk

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = """
import asyncio, os, pathlib
from headrace import App, Context
app = App()
here = pathlib.Path(os.environ["RECORDS"])
if (here / "broken").exists():
    raise ValueError("broken")

@app.job("note")
async def note(payload, context: Context):
    print(os.environ["GREETING"], payload, flush=True)
    (here / f"done-{context.job.id}").touch()

@app.job("gated")
async def gated(payload, context: Context):
    (here / f"started-{context.job.id}").touch()
    while not (here / (payload or "gate")).exists():
        await asyncio.sleep(0.02)
    print(os.environ["GREETING"], payload, flush=True)
    (here / f"done-{context.job.id}").touch()
"""

QUICK: dict[str, Any] = {
    "mode": "HPA",
    "minReplicas": 0,
    "maxReplicas": 3,
    "target": {"queueDepthPerReplica": 10},
    "sampleIntervalSeconds": 1,
    "scaleToZeroAfterSeconds": 2,
}
ONE: dict[str, Any] = {**QUICK, "minReplicas": 1, "maxReplicas": 1}


def write(directory: Path, *, app: str = "shop:app", autoscaling: dict[str, Any] | None = None, **spec: Any) -> str:
    template = {"spec": {"containers": [{"name": "worker", "env": [{"name": "GREETING", "value": "hello"}]}]}}
    pool = worker_pool(
        "workers",
        "orders",
        handler={"python": {"app": app}},
        pollIntervalSeconds=1,
        autoscaling=autoscaling or QUICK,
        template=template,
        **spec,
    )
    (directory / "shop.py").write_text(APP)
    file = directory / "manifests.yaml"
    file.write_text(yaml.safe_dump_all([job_queue("orders"), pool]))
    return str(file)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, which the server gets through to where it may not be the root that we are."""
    with tempfile.TemporaryDirectory(prefix="headrace-dev-test-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        monkeypatch.setenv("RECORDS", name)
        monkeypatch.setenv("TMPDIR", name)
        # What a shell has from yesterday must not lead workers astray.
        monkeypatch.setenv("HEADRACE_DSN", "postgresql://127.0.0.1:1/nowhere")
        yield directory


def count(directory: Path, kind: str) -> int:
    return len(list(directory.glob(f"{kind}-*")))


def is_running(pid: int) -> bool:
    return birth(pid) is not None


def test_a_pool_goes_from_zero_up_and_back_and_nothing_is_left(at: Path) -> None:
    with running_dev(at, "-f", write(at)) as dev:
        notes = "\n".join(dev.started["notes"])
        assert "mode HPA is decided as mode Direct" in notes
        folder = Path(dev.started["data_dir"])
        # One keeps the workers there until the others are counted.
        dev.enqueue("orders", "gated")
        dev.enqueue("orders", "gated", "--payload", '"you"', "--count", "200")
        assert dev.wait_for_pool(lambda pool: pool["ready"] == 3, what="three workers")["desired"] == 3
        (at / "you").touch()
        dev.wait_for_pool(lambda pool: pool["jobs_per_second"] > 0, what="jobs are counted")
        (at / "gate").touch()
        dev.wait_for_pool(lambda pool: pool["current"] == 0 and pool["desired"] == 0, what="back at zero")
        assert count(at, "done") == 201
        assert len(re.findall(r"^workers-[123] \| hello you$", dev.log, re.MULTILINE)) == 200
        pids = dev.pids()
        assert pids, "the server"
        assert dev.end() == 0
        assert [pid for pid in pids if is_running(pid)] == []
        assert not folder.exists()


def test_ctrl_c_lets_jobs_finish(at: Path) -> None:
    with running_dev(at, "-f", write(at, autoscaling=ONE), "-q") as dev:
        dev.enqueue("orders", "gated")
        eventually(lambda: count(at, "started") == 1, what="under way")
        dev.interrupt()
        eventually(lambda: "1 worker drains" in dev.log, what="it drains")
        assert dev.process.poll() is None
        (at / "gate").touch()
        assert dev.wait() == 0
        assert count(at, "done") == 1
        assert "workers-1 |" not in dev.log, "quiet"


def test_a_second_ctrl_c_kills_and_the_job_is_still_there_in_the_next_run(at: Path) -> None:
    data = str(at / "data")
    with running_dev(at, "-f", write(at, autoscaling=ONE), "--data-dir", data) as dev:
        first_dsn = dev.dsn
        dev.enqueue("orders", "gated")
        eventually(lambda: count(at, "started") == 1, what="under way")
        pids = dev.pids()
        dev.interrupt()
        eventually(lambda: "1 worker drains" in dev.log, what="it drains")
        dev.interrupt()
        assert dev.wait() == 130
        assert [pid for pid in pids if is_running(pid)] == []
        assert count(at, "done") == 0

    assert (at / "data" / "dsn").stat().st_mode & 0o077 == 0
    with running_dev(at, "-f", write(at, autoscaling=ONE), "--data-dir", data) as dev:
        assert dev.dsn == first_dsn
        dev.wait_for_queue(lambda queue: queue["ready"] or queue["in_flight"], what="the job is still there")
        assert dev.end() == 0


def test_a_supervisor_that_is_killed_leaves_nothing_to_the_next(at: Path) -> None:
    with running_dev(at, "-f", write(at, autoscaling=ONE, drainTimeoutSeconds=2)) as dev:
        dev.enqueue("orders", "gated")
        eventually(lambda: count(at, "started") == 1, what="under way")
        pids, folder = dev.pids(), Path(dev.started["data_dir"])
        assert len(pids) == 2
        dev.process.kill()
        dev.wait()
    with running_dev(at, "-f", write(at)) as dev:
        assert dev.started
        assert [pid for pid in pids if is_running(pid)] == []
        assert not folder.exists()
        assert dev.end() == 0


def test_a_worker_that_dies_is_started_again_and_its_job_is_done(at: Path) -> None:
    with running_dev(at, "-f", write(at, autoscaling=ONE)) as dev:
        dev.enqueue("orders", "gated")
        eventually(lambda: count(at, "started") == 1, what="under way")
        (worker,) = set(dev.pids()) - {server_pid(dev)}
        # Until this is mended, the next ones die as well.
        (at / "broken").touch()
        os.kill(worker, signal.SIGKILL)
        dev.wait_for_pool(lambda pool: "CrashLoopBackOff" in (pool["problem"] or ""), what="it is told")
        again = "workers-1 ended with status 2 and is started again"
        eventually(lambda: dev.log.count(again) >= 2, what="the next ones die", log=lambda: dev.log)
        told = dev.wait_for_pool(lambda pool: "status 2" in pool["problem"], what="their words are told")
        assert told["problem"].count("broken") == 1, "those of the last one"
        (at / "broken").unlink()
        (at / "gate").touch()
        eventually(lambda: count(at, "done") == 1, what="done by the next process")
        assert "workers-1 ended with status -9 and is started again" in dev.log
        assert dev.end() == 0


@pytest.mark.parametrize("death", ["worker", "second Ctrl-C", "worker and supervisor"])
def test_what_a_worker_has_started_ends_with_it(at: Path, death: str) -> None:
    file = write(at, autoscaling=ONE)
    queue, pool = yaml.safe_load_all(Path(file).read_text())
    # A session of its own, and its worker's standard output.
    pool["spec"]["handler"] = {"exec": {"command": ["/bin/sh", "-c", 'echo $$ > "$RECORDS/started"; sleep 3600; true']}}
    Path(file).write_text(yaml.safe_dump_all([queue, pool]))
    noted = at / "started"
    with running_dev(at, "-f", file) as dev:
        dev.enqueue("orders", "sleep")
        eventually(lambda: noted.exists() and noted.read_text().endswith("\n"), what="under way")
        program = int(noted.read_text())
        children = [int(pid) for pid in Path(f"/proc/{program}/task/{program}/children").read_text().split()]
        (worker,) = set(dev.pids()) - {server_pid(dev)}
        if death == "worker":
            os.kill(worker, signal.SIGKILL)
            eventually(lambda: "workers-1 ended with status -9 and is started again" in dev.log, what="it is noticed")
        elif death == "second Ctrl-C":
            dev.interrupt()
            eventually(lambda: "1 worker drains" in dev.log, what="it drains")
            dev.interrupt()
            assert dev.wait() == 130
        else:
            dev.process.kill()
            os.kill(worker, signal.SIGKILL)
            dev.wait()
            with running_dev(at, "-f", write(at)) as next_one:
                assert next_one.started
                assert next_one.end() == 0
        eventually(lambda: not any(is_running(pid) for pid in [program, *children]), what="nobody left")
        if death == "worker":
            assert dev.end() == 0


def test_workers_are_restarted_when_the_app_changes(at: Path) -> None:
    with running_dev(at, "-f", write(at, autoscaling=ONE), "--reload") as dev:
        dev.wait_for_pool(lambda pool: pool["ready"] == 1, what="a worker")
        # In one step: half a file would be a change of its own, and a second restart.
        (at / "new").write_text(APP.replace('"note"', '"other"'))
        (at / "new").replace(at / "shop.py")
        eventually(lambda: "shop.py changed: the workers are restarted" in dev.log, what="the change is seen")
        dev.enqueue("orders", "other", "--payload", '"you"')
        eventually(lambda: "workers-2 | hello you" in dev.log, what="the new code runs")
        assert dev.end() == 0


def test_a_database_of_ones_own_is_used_and_none_is_embedded(at: Path, database_dsn: str) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "postgres"},
        "stringData": {"dsn": database_dsn},
    }
    (at / "secret.yaml").write_text(yaml.safe_dump(secret))
    with running_dev(at, "-f", write(at, autoscaling=ONE), "-f", "secret.yaml") as dev:
        assert dev.started["dsn"] is None
        dev.wait_for_pool(lambda pool: pool["ready"] == 1, what="a worker")
        assert len(dev.pids()) == 1
        assert dev.end() == 0


def test_namespaces_have_queues_of_one_name_each_in_a_database_of_its_own(at: Path) -> None:
    manifests = list(yaml.safe_load_all(Path(write(at, autoscaling=ONE)).read_text()))
    # The last is the name of a database that every server has.
    namespaces = ("default", "shop", "postgres")
    for namespace in namespaces:
        for manifest in manifests:
            manifest["metadata"]["namespace"] = namespace
        (at / f"{namespace}.yaml").write_text(yaml.safe_dump_all(manifests))
    with running_dev(at, *(word for namespace in namespaces for word in ("-f", f"{namespace}.yaml"))) as dev:
        dsns = dev.started["dsns"]
        assert [urlsplit(dsn).path for dsn in dsns.values()] == ["/postgres", "/shop", "/postgres_"]
        assert dev.dsn == dsns["default"]
        for namespace, dsn in dsns.items():
            dev.enqueue("orders", "note", "--payload", json.dumps(namespace), "--dsn", dsn)
            eventually(lambda said=f"hello {namespace}\n": dev.log.count(said) == 1, what=f"done in {namespace}")  # type: ignore[misc]
        assert [queue["problem"] for queue in dev.told[-1]["queues"]] == [None] * 3
        assert dev.end() == 0


def test_a_server_that_ends_ends_the_run(at: Path) -> None:
    with running_dev(at, "-f", write(at, autoscaling=ONE)) as dev:
        dev.wait_for_pool(lambda pool: pool["ready"] == 1, what="a worker")
        pids = dev.pids()
        assert len(pids) == 2
        os.kill(server_pid(dev), signal.SIGQUIT)
        assert dev.wait() == 1
        assert "headrace-operator: PostgreSQL has ended" in dev.log
        assert [pid for pid in pids if is_running(pid)] == []


def test_without_a_reader_the_run_ends(at: Path) -> None:
    command = f"set -o pipefail; {shlex.join(COMMAND)} --output json -f {write(at)} | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=at, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith('{"type": "started"')


def test_a_closed_terminal_lets_jobs_finish(at: Path) -> None:
    reading, terminal = pty.openpty()
    os.set_blocking(reading, False)
    data = at / "data"
    command = [*COMMAND, "-f", write(at, autoscaling=ONE), "--data-dir", str(data)]
    process = subprocess.Popen(["setsid", "--ctty", *command], cwd=at, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)

    def shows() -> None:
        with suppress(BlockingIOError):
            while os.read(reading, 65536):
                continue

    def is_enqueued() -> bool:
        shows()
        dsn = (data / "dsn").read_text() if (data / "dsn").exists() else "postgresql://127.0.0.1:1/nowhere"
        enqueue = [sys.executable, "-m", "headrace", "enqueue", "orders", "gated", "--dsn", dsn]
        return subprocess.run(enqueue, capture_output=True, check=False).returncode == 0

    def is_under_way() -> bool:
        shows()
        return count(at, "started") == 1

    try:
        eventually(is_enqueued, what="the queue is there")
        eventually(is_under_way, what="under way")
        os.close(reading)
        (at / "gate").touch()
        assert process.wait(60) == 0
        assert count(at, "done") == 1
    finally:
        process.kill()
        process.wait()


def test_who_is_told_twice_that_the_terminal_was_closed_lets_jobs_finish(at: Path) -> None:
    with running_dev(at, "-f", write(at, autoscaling=ONE)) as dev:
        dev.enqueue("orders", "gated")
        eventually(lambda: count(at, "started") == 1, what="under way")
        dev.process.send_signal(signal.SIGHUP)
        eventually(lambda: "1 worker drains" in dev.log, what="it drains")
        dev.process.send_signal(signal.SIGHUP)
        (at / "gate").touch()
        assert dev.wait() == 0
        assert count(at, "done") == 1


def server_pid(dev: DevProcess) -> int:
    return int((Path(dev.started["data_dir"]) / "postgres" / "postmaster.pid").read_text().split()[0])


def refused(at: Path, *arguments: str) -> tuple[int, list[str]]:
    """The exit status and the sentences of a run that can't be."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=at,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("headrace-operator: ")]


def test_a_missing_app_is_told_in_a_sentence(at: Path) -> None:
    missing = (
        "ModuleNotFoundError: No module named 'nowhere' "
        "(is it installed, or in the current directory, or on PYTHONPATH?)"
    )
    status, sentences = refused(at, "-f", write(at, app="nowhere:app"))
    assert (status, sentences) == (
        2,
        [f"headrace-operator: JobWorkerPool workers: app nowhere:app: {missing}"],
    )


def test_a_bad_manifest_is_told_in_a_sentence(at: Path) -> None:
    status, sentences = refused(at, "-f", write(at, maxConcurrentJobs=0))
    assert status == 2
    assert len(sentences) == 1
    assert sentences[0].endswith(
        "manifests.yaml: JobWorkerPool workers: spec.maxConcurrentJobs: 0 is less than the minimum of 1"
    )


def test_a_taken_port_is_told_in_a_sentence(at: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, sentences = refused(at, "-f", write(at), "--port", str(port))
    assert (status, sentences) == (
        2,
        [f"headrace-operator: port {port} of 127.0.0.1 is taken: give another --port, or none"],
    )


def test_a_host_that_only_the_cluster_knows_is_told_in_a_sentence(at: Path) -> None:
    dsn = "postgresql://u:p@postgres.no-such-namespace.svc:5432/db"
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "postgres"}, "stringData": {"dsn": dsn}}
    (at / "secret.yaml").write_text(yaml.safe_dump(secret))
    status, sentences = refused(at, "-f", write(at), "-f", "secret.yaml")
    assert status == 2
    assert "this machine does not know" in sentences[0]


def test_a_full_disk_is_told_in_a_sentence(at: Path) -> None:
    with small_disk(8) as disk:
        folder = disk / "data"
        status, sentences = refused(at, "-f", write(at), "--data-dir", str(folder))
    way_out = "free some of it, or give another --data-dir"
    assert (status, sentences) == (
        1,
        [f"headrace-operator: PostgreSQL's data can't be made: the disk of {folder} is full: {way_out}"],
    )


def test_a_disk_that_fills_up_keeps_no_worker_from_starting_once_there_is_room_again(at: Path) -> None:
    with (
        small_disk(160) as disk,
        running_dev(at, "-f", write(at, autoscaling=ONE), "--data-dir", f"{disk}/data") as dev,
    ):
        dev.wait_for_pool(lambda pool: pool["ready"] == 1, what="a worker")
        (worker,) = set(dev.pids()) - {server_pid(dev)}
        filler = fill(disk)
        os.kill(worker, signal.SIGKILL)
        told = dev.wait_for_pool(lambda pool: "StartError" in (pool["problem"] or ""), what="it is told")
        assert "No space left on device" in told["problem"]
        filler.unlink()
        dev.wait_for_pool(lambda pool: pool["ready"] == 1, what="the next worker")
        pids = dev.pids()
        assert dev.end() == 0
        assert [pid for pid in pids if is_running(pid)] == []
