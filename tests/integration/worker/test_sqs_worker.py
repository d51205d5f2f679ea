"""A worker's process on a queue in SQS: what its page tells, what it calls while idle, and how it stops."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from headrace import new_job
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.sqs.client import SqsClient, open_client
from headrace.queues.sqs.counting import COUNTS, attributes_of
from headrace.queues.sqs.place import Credentials, Place, parse_url
from headrace.queues.sqs.provisioner import SqsProvisioner
from headrace.queues.sqs.queue import SqsQueue
from headrace_operator.core.model import ObjectKey, QueueDepth
from headrace_operator.sampling.published import parse_witnessed, with_witness
from support.aws_proxy import AwsProxy
from support.moto import ACCESS_KEY_ID, ACCOUNT, REGION, SECRET_ACCESS_KEY, Moto
from support.verbs import enqueue
from support.worker_process import WorkerProcess, eventually, records, running_worker

POLL_SECONDS = 3


class Stage:
    """A queue of a test's own on a server, behind a proxy that counts."""

    def __init__(self, proxy: AwsProxy, client: SqsClient, name: str) -> None:
        self.proxy = proxy
        self.client = client
        self.name = name
        self.url = f"sqs+http://127.0.0.1:{proxy.port}/{ACCOUNT}/{name}?region={REGION}"

    @contextmanager
    def worker(self, directory: Path, *arguments: str, **environment: str) -> Iterator[WorkerProcess]:
        """As the operator starts one."""
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY}
        told = {
            "BACKGROUND_JOBS__AWSSQS__COUNTINTERVALSECONDS": "0",
            "BACKGROUND_JOBS__AWSSQS__WAITTIMESECONDS": str(POLL_SECONDS),
        }
        all_arguments = ("--app", "support.worker_app:app", *arguments)
        with running_worker(directory, *all_arguments, dsn=self.url, **keys, **told, **environment) as worker:
            yield worker

    def queue(self) -> SqsQueue:
        keys = {"access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET_ACCESS_KEY}
        return SqsQueue(parse_url(self.url, **keys), "orders")

    async def attributes(self) -> dict[str, int]:
        found = await attributes_of(self.client, f"{self.proxy.endpoint_url}/{ACCOUNT}/{self.name}", *COUNTS)
        return {name.removeprefix("ApproximateNumberOfMessages"): int(value) for name, value in found.items()}


@pytest.fixture
async def stage(moto: Moto) -> AsyncIterator[Stage]:
    keys = Credentials(access_key_id=ACCESS_KEY_ID, secret_access_key=SECRET_ACCESS_KEY)
    name = f"orders-{uuid4().hex[:8]}"
    async with (
        AwsProxy(moto.endpoint_url).running() as proxy,
        open_client(Place(region=REGION, endpoint_url=moto.endpoint_url, credentials=keys)) as client,
    ):
        await SqsProvisioner(client).ensure(name, QueueSettings(), Owner(namespace="shop", name="orders", uid="1"))
        yield Stage(proxy, client, name)


def line(worker: WorkerProcess) -> dict[str, Any]:
    """What it tells of its queue; nothing before it tells."""
    status, text = worker.get("/depth")
    lines = json.loads(text) if status == 200 else []
    return next((line for line in lines if line["queue"] == "orders"), {})


async def test_a_worker_that_counts_nothing_tells_what_it_holds_and_that_it_polls_in_vain(
    stage: Stage, tmp_path: Path
) -> None:
    with stage.worker(tmp_path) as worker:
        await eventually(lambda: line(worker).get("empty_for_seconds") is not None, what="a poll that came back empty")
        assert line(worker)["held"] == 0
        read = parse_witnessed(worker.get("/depth")[1].encode(), ObjectKey("shop", "orders"))
        assert read is not None, "the operator understands it"
        assert with_witness(QueueDepth(is_approximate=True), [read], ready=1).is_known_empty
        assert "ready" not in line(worker), "it counts nothing"
        assert worker.metric("queue_depth") is None
        async with stage.queue() as queue:
            await enqueue(queue, [new_job("gated", "gate")] * 2)
        await eventually(lambda: line(worker)["held"] == 2, what="both jobs held")
        assert line(worker)["empty_for_seconds"] is None
        assert worker.metric("held") == 2
        (tmp_path / "gate").touch()
        await eventually(lambda: worker.metric("completed_total") == 2, what="both completed")
        await eventually(lambda: line(worker)["held"] == 0, what="nothing held")
        await eventually(lambda: line(worker).get("empty_for_seconds") is not None, what="an empty poll again")


async def test_an_idle_worker_polls_one_poll_after_another_and_counts_nothing(stage: Stage, tmp_path: Path) -> None:
    with stage.worker(tmp_path) as worker:
        await eventually(lambda: worker.get("/readyz")[0] == 200, what="ready")
        await eventually(lambda: stage.proxy.calls["ReceiveMessage"] >= 1, what="the first poll")
        stage.proxy.calls.clear()
        await eventually(lambda: stage.proxy.calls["ReceiveMessage"] >= 3, what="three polls more")
        assert set(stage.proxy.calls) == {"ReceiveMessage"}
        assert stage.proxy.under_way["ReceiveMessage"] <= 1


async def test_an_idle_worker_that_is_told_to_stop_waits_for_its_poll_and_leaves_nothing_invisible(
    stage: Stage, tmp_path: Path
) -> None:
    with stage.worker(tmp_path) as worker:
        await eventually(lambda: stage.proxy.under_way["ReceiveMessage"] == 1, what="a poll under way")
        worker.terminate()
        await eventually(lambda: "draining" in worker.log, what="draining")
        polls = stage.proxy.calls["ReceiveMessage"]
        async with stage.queue() as queue:
            await enqueue(queue, [new_job("quick")])
        assert await worker.exit_status() == 0
        assert stage.proxy.calls["ReceiveMessage"] == polls, "no poll was begun any more"
    assert records(tmp_path, "started") == {}
    assert await stage.attributes() == {"": 1, "Delayed": 0, "NotVisible": 0}


async def test_a_worker_told_beforehand_ends_its_polls_while_jobs_run_on_and_then_goes_at_once(
    stage: Stage, tmp_path: Path
) -> None:
    async with stage.queue() as queue:
        await enqueue(queue, [new_job("gated", "gate")])
        with stage.worker(tmp_path) as worker:
            await eventually(lambda: len(records(tmp_path, "started")) == 1, what="the job under way")
            await eventually(lambda: stage.proxy.under_way["ReceiveMessage"] == 1, what="a poll for more")
            worker.process.send_signal(signal.SIGUSR1)
            await eventually(lambda: worker.get("/readyz")[0] == 503, what="no longer ready")
            await enqueue(queue, [new_job("quick")])
            await eventually(lambda: not stage.proxy.under_way["ReceiveMessage"], what="the poll has ended")
            await eventually(lambda: line(worker)["held"] == 1, what="what it brought went back")
            polls = stage.proxy.calls["ReceiveMessage"]
            (tmp_path / "gate").touch()
            await eventually(lambda: worker.metric("completed_total") == 1, what="what ran has been finished")
            await eventually(lambda: "nothing runs any more" in worker.log, what="it says that it can go")
            worker.terminate()
            assert await worker.exit_status() == 0
            assert stage.proxy.calls["ReceiveMessage"] == polls
    assert len(records(tmp_path, "started")) == 1
    assert await stage.attributes() == {"": 1, "Delayed": 0, "NotVisible": 0}
