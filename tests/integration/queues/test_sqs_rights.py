"""The policies that ``headrace-operator iam`` prints, tried on a server that checks them, each less one action.

moto checks signatures and policies as AWS does, but for this (`as_moto_asks`):

- A batch needs an action of its own name there, on AWS that of the single call:
  https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-api-permissions-reference.html
- What names no URL (CreateQueue, GetQueueUrl) is about all queues there, on AWS about the one that is named:
  https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsqs.html
- It asks for no sqs:TagQueue where a queue is made with its tags, and AWS does:
  https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from headrace.job import NewJob
from headrace.queues.base import Owner, QueueSettings, Removed
from headrace.queues.errors import QueueError
from headrace.queues.sqs.backlog import BacklogSession, QueueRef
from headrace.queues.sqs.client import open_client
from headrace.queues.sqs.place import Credentials, Place, parse_url
from headrace.queues.sqs.policies import PolicyScope, iam_policy
from headrace.queues.sqs.provisioner import SqsProvisioner
from headrace.queues.sqs.queue import SqsQueue
from headrace.queues.sqs.rights import ROLES, Role, dead_letter_actions, least_actions
from headrace.queues.sqs.spec import DEAD_LETTER_SUFFIX, SqsQueueSpec
from support.moto import ACCOUNT, REGION, running_moto
from support.verbs import complete, dead_letter, release, retry

if TYPE_CHECKING:
    from headrace.queues.base import Delivery
    from support.moto import Moto

OWNER = Owner(namespace="shop", name="orders", uid="1", cluster="here")
SETTINGS = QueueSettings(max_retries=3)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A role without one right, or with all."""

    role: Role
    queue: str
    missing: str | None = None
    is_dead_letters: bool = False
    """Whether the right is missing on the dead-letter queue."""
    is_by_prefix: bool = False
    """Whether the policy names the queue by how it begins."""
    is_reader: bool = False
    """Whether it is an operator that uses a queue as it is."""

    def policy(self) -> dict[str, Any]:
        names: dict[str, Any] = {"prefix": self.queue[:-2]} if self.is_by_prefix else {"queues": (self.queue,)}
        document = iam_policy(self.role, PolicyScope(region=REGION, account=ACCOUNT, **names))
        for statement in document["Statement"]:
            # The operator's only statement is about both.
            if self.is_reader:
                statement["Action"] = ["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ListQueueTags"]
            if (statement["Sid"] == "DeadLetterQueues") is self.is_dead_letters:
                statement["Action"] = [action for action in statement["Action"] if action != self.missing]
        document["Statement"] = [statement for statement in document["Statement"] if statement["Action"]]
        return document


def cases() -> list[Case]:
    found: list[Case] = []

    def add(role: Role, missing: str | None = None, **told: bool) -> None:
        found.append(Case(role=role, queue=f"shop_{role}-{len(found):02}", missing=missing, **told))

    add("operator", is_reader=True)
    for role in ROLES:
        add(role)
        add(role, is_by_prefix=True)
        for action in least_actions(role):
            add(role, action)
    for action in dead_letter_actions("worker"):
        add("worker", action, is_dead_letters=True)
    return found


CASES = cases()


def as_moto_asks(document: dict[str, Any]) -> dict[str, Any]:
    statements = []
    for statement in document["Statement"]:
        actions = statement["Action"]
        batches = [
            f"{action}Batch"
            for action in actions
            if action in {"sqs:SendMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"}
        ]
        unnamed = [action for action in actions if action in {"sqs:CreateQueue", "sqs:GetQueueUrl"}]
        statements.append({**statement, "Action": [*actions, *batches]})
        if unnamed:
            statements.append({"Effect": "Allow", "Action": unnamed, "Resource": "*"})
    return {**document, "Statement": statements}


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """A server that checks rights, and somebody's keys for each case."""

    moto: Moto
    keys: dict[str, Credentials]

    def place(self, case: Case) -> Place:
        return Place(region=REGION, endpoint_url=self.moto.endpoint_url, credentials=self.keys[case.queue])

    def queue(self, case: Case) -> SqsQueue:
        keys = self.keys[case.queue]
        address = parse_url(
            self.moto.url(case.queue),
            access_key_id=keys.access_key_id,
            secret_access_key=keys.secret_access_key,
            wait_time_seconds=1,
        )
        return SqsQueue(address, "orders", lease_seconds=1)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    """Users and queues are made while nothing is checked."""
    with running_moto() as moto:
        given = {"region_name": REGION, "endpoint_url": moto.endpoint_url}
        anybody = {"aws_access_key_id": "AKIATEST", "aws_secret_access_key": "not-a-secret"}
        iam, sqs = (boto3.client(service, **given, **anybody) for service in ("iam", "sqs"))
        keys = {}
        for case in CASES:
            iam.create_user(UserName=case.queue)
            if (document := as_moto_asks(case.policy()))["Statement"]:
                iam.put_user_policy(UserName=case.queue, PolicyName="least", PolicyDocument=json.dumps(document))
            made = iam.create_access_key(UserName=case.queue)["AccessKey"]
            keys[case.queue] = Credentials(access_key_id=made["AccessKeyId"], secret_access_key=made["SecretAccessKey"])
            if case.role == "operator" and not case.is_reader:
                continue
            dead = sqs.create_queue(QueueName=case.queue + DEAD_LETTER_SUFFIX)["QueueUrl"]
            arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 12})
            url = sqs.create_queue(QueueName=case.queue, Attributes={"RedrivePolicy": redrive})["QueueUrl"]
            for body in "abcd":
                sqs.send_message(QueueUrl=url, MessageBody=body)
        for client in (iam, sqs):
            client.close()
        moto.require_rights()
        yield Guarded(moto=moto, keys=keys)


async def operate(guarded: Guarded, case: Case) -> None:
    """All that an operator does to a queue."""
    ref = QueueRef(name=case.queue)
    async with open_client(guarded.place(case)) as client, BacklogSession(guarded.place(case)) as backlog:
        provisioner = SqsProvisioner(client, region=REGION)
        assert (await provisioner.ensure(case.queue, SETTINGS, OWNER)).changed
        tagged = SqsQueueSpec(tags=(("team", "blue"),))
        assert (await provisioner.ensure(case.queue, SETTINGS, OWNER, tagged)).changed
        assert (await provisioner.ensure(case.queue, SETTINGS, OWNER)).changed
        depth = (await backlog.depths([ref]))[ref]
        if isinstance(depth, QueueError):
            raise depth
        assert await provisioner.remove(case.queue, OWNER) == Removed(jobs=0)


async def use(guarded: Guarded, case: Case) -> None:
    """What it does with one that is there already."""
    spec = SqsQueueSpec(queue_url=guarded.moto.queue_url(case.queue))
    async with open_client(guarded.place(case)) as client:
        provisioner = SqsProvisioner(client, region=REGION)
        done = await provisioner.ensure(case.queue, SETTINGS, OWNER, spec)
        assert done.facts["dead_letter_queue_url"] == guarded.moto.queue_url(case.queue + DEAD_LETTER_SUFFIX)
        assert await provisioner.remove(case.queue, OWNER, spec) is None


async def produce(guarded: Guarded, case: Case) -> None:
    """All that a producer does."""
    async with guarded.queue(case) as queue:
        await queue.enqueue([NewJob(name="a"), NewJob(name="b"), NewJob(name="c", delay_seconds=0)])


async def work(guarded: Guarded, case: Case) -> None:
    """All that a worker does: every end that a job can have, and heartbeats in between."""
    async with guarded.queue(case) as queue:
        await queue.keep_alive()
        for end in (released, retried, completed, buried):
            (delivery,) = await queue.receive(1, wait_seconds=5)
            await queue.keep_alive()
            await queue.maintain()
            await end(queue, delivery)
        await queue.depth()


async def released(queue: SqsQueue, delivery: Delivery) -> None:
    assert (await release(queue, [delivery])).accepted == 1


async def retried(queue: SqsQueue, delivery: Delivery) -> None:
    assert (await retry(queue, delivery)).accepted == 1


async def completed(queue: SqsQueue, delivery: Delivery) -> None:
    assert (await complete(queue, [delivery])).accepted == 1


async def buried(queue: SqsQueue, delivery: Delivery) -> None:
    assert (await dead_letter(queue, delivery, reason="no use")).accepted == 1


def named(case: Case) -> str:
    if case.missing is None:
        return f"{case.role}{'-of-a-queue-as-it-is' * case.is_reader}{'-by-prefix' * case.is_by_prefix}"
    return f"{case.role}-without-{case.missing}{'-on-dead-letters' if case.is_dead_letters else ''}"


async def run(guarded: Guarded, case: Case) -> None:
    match case.role:
        case "operator" if case.is_reader:
            await use(guarded, case)
        case "operator":
            await operate(guarded, case)
        case "producer":
            await produce(guarded, case)
        case "worker":
            await work(guarded, case)


@pytest.mark.parametrize("case", [case for case in CASES if case.missing is None], ids=named)
async def test_a_policy_suffices(guarded: Guarded, case: Case, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await run(guarded, case)
    if case.role != "producer":
        assert caplog.messages == []


@pytest.mark.parametrize("case", [case for case in CASES if case.missing is not None], ids=named)
async def test_without_any_one_action_that_action_is_named(
    guarded: Guarded, case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    told = ""
    with caplog.at_level(logging.WARNING):
        try:
            await run(guarded, case)
        except QueueError as error:
            told = str(error)
    assert case.missing is not None
    assert f"allow {case.missing} " in told + caplog.text
