"""``headrace`` on a queue in SQS: what goes, what is refused with its reason, and a worker from its environment alone.

Servers stand in for AWS and need no credentials of it; what they count is exact, which AWS's counts are not:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from headrace.job import NewJob
from support.shell import headrace
from support.sqs import QUEUE, Sqs, queues_on
from support.verbs import dead_letter, enqueue
from support.worker_process import eventually, records, running_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.queues.base import Delivery
    from support.elasticmq import ElasticMq

PAGE = Path(__file__).parents[3] / "docs" / "sqs.md"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}


@pytest.fixture
async def sqs(elasticmq: ElasticMq) -> AsyncIterator[Sqs]:
    async with queues_on(elasticmq) as sqs:
        await sqs.made()
        yield sqs


@pytest.fixture
def binding(sqs: Sqs, tmp_path: Path) -> Path:
    """What the operator would have written."""
    place = tmp_path / "bindings" / "orders"
    place.mkdir(parents=True)
    entries = {
        "type": "sqs",
        "queue": QUEUE,
        "uri": sqs.server.url(sqs.prefix + QUEUE).partition("?")[0],
        "queue-url": sqs.server.queue_url(sqs.prefix + QUEUE),
        "region": "eu-central-1",
        "access-key-id": KEYS["AWS_ACCESS_KEY_ID"],
        "secret-access-key": KEYS["AWS_SECRET_ACCESS_KEY"],
    }
    for name, value in entries.items():
        (place / name).write_text(value)
    return place.parent


async def headrace_json(*arguments: str, binding: Path) -> Any:
    done = await headrace(*arguments, "--output", "json", SERVICE_BINDING_ROOT=str(binding))
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


async def received(sqs: Sqs, number: int) -> list[Delivery]:
    async with sqs.queue() as queue:
        deliveries: list[Delivery] = []
        while len(deliveries) < number:
            deliveries += await queue.receive(number - len(deliveries), wait_seconds=5)
        return deliveries


async def died(sqs: Sqs, *names: str) -> list[str]:
    async with sqs.queue() as queue:
        ids = await enqueue(queue, [NewJob(name=name) for name in names])
        left = len(names)
        while left:
            for delivery in await queue.receive(left, wait_seconds=5):
                await dead_letter(queue, delivery, reason="Broken", error="disk on fire")
                left -= 1
    return ids


async def test_jobs_are_enqueued_by_a_url_alone(sqs: Sqs) -> None:
    name = sqs.prefix + QUEUE
    dsn = sqs.server.url(name)
    done = await headrace("enqueue", name, "resize", "--payload", '{"a": 1}', "--fairness-key", "t1", dsn=dsn, **KEYS)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"job [0-9a-f-]{{36}} enqueued into {name}\n", done.stdout)
    (delivery,) = await received(sqs, 1)
    job = delivery.job
    assert (job.name, job.payload, job.fairness_key) == ("resize", b'{"a":1}', "t1")


async def test_many_jobs_come_from_a_file_by_tens(sqs: Sqs, binding: Path) -> None:
    lines = "".join(f"{number}\n" for number in range(95))
    done = await headrace(
        *("enqueue", QUEUE, "resize", "--from-file", "-", "--output", "json"),
        stdin=lines,
        SERVICE_BINDING_ROOT=str(binding),
    )
    told = json.loads(done.stdout)
    assert (told["enqueued"], len(set(told["ids"])), told["duplicates"], told["unknown"]) == (95, 95, [], [])
    assert await sqs.counts() == (95, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--priority", "5"), "priority: this queue's backend has none; leave it out"),
        (("--group", "g"), "no groups; leave it out; for tenants in turn, give fairness_key"),
        (("--deduplication-key", "k"), "deduplication_key: this queue's backend has no deduplication; leave it out"),
        (("--delay", "901"), "a delay of 901 s: this queue's backend delays a new job by 900 s at most"),
        (("--fairness-key", "tenant 1"), "fairness_key 'tenant 1': 1 to 128 letters"),
    ],
)
async def test_what_a_standard_queue_can_not_do_is_refused_with_the_field(
    sqs: Sqs, binding: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    done = await headrace("enqueue", QUEUE, "resize", *arguments, SERVICE_BINDING_ROOT=str(binding))
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr
    assert await sqs.counts() == (0, 0, 0)


async def test_the_queue_is_listed_with_what_aws_tells_and_what_it_can_not_tell_is_said(
    sqs: Sqs, binding: Path
) -> None:
    await died(sqs, "a", "b")
    async with sqs.queue() as queue:
        await queue.enqueue([NewJob(), NewJob(delay_seconds=600)])
    (told,) = await headrace_json("queues", "list", binding=binding)
    assert (told["name"], told["ready"], told["delayed"], told["in_flight"], told["dead_lettered"]) == (
        QUEUE,
        1,
        1,
        0,
        2,
    )
    assert (told["is_approximate"], told["oldest_ready_age_seconds"], told["totals"]) == (True, None, None)
    assert (told["owner"], told["max_retries"]) == ({"namespace": "shop", "name": QUEUE}, 3)
    done = await headrace("queues", "list", SERVICE_BINDING_ROOT=str(binding))
    _, row = done.stdout.splitlines()
    assert row.split() == [QUEUE, "~1", "~0", "~1", "~0", "~2", "?", f"shop/{QUEUE}"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("queues", "pause", QUEUE), "no way to pause a queue; scale its workers to zero instead"),
        (
            ("jobs", "list", QUEUE),
            "no way to look at single jobs or to change them, but for dead ones (`headrace dlq`)",
        ),
        (("jobs", "cancel", QUEUE, "1"), "no way to look at single jobs"),
        (("recover-stuck", "--minutes", "1"), "it takes them back by itself"),
        (("migrate",), "nothing to migrate"),
    ],
)
async def test_what_sqs_has_not_is_said(binding: Path, arguments: tuple[str, ...], complaint: str) -> None:
    done = await headrace(*arguments, SERVICE_BINDING_ROOT=str(binding))
    assert (done.returncode, done.stdout) == (1, "")
    assert complaint in done.stderr


async def test_another_queue_than_the_urls_is_refused_before_anything_is_sent(sqs: Sqs, binding: Path) -> None:
    for arguments in (("enqueue", "mails", "x"), ("dlq", "purge", "mails", "--all"), ("dlq", "list", "mails")):
        done = await headrace(*arguments, SERVICE_BINDING_ROOT=str(binding))
        assert (done.returncode, done.stdout) == (2, "")
        assert "leads to queue orders, not to mails" in done.stderr
    assert await sqs.counts() == (0, 0, 0)


async def test_dead_letters_are_listed_shown_put_back_and_removed(sqs: Sqs, binding: Path) -> None:
    ids = await died(sqs, *["resize"] * 12, *["mail"] * 3)
    listed = await headrace_json("dlq", "list", QUEUE, "--name", "mail", binding=binding)
    assert {record["id"] for record in listed} == set(ids[12:])
    assert {(record["reason"], record["failures"][0]["error"]) for record in listed} == {("Broken", "disk on fire")}
    shown = await headrace_json("dlq", "show", QUEUE, ids[0], binding=binding)
    assert (shown["id"], shown["name"], shown["state"]) == (ids[0], "resize", "dead")

    redriven = await headrace_json("dlq", "redrive", QUEUE, "--name", "resize", "--rate", "100", binding=binding)
    assert redriven == {"redriven": 12, "left_out": []}
    assert {delivery.job.id for delivery in await received(sqs, 12)} == set(ids[:12])

    done = await headrace("dlq", "redrive", QUEUE, "--id", ids[12], "--id", "none", SERVICE_BINDING_ROOT=str(binding))
    assert (done.returncode, done.stdout) == (1, "1 job put back into orders\n")
    assert (
        "the dead-letter queue of orders holds no job none: if there was one, it was put back or purged" in done.stderr
    )

    purged = await headrace("dlq", "purge", QUEUE, "--all", SERVICE_BINDING_ROOT=str(binding))
    assert purged.stdout == "2 dead jobs of orders removed\n"
    assert await headrace_json("dlq", "list", QUEUE, binding=binding) == []


async def test_credentials_that_are_missing_are_asked_for_and_a_queue_that_is_not_there_is_named(sqs: Sqs) -> None:
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/none", "AWS_CONFIG_FILE": "/none"}
    done = await headrace("queues", "list", dsn=sqs.server.url(sqs.prefix + QUEUE), **nowhere)
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs credentials: give access_key_id and secret_access_key, or a role to the pod" in done.stderr
    done = await headrace("queues", "list", dsn=sqs.server.url(sqs.prefix + "nowhere"), **KEYS)
    assert done.returncode == 1
    assert "no such queue" in done.stderr


async def test_an_endpoint_that_is_away_is_status_3() -> None:
    dsn = "sqs+http://127.0.0.1:1/123456789012/orders?region=eu-central-1"
    done = await headrace("queues", "list", dsn=dsn, **KEYS, AWS_MAX_ATTEMPTS="1")
    assert (done.returncode, done.stdout) == (3, "")
    assert "SQS can't be reached" in done.stderr


# Workers


async def test_a_worker_runs_from_its_environment_alone(sqs: Sqs, tmp_path: Path) -> None:
    environment = {
        "BACKGROUND_JOBS__PROVIDER": "AwsSqs",
        "BACKGROUND_JOBS__MODE": "MessageQueue",
        "BACKGROUND_JOBS__AWSSQS__QUEUEURL": sqs.server.queue_url(sqs.prefix + QUEUE),
        "BACKGROUND_JOBS__AWSSQS__REGION": "eu-central-1",
        "BACKGROUND_JOBS__AWSSQS__WAITTIMESECONDS": "1",
        "BACKGROUND_JOBS__AWSSQS__MAXNUMBEROFMESSAGES": "5",
        "BACKGROUND_JOBS__MAXRETRIES": "3",
        "BACKGROUND_JOBS__RETRY__INITIALDELAYSECONDS": "0",
    } | KEYS
    with running_worker(tmp_path, "--app", "support.worker_app:app", dsn="", queue=None, **environment) as worker:
        async with sqs.queue() as queue:
            await enqueue(queue, [NewJob(name="quick")] * 20)
            await eventually(lambda: records(tmp_path, "done").total() == 20, what="all jobs done")
        worker.terminate()
        assert await worker.exit_status() == 0
    assert await sqs.counts() == (0, 0, 0)


async def test_a_worker_runs_from_a_binding_alone(sqs: Sqs, binding: Path, tmp_path: Path) -> None:
    environment = {"SERVICE_BINDING_ROOT": str(binding), "BACKGROUND_JOBS__AWSSQS__WAITTIMESECONDS": "1"}
    with running_worker(tmp_path, "--app", "support.worker_app:app", dsn="", queue=None, **environment) as worker:
        async with sqs.queue() as queue:
            await enqueue(queue, [NewJob(name="quick")])
            await eventually(lambda: records(tmp_path, "done").total() == 1, what="the job done")
        assert worker.get("/metrics")[1].count('queue="orders"') > 0
        assert "not-a-secret" not in worker.log


async def test_programs_keep_awss_own_variables_and_get_none_of_ours(sqs: Sqs, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\nenv > "{tmp_path}/environment"\n')
    program.chmod(0o755)
    dsn = sqs.server.url(sqs.prefix + QUEUE)
    environment = {"BACKGROUND_JOBS__AWSSQS__WAITTIMESECONDS": "1"} | KEYS
    with running_worker(tmp_path, "--exec", str(program), dsn=dsn, **environment):
        async with sqs.queue() as queue:
            await queue.enqueue([NewJob(name="any", fairness_key="t1")])
            await eventually((tmp_path / "environment").exists, what="the program run")
            await eventually(lambda: "HEADRACE_JOB_ID" in (tmp_path / "environment").read_text(), what="all of it")
    told = dict(line.partition("=")[::2] for line in (tmp_path / "environment").read_text().splitlines())
    assert told["AWS_ACCESS_KEY_ID"] == KEYS["AWS_ACCESS_KEY_ID"], "by which it reaches a bucket"
    assert told["HEADRACE_JOB_FAIRNESS_KEY"] == "t1"
    assert "HEADRACE_DSN" not in told


# The page's examples


async def test_every_program_of_the_page_enqueues_its_job(sqs: Sqs, tmp_path: Path) -> None:
    programs = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(programs) == 2
    url = sqs.server.url(sqs.prefix + QUEUE)
    for program in programs:
        # The page's queue is called orders; the test's has more before it.
        text = program.replace('enqueue("orders"', f'enqueue("{sqs.prefix}orders"')
        file = tmp_path / "program.py"
        file.write_text(text)
        done = await _run(file, url)
        assert (done.returncode, done.stderr) == (0, "")
    assert [delivery.job.name for delivery in await received(sqs, 2)] == ["send-receipt"] * 2


async def _run(file: Path, url: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", str(file)],
        env={**os.environ, "ORDERS_URL": url, **KEYS},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
