"""A JobQueue in SQS, reconciled against moto: what is put right, when, and what is told. Kubernetes is in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from headrace_operator.core.conditions import find
from headrace_operator.core.model import ObjectKey, OperatorError
from headrace_operator.providers.aws_sqs import AwsSqsProvider
from headrace_operator.reconcile.gate import Gate
from headrace_operator.reconcile.objects import ObjectStore
from headrace_operator.reconcile.queue import QueueReconciler
from headrace_operator.reconcile.secrets import Secrets
from headrace_operator.settings import AwsSettings
from support.aws_proxy import AwsProxy
from support.memory_cluster import Manifest, MemoryBackend, MemoryCluster, SetClock
from support.moto import REGION, Moto, running_moto
from support.sqs_world import administrator

KEY = ObjectKey("shop", "orders")
WITHIN_SECONDS = 300.0
"""Drift is repaired within this."""


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with running_moto() as moto:
        yield moto


@pytest.fixture
async def proxy(moto: Moto) -> AsyncIterator[AwsProxy]:
    moto.reset()
    async with AwsProxy(moto.endpoint_url).running() as proxy:
        yield proxy


class Scene:
    """One queue."""

    def __init__(self, endpoint_url: str, client: Any) -> None:
        self.clock = SetClock()
        self.objects = ObjectStore()
        self.cluster = MemoryCluster(self.objects)
        self.client = client
        self.endpoint_url = endpoint_url
        self.woken = asyncio.Event()
        self.cluster.secrets[ObjectKey("shop", "aws")] = {"access-key-id": b"AKIA", "secret-access-key": b"hunter2"}
        self.put()
        self.start()

    def put(self, metadata: dict[str, Any] | None = None, **spec: Any) -> None:
        stored = self.cluster.find("JobQueue", KEY) or {}
        block = {"region": REGION, "endpointUrl": self.endpoint_url, "credentials": {"secretRef": {"name": "aws"}}}
        self.cluster.put(
            {
                **stored,
                "apiVersion": "headrace.dev/v1alpha1",
                "kind": "JobQueue",
                "metadata": {**stored.get("metadata", {"namespace": "shop", "name": "orders"}), **(metadata or {})},
                "spec": {"provider": "AwsSqs", "awsSqs": block, **spec},
            }
        )

    def start(self) -> None:
        """An operator that knows of nothing yet."""
        self.provider = AwsSqsProvider(AwsSettings())
        self.reconciler = QueueReconciler(
            cluster=self.cluster,
            secrets=Secrets(self.cluster, self.clock),
            providers={"AwsSqs": self.provider},
            sampling=MemoryBackend(self.clock),
            objects=self.objects,
            clock=self.clock,
            gate=Gate(),
            wake=lambda _: self.woken.set(),
            wake_pools=lambda _: None,
            look_within=lambda _, __: None,
        )

    async def look(self) -> float | None:
        """Look, and once more when what it began has ended; returns when to look again."""
        self.woken.clear()
        seconds = await self._look()
        try:
            await asyncio.wait_for(self.woken.wait(), 5)
        except TimeoutError:
            return seconds
        return await self._look()

    async def _look(self) -> float | None:
        try:
            return await self.reconciler.reconcile(KEY)
        except OperatorError:
            return None

    def condition(self, type_: str = "Ready") -> tuple[str, str]:
        """Reason and message."""
        queue = self.cluster.find("JobQueue", KEY)
        assert queue is not None
        condition = find(queue["status"]["conditions"], type_)
        assert condition is not None
        return str(condition["reason"]), str(condition["message"])

    @property
    def status(self) -> Manifest:
        found: Manifest = (self.cluster.find("JobQueue", KEY) or {})["status"]["awsSqs"]
        return found

    def attributes(self) -> dict[str, str]:
        answer = self.client.get_queue_attributes(QueueUrl=self.status["queueUrl"], AttributeNames=["All"])
        found: dict[str, str] = answer["Attributes"]
        return found


@pytest.fixture
async def scene(proxy: AwsProxy, moto: Moto) -> AsyncIterator[Scene]:
    made = Scene(proxy.endpoint_url, administrator(moto.endpoint_url))
    async with made.reconciler.running():
        yield made


async def test_drift_is_looked_for_every_few_minutes_by_itself_and_repaired_and_told(scene: Scene) -> None:
    await scene.look()
    assert scene.condition()[0] == "Ready"
    # What this process has just set may not show yet: another one knows nothing of that.
    scene.start()
    async with scene.reconciler.running():
        seconds = await scene.look()
        scene.client.set_queue_attributes(
            QueueUrl=scene.status["queueUrl"], Attributes={"ReceiveMessageWaitTimeSeconds": "0"}
        )
        passed_seconds = 0.0
        while scene.attributes()["ReceiveMessageWaitTimeSeconds"] == "0":
            assert seconds is not None
            assert passed_seconds + seconds <= WITHIN_SECONDS
            scene.clock.move(seconds)
            passed_seconds += seconds
            seconds = await scene.look()
        assert any("ReceiveMessageWaitTimeSeconds" in message for message in scene.cluster.told)


async def test_a_queue_that_is_as_wanted_costs_three_reads(scene: Scene, proxy: AwsProxy) -> None:
    # moto tells nothing of a RedriveAllowPolicy, which a dead-letter queue has; SQS does:
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html
    scene.put(deadLetter={"enabled": False})
    await scene.look()
    proxy.calls.clear()
    scene.start()
    async with scene.reconciler.running():
        await scene.look()
    assert scene.condition()[0] == "Ready"
    assert proxy.calls == {"GetQueueUrl": 1, "GetQueueAttributes": 1, "ListQueueTags": 1}


@pytest.mark.parametrize(
    ("status", "code", "reason", "retry_seconds"),
    [
        (400, "QueueDeletedRecently", "QueueDeletedRecently", 60.0),
        (400, "RequestThrottled", "Throttled", 20.0),
        (403, "AccessDenied", "AccessDenied", 1.0),
    ],
)
async def test_what_is_refused_is_tried_again_when_that_may_help(
    scene: Scene, proxy: AwsProxy, status: int, code: str, reason: str, retry_seconds: float
) -> None:
    proxy.answer(status, code, "no", operation="CreateQueue", times=10_000)
    await scene.look()
    assert scene.condition()[0] == reason
    proxy.heal()
    scene.clock.move(retry_seconds)
    await scene.look()
    assert scene.condition()[0] == "Ready"


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        ("GetQueueUrl", {"QueueUrl": "ftp://127.0.0.1/1/shop_orders"}),
        ("GetQueueUrl", {"QueueUrl": f"http://127.0.0.1/{'1' * 100_000}/shop_orders"}),
        ("GetQueueUrl", {"QueueUrl": "http://127.0.0.1/1/shop_orders?dead_letter_queue_url=http://elsewhere/1/x"}),
        ("GetQueueUrl", {}),
        ("GetQueueAttributes", {"Attributes": {"QueueArn": "a" * 100_000}}),
        ("GetQueueAttributes", {"Attributes": ["QueueArn"]}),
    ],
)
async def test_an_endpoint_that_tells_nonsense_is_told_as_such(
    scene: Scene, proxy: AwsProxy, operation: str, answer: dict[str, Any]
) -> None:
    await scene.look()
    proxy.answer_page(200, json.dumps(answer), operation=operation, times=1000)
    scene.clock.move(WITHIN_SECONDS)
    await scene.look()
    reason, message = scene.condition()
    assert reason == "ProvisioningFailed"
    assert "is this an endpoint of SQS?" in message
    proxy.heal()
    scene.clock.move(WITHIN_SECONDS)
    await scene.look()
    assert scene.condition()[0] == "Ready"


async def test_no_call_goes_on_when_another_has_failed(scene: Scene, proxy: AwsProxy) -> None:
    proxy.answer(403, "AccessDenied", operation="GetQueueUrl", times=1)
    proxy.slow(0.5, operation="GetQueueUrl", times=1)
    await scene.look()
    assert scene.condition()[0] == "AccessDenied"
    # Its client is closed by now: a call that tries again on it would open a connection that nobody closes.
    assert proxy.under_way.total() == 0


async def test_a_change_of_the_maximum_of_retries_moves_the_redrive_policy(scene: Scene) -> None:
    await scene.look()
    scene.put(maxRetries=9)
    await scene.look()
    assert int(json.loads(scene.attributes()["RedrivePolicy"])["maxReceiveCount"]) == 30
