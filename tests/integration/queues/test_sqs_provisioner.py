"""What provisioning brings about in servers that speak SQS's protocol, what it leaves alone, and what it says.

moto takes a RedriveAllowPolicy and tells it not, ElasticMQ refuses it, and knows no retention, no encryption, no size;
AWS has them all: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from headrace.queues.base import Owner, Provisioned, QueueSettings, Removed
from headrace.queues.errors import PlaceTakenError, QueueNotFoundError
from headrace.queues.sqs.client import open_client
from headrace.queues.sqs.errors import (
    QueueDeletedRecentlyError,
    SqsAccessError,
    SqsError,
    SqsUnavailableError,
    ThrottledError,
)
from headrace.queues.sqs.place import Credentials, Place
from headrace.queues.sqs.provisioner import SqsProvisioner
from headrace.queues.sqs.recent import Recent
from headrace.queues.sqs.spec import SqsQueueSpec, SqsSpecError
from support.aws_proxy import AwsProxy

if TYPE_CHECKING:
    from headrace.queues.sqs.client import SqsClient
    from support.elasticmq import ElasticMq
    from support.moto import Moto

REGION = "eu-central-1"
OWNER = Owner(namespace="shop", name="orders", uid="1", cluster="here")
LATER_SECONDS = 1000.0
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": "*"}
    ],
}


@dataclass
class Bench:
    """A provisioner of one endpoint, a clock that is told, and a queue's name that nobody else has."""

    client: SqsClient
    recent: Recent = field(default_factory=Recent)
    now: float = 0.0
    name: str = field(default_factory=lambda: f"orders-{uuid.uuid4().hex[:8]}")
    settings: QueueSettings = field(default_factory=QueueSettings)

    @property
    def provisioner(self) -> SqsProvisioner:
        return SqsProvisioner(self.client, region=REGION, recent=self.recent, clock=lambda: self.now)

    async def ensure(self, spec: SqsQueueSpec | None = None, *, owner: Owner = OWNER, **settings: Any) -> Provisioned:
        return await self.provisioner.ensure(
            self.name, replace(self.settings, **settings), owner, SqsQueueSpec() if spec is None else spec
        )

    async def restart(self) -> None:
        """What the process knew is forgotten, and all that was set shows."""
        self.recent, self.now = Recent(), self.now + LATER_SECONDS

    async def url(self, suffix: str = "") -> str:
        return str((await self.client.call("GetQueueUrl", {"QueueName": self.name + suffix}))["QueueUrl"])

    async def attributes(self, suffix: str = "") -> dict[str, str]:
        parameters = {"QueueUrl": await self.url(suffix), "AttributeNames": ["All"]}
        return dict((await self.client.call("GetQueueAttributes", parameters))["Attributes"])

    async def tags(self, suffix: str = "") -> dict[str, str]:
        answer = await self.client.call("ListQueueTags", {"QueueUrl": await self.url(suffix)})
        return dict(answer.get("Tags") or {})

    async def set(self, suffix: str = "", **attributes: str) -> None:
        parameters = {"QueueUrl": await self.url(suffix), "Attributes": attributes}
        await self.client.call("SetQueueAttributes", parameters)

    async def create(self, suffix: str = "", *, tags: dict[str, str] | None = None, **attributes: str) -> str:
        parameters = {"QueueName": self.name + suffix, "Attributes": attributes, "tags": tags or {}}
        return str((await self.client.call("CreateQueue", parameters))["QueueUrl"])

    async def send(self, suffix: str, count: int) -> None:
        url = await self.url(suffix)
        for number in range(count):
            await self.client.call("SendMessage", {"QueueUrl": url, "MessageBody": str(number)})


def place(endpoint_url: str) -> Place:
    return Place(
        region=REGION,
        endpoint_url=endpoint_url,
        credentials=Credentials(access_key_id="AKIATEST", secret_access_key="not-a-secret"),
    )


@pytest.fixture(params=["moto", "elasticmq"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """On either server."""
    server = request.getfixturevalue(request.param)
    async with open_client(place(server.endpoint_url)) as client:
        yield Bench(client)


@pytest.fixture
async def on_moto(moto: Moto) -> AsyncIterator[Bench]:
    """On the one that tells all attributes."""
    async with open_client(place(moto.endpoint_url)) as client:
        yield Bench(client)


@pytest.fixture
async def on_elasticmq(elasticmq: ElasticMq) -> AsyncIterator[Bench]:
    """On the one that lacks some."""
    async with open_client(place(elasticmq.endpoint_url)) as client:
        yield Bench(client)


@pytest.fixture
async def proxied(moto: Moto) -> AsyncIterator[tuple[Bench, AwsProxy]]:
    """With somebody between who does what networks and AWS do."""
    async with AwsProxy(moto.endpoint_url).running() as proxy, open_client(place(proxy.endpoint_url)) as client:
        yield Bench(client), proxy


def reasons(done: Provisioned) -> list[str]:
    return [finding.reason for finding in done.facts["findings"]]


async def test_a_queue_and_its_dead_letter_queue_are_made_as_one(bench: Bench) -> None:
    done = await bench.ensure(max_retries=5, visibility_timeout_seconds=90.5)
    assert done.changed
    assert done.details == f"dead-letter queue {bench.name}-dead made, queue {bench.name} made"
    queue, dead = await bench.attributes(), await bench.attributes("-dead")
    assert queue["VisibilityTimeout"] == "91"
    assert queue["ReceiveMessageWaitTimeSeconds"] == "20"
    redrive = json.loads(queue["RedrivePolicy"])
    assert redrive["deadLetterTargetArn"] == dead["QueueArn"] == done.facts["dead_letter_queue_arn"]
    assert int(redrive["maxReceiveCount"]) == 18
    assert done.facts["queue_url"] == await bench.url()
    assert done.facts["dead_letter_queue_url"] == await bench.url("-dead")
    for suffix in ("", "-dead"):
        assert await bench.tags(suffix) == {
            "headrace.dev/cluster": "here",
            "headrace.dev/namespace": "shop",
            "headrace.dev/name": "orders",
            "headrace.dev/uid": "1",
            "headrace.dev/max-retries": "5",
            "headrace.dev/dead-letter-enabled": "true",
        }


async def test_what_is_encrypted_and_kept_is_as_the_service_has_it(on_moto: Bench) -> None:
    await on_moto.ensure()
    for suffix in ("", "-dead"):
        told = await on_moto.attributes(suffix)
        assert told["MessageRetentionPeriod"] == "1209600"
        assert told["SqsManagedSseEnabled"] == "true"
        assert told["MaximumMessageSize"] == "1048576"


async def test_looking_again_changes_nothing_at_once_nor_later_nor_in_another_process(bench: Bench) -> None:
    await bench.ensure()
    assert not (await bench.ensure()).changed
    bench.now += LATER_SECONDS
    assert not (await bench.ensure()).changed
    # A new process sets what the endpoint does not tell once more, and says no more of it than that.
    await bench.restart()
    await bench.ensure()
    bench.now += LATER_SECONDS
    done = await bench.ensure()
    assert not done.changed
    assert done.details == f"queue {bench.name} is as wanted"


async def test_what_the_spec_changes_is_set_and_named(on_moto: Bench) -> None:
    await on_moto.ensure()
    spec = SqsQueueSpec(wait_time_seconds=5, policy=json.dumps(POLICY), tags=(("team", "blue"), ("cost", "7")))
    done = await on_moto.ensure(spec, max_retries=9)
    assert done.changed
    assert f"ReceiveMessageWaitTimeSeconds, RedrivePolicy, Policy of queue {on_moto.name} set" in done.details
    assert "headrace.dev/max-retries" in done.details
    told = await on_moto.attributes()
    assert told["ReceiveMessageWaitTimeSeconds"] == "5"
    assert json.loads(told["Policy"]) == POLICY
    tags = await on_moto.tags()
    assert (tags["team"], tags["cost"], tags["headrace.dev/max-retries"]) == ("blue", "7", "9")

    again = SqsQueueSpec(wait_time_seconds=5, policy=json.dumps(POLICY, indent=2), tags=(("cost", "8"),))
    done = await on_moto.ensure(again, max_retries=9)
    assert "Policy" not in done.details
    tags = await on_moto.tags()
    assert "team" not in tags
    assert tags["cost"] == "8"

    await on_moto.ensure(SqsQueueSpec())
    assert "Policy" not in await on_moto.attributes()


async def test_tags_of_other_tools_are_left_alone(bench: Bench) -> None:
    await bench.ensure(SqsQueueSpec(tags=(("team", "blue"),)))
    await bench.client.call("TagQueue", {"QueueUrl": await bench.url(), "Tags": {"audited": "yes"}})
    await bench.ensure(SqsQueueSpec())
    tags = await bench.tags()
    assert tags["audited"] == "yes"
    assert "team" not in tags


async def test_a_key_of_ones_own_replaces_the_services_and_goes_again(on_moto: Bench) -> None:
    await on_moto.ensure(SqsQueueSpec(kms_key_id="alias/ours"))
    assert (await on_moto.attributes())["KmsMasterKeyId"] == "alias/ours"
    assert (await on_moto.attributes("-dead"))["KmsMasterKeyId"] == "alias/ours"
    on_moto.now += LATER_SECONDS
    assert not (await on_moto.ensure(SqsQueueSpec(kms_key_id="alias/ours"))).changed
    await on_moto.ensure()
    told = await on_moto.attributes()
    assert told.get("KmsMasterKeyId", "") == ""
    assert told["SqsManagedSseEnabled"] == "true"


async def test_drift_is_put_right_and_told(bench: Bench) -> None:
    await bench.ensure()
    bench.now += LATER_SECONDS
    await bench.ensure()
    await bench.set(VisibilityTimeout="30")
    await bench.set("-dead", DelaySeconds="5")
    done = await bench.ensure()
    assert done.changed
    assert done.details == (
        f"VisibilityTimeout of queue {bench.name} put right, which something else had changed, "
        f"DelaySeconds of queue {bench.name}-dead put right, which something else had changed"
    )
    assert (await bench.attributes())["VisibilityTimeout"] == "1800"
    assert (await bench.attributes("-dead"))["DelaySeconds"] == "0"


async def test_a_policy_that_nobody_asked_for_is_taken_away(on_moto: Bench) -> None:
    await on_moto.ensure()
    await on_moto.set(Policy=json.dumps(POLICY))
    on_moto.now += LATER_SECONDS
    assert (await on_moto.ensure()).changed
    assert "Policy" not in await on_moto.attributes()


async def test_what_was_just_set_and_does_not_show_yet_is_no_drift(on_moto: Bench) -> None:
    await on_moto.ensure()
    # As if what was set had not reached the server that is asked.
    await on_moto.set(VisibilityTimeout="30", MessageRetentionPeriod="345600")
    on_moto.now = 59
    assert not (await on_moto.ensure()).changed
    on_moto.now = 61
    assert "VisibilityTimeout" in (await on_moto.ensure()).details
    assert (await on_moto.attributes())["MessageRetentionPeriod"] == "345600"
    on_moto.now = 901
    assert "MessageRetentionPeriod" in (await on_moto.ensure()).details


async def test_what_is_set_by_two_who_disagree_is_told(on_moto: Bench) -> None:
    await on_moto.ensure()
    told = []
    for _ in range(3):
        on_moto.now += LATER_SECONDS
        await on_moto.set(VisibilityTimeout="30")
        done = await on_moto.ensure()
        assert done.changed
        told.append("DoesNotStay" in reasons(done))
    assert told == [False, False, True]
    on_moto.now += LATER_SECONDS
    done = await on_moto.ensure()
    assert "DoesNotStay" not in reasons(done)
    assert not done.changed


async def test_what_an_endpoint_refuses_or_does_not_keep_is_told_and_done_without(on_elasticmq: Bench) -> None:
    done = await on_elasticmq.ensure()
    assert reasons(done) == ["AttributesRefused"]
    assert "RedriveAllowPolicy" in done.facts["findings"][0].message
    on_elasticmq.now += LATER_SECONDS
    done = await on_elasticmq.ensure()
    assert not done.changed
    assert set(done.facts["unsupported"]) == {
        "MaximumMessageSize",
        "MessageRetentionPeriod",
        "RedriveAllowPolicy",
        "SqsManagedSseEnabled",
    }
    assert on_elasticmq.client is not None


async def test_no_queue_is_said_to_be_encrypted_where_the_endpoint_does_not_keep_the_key(on_elasticmq: Bench) -> None:
    # It takes the key where the queue is made, says nothing, and has it not.
    for _ in range(2):
        with pytest.raises(SqsSpecError) as caught:
            await on_elasticmq.ensure(SqsQueueSpec(kms_key_id="alias/ours"))
        assert caught.value.field == "kms_key_id"
    assert (await on_elasticmq.ensure()).facts["queue_url"] == await on_elasticmq.url()


async def test_without_dead_letters_there_is_no_redrive_policy(on_moto: Bench) -> None:
    done = await on_moto.ensure(dead_letter_enabled=False)
    assert "RedrivePolicy" not in await on_moto.attributes()
    assert done.facts["dead_letter_queue_url"] is None
    await on_moto.ensure()
    assert "RedrivePolicy" in await on_moto.attributes()
    # What was dead-lettered before is kept.
    await on_moto.ensure(dead_letter_enabled=False)
    assert "RedrivePolicy" not in await on_moto.attributes()
    await on_moto.url("-dead")


async def test_dead_letters_are_deleted_earlier_only_where_that_is_confirmed(on_moto: Bench) -> None:
    done = await on_moto.ensure(dead_letter_retention_days=3)
    assert reasons(done) == ["DeadLetterRetentionUnconfirmed"]
    assert (await on_moto.attributes("-dead"))["MessageRetentionPeriod"] == "1209600"
    done = await on_moto.ensure(SqsQueueSpec(dead_letter_retention_confirmed=True), dead_letter_retention_days=3)
    assert reasons(done) == []
    assert (await on_moto.attributes("-dead"))["MessageRetentionPeriod"] == "259200"
    assert (await on_moto.attributes())["MessageRetentionPeriod"] == "1209600"


async def test_anothers_queue_and_nobodys_are_not_touched(bench: Bench) -> None:
    await bench.create(VisibilityTimeout="30")
    with pytest.raises(PlaceTakenError, match="queueUrl"):
        await bench.ensure()
    with pytest.raises(QueueNotFoundError):
        await bench.url("-dead")
    assert (await bench.attributes())["VisibilityTimeout"] == "30"
    assert await bench.tags() == {}

    bench.name += "-2"
    await bench.ensure()
    with pytest.raises(PlaceTakenError, match="belongs to JobQueue shop/orders"):
        await bench.ensure(owner=replace(OWNER, namespace="other"), visibility_timeout_seconds=5)
    with pytest.raises(PlaceTakenError, match="another cluster"):
        await bench.ensure(owner=replace(OWNER, cluster="there"))
    assert (await bench.attributes())["VisibilityTimeout"] == "1800"


async def test_a_dead_letter_queue_of_somebody_elses_is_not_taken_either(bench: Bench) -> None:
    await bench.create("-dead")
    with pytest.raises(PlaceTakenError, match=f"{bench.name}-dead"):
        await bench.ensure()
    with pytest.raises(QueueNotFoundError):
        await bench.url()


async def test_a_retained_queue_is_taken_back_by_the_same_name(bench: Bench) -> None:
    await bench.ensure()
    await bench.restart()
    done = await bench.ensure(owner=replace(OWNER, uid="2"))
    assert f"queue {bench.name} adopted, queue {bench.name}-dead adopted" in done.details
    for suffix in ("", "-dead"):
        assert (await bench.tags(suffix))["headrace.dev/uid"] == "2"
    assert not (await bench.ensure(owner=replace(OWNER, uid="2"))).changed


async def test_two_operators_at_once_make_one_queue(bench: Bench) -> None:
    other = Bench(bench.client, name=bench.name)
    done = await asyncio.gather(bench.ensure(), other.ensure())
    assert done[0].facts["queue_url"] == done[1].facts["queue_url"]
    assert not (await bench.ensure()).changed


async def test_two_operators_at_once_who_differ_make_one_queue_as_one_of_them_wants_it(bench: Bench) -> None:
    # As while a new release of the operator takes over.
    other = Bench(bench.client, name=bench.name)
    await asyncio.gather(
        bench.ensure(visibility_timeout_seconds=60), other.ensure(visibility_timeout_seconds=90, max_retries=9)
    )
    await bench.restart()
    await bench.ensure(visibility_timeout_seconds=60)
    assert (await bench.attributes())["VisibilityTimeout"] == "60"
    assert (await bench.tags())["headrace.dev/max-retries"] == "3"


async def test_of_two_owners_at_once_one_has_it(bench: Bench) -> None:
    other = Bench(bench.client, name=bench.name)
    outcomes = await asyncio.gather(
        bench.ensure(), other.ensure(owner=replace(OWNER, name="other")), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes].count(PlaceTakenError) >= 1
    owners = {(await bench.tags(suffix))["headrace.dev/name"] for suffix in ("-dead",)}
    assert owners <= {"orders", "other"}


async def test_removing_takes_both_queues_and_counts_their_jobs(bench: Bench) -> None:
    await bench.ensure()
    await bench.send("", 3)
    await bench.send("-dead", 2)
    parameters = {"QueueUrl": await bench.url(), "MaxNumberOfMessages": 1, "WaitTimeSeconds": 1}
    await bench.client.call("ReceiveMessage", parameters)
    assert await bench.provisioner.remove(bench.name, OWNER) == Removed(jobs=5)
    for suffix in ("", "-dead"):
        with pytest.raises(QueueNotFoundError):
            await bench.url(suffix)
    assert await bench.provisioner.remove(bench.name, OWNER) is None
    assert (await bench.ensure()).changed


async def test_an_interrupted_removal_is_finished_by_the_next(bench: Bench) -> None:
    await bench.ensure()
    await bench.send("-dead", 2)
    await bench.client.call("DeleteQueue", {"QueueUrl": await bench.url()})
    assert await bench.provisioner.remove(bench.name, OWNER) == Removed(jobs=2)


@pytest.mark.parametrize("change", [{"uid": "2"}, {"namespace": "other"}, {"name": "other"}, {"cluster": "there"}])
async def test_only_what_bears_this_very_owners_tags_is_removed(on_moto: Bench, change: dict[str, str]) -> None:
    await on_moto.ensure()
    assert await on_moto.provisioner.remove(on_moto.name, replace(OWNER, **change)) is None
    await on_moto.url()
    await on_moto.url("-dead")


async def test_a_queue_that_was_there_is_used_and_never_changed_nor_removed(bench: Bench) -> None:
    dead_url = await bench.create("-lost")
    arn = (await bench.attributes("-lost"))["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 3})
    url = await bench.create(VisibilityTimeout="30", RedrivePolicy=redrive)
    before = [await bench.attributes(suffix) for suffix in ("", "-lost")]
    spec = SqsQueueSpec(queue_url=url)
    done = await bench.ensure(spec)
    assert not done.changed
    assert done.facts["is_adopted"]
    assert (done.facts["queue_url"], done.facts["dead_letter_queue_url"]) == (url, dead_url)
    assert "MaxReceiveCountTooLow" in reasons(done)
    assert [await bench.attributes(suffix) for suffix in ("", "-lost")] == before
    assert [await bench.tags(suffix) for suffix in ("", "-lost")] == [{}, {}]
    assert await bench.provisioner.remove(bench.name, OWNER, spec) is None
    await bench.url()


async def test_what_a_queue_that_was_there_lacks_is_told(on_moto: Bench) -> None:
    done = await on_moto.ensure(SqsQueueSpec(queue_url=await on_moto.create()))
    assert reasons(done) == ["RetentionTooShort", "NoDeadLetterQueue"]
    assert done.facts["message_retention_seconds"] == 345_600


async def test_a_dead_letter_queue_that_was_there_is_used_beside_a_queue_of_ours(bench: Bench) -> None:
    url = await bench.create("-lost", VisibilityTimeout="30")
    spec = SqsQueueSpec(dead_letter_queue_url=url)
    done = await bench.ensure(spec)
    assert done.facts["dead_letter_queue_url"] == url
    arn = json.loads((await bench.attributes())["RedrivePolicy"])["deadLetterTargetArn"]
    assert arn == (await bench.attributes("-lost"))["QueueArn"]
    assert await bench.tags("-lost") == {}
    assert await bench.provisioner.remove(bench.name, OWNER, spec) == Removed(jobs=0)
    await bench.url("-lost")


async def test_a_dead_letter_queue_of_ours_goes_with_the_queue_when_another_has_taken_its_place(bench: Bench) -> None:
    await bench.ensure()
    await bench.send("-dead", 1)
    spec = SqsQueueSpec(dead_letter_queue_url=await bench.create("-lost"))
    await bench.ensure(spec)
    assert await bench.provisioner.remove(bench.name, OWNER, spec) == Removed(jobs=1)
    with pytest.raises(QueueNotFoundError):
        await bench.url("-dead")
    await bench.url("-lost")


async def test_with_the_operators_identity_a_queue_is_used_only_where_its_tag_names_the_namespace(bench: Bench) -> None:
    url = await bench.create()
    spec = SqsQueueSpec(queue_url=url, adoption_needs_tag=True)
    with pytest.raises(PlaceTakenError, match="tag-queue"):
        await bench.ensure(spec)
    await bench.client.call("TagQueue", {"QueueUrl": url, "Tags": {"headrace.dev/namespace": "shop"}})
    assert (await bench.ensure(spec)).facts["queue_url"] == url


async def test_a_queue_of_another_jobqueue_is_not_used_beside_it(bench: Bench) -> None:
    await bench.ensure()
    with pytest.raises(PlaceTakenError, match="shop/orders"):
        await bench.ensure(SqsQueueSpec(queue_url=await bench.url()), owner=replace(OWNER, name="other"))


async def test_a_url_that_leads_elsewhere_is_refused_with_what_is_wrong(on_moto: Bench) -> None:
    url = await on_moto.create()
    with pytest.raises(QueueNotFoundError, match="there is no queue"):
        await on_moto.ensure(SqsQueueSpec(queue_url=f"{url}-no"))
    with pytest.raises(SqsSpecError, match="is of account 999999999999"):
        await on_moto.ensure(SqsQueueSpec(queue_url=url.replace("123456789012", "999999999999")))
    elsewhere = f"https://sqs.us-west-2.amazonaws.com/123456789012/{on_moto.name}"
    with pytest.raises(SqsSpecError, match="is in us-west-2, and region says eu-central-1"):
        await on_moto.ensure(SqsQueueSpec(queue_url=elsewhere))
    with pytest.raises(SqsSpecError, match="no queue's URL"):
        await on_moto.ensure(SqsQueueSpec(queue_url="https://example.org"))
    assert url


async def test_a_name_that_is_taken_after_a_deletion_is_told_with_the_time_that_is_left(
    proxied: tuple[Bench, AwsProxy],
) -> None:
    # moto frees a name at once: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
    bench, proxy = proxied
    proxy.answer(
        400, "QueueDeletedRecently", "You must wait 60 seconds after deleting a queue", operation="CreateQueue", times=2
    )
    for now, left in ((0.0, 60.0), (45.0, 15.0)):
        bench.now = now
        with pytest.raises(QueueDeletedRecentlyError, match=f"which is {left:.0f} s more") as caught:
            await bench.ensure()
        assert caught.value.retry_after_seconds == left
    bench.now = 61
    assert (await bench.ensure()).changed


async def test_a_queue_that_was_deleted_and_is_still_told_is_made_anew(proxied: tuple[Bench, AwsProxy]) -> None:
    bench, _ = proxied
    await bench.ensure()
    await bench.provisioner.remove(bench.name, OWNER)
    # AWS may tell a deleted queue for up to 60 s: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteQueue.html
    await bench.create(VisibilityTimeout="1800")
    assert await bench.provisioner.remove(bench.name, OWNER) is None
    with pytest.raises(PlaceTakenError):
        await bench.ensure()


async def test_a_queue_that_does_not_show_at_once_after_it_was_made_is_waited_for(
    proxied: tuple[Bench, AwsProxy],
) -> None:
    bench, proxy = proxied
    told: list[str] = []
    # The first two are the looks before anything is made.
    for operation in ("GetQueueUrl", "GetQueueUrl", "GetQueueUrl"):
        proxy.answer(400, "QueueDoesNotExist", operation=operation)
    provisioner = SqsProvisioner(bench.client, region=REGION, progress=told.append)
    assert (await provisioner.ensure(bench.name, QueueSettings(), OWNER)).changed
    assert told == [f"waiting for queue {bench.name}-dead, which was just made, to be seen"]


@pytest.mark.parametrize(
    ("status", "code", "message", "error", "told"),
    [
        (403, "AccessDenied", "", SqsAccessError, "sqs:CreateQueue"),
        (403, "ExpiredToken", "The token has expired", SqsAccessError, "renew"),
        (403, "InvalidClientTokenId", "", SqsAccessError, "access key"),
        (400, "RequestThrottled", "Rate exceeded", ThrottledError, "throttled"),
        (503, "ServiceUnavailable", "", SqsUnavailableError, "can't serve"),
        (
            400,
            "KmsAccessDenied",
            "User is not authorized to perform: kms:GenerateDataKey",
            SqsAccessError,
            "kms:GenerateDataKey",
        ),
    ],
)
async def test_what_the_service_refuses_is_told_with_the_way_out(
    proxied: tuple[Bench, AwsProxy], status: int, code: str, message: str, error: type[Exception], told: str
) -> None:
    bench, proxy = proxied
    proxy.answer(status, code, message, operation="CreateQueue", times=100)
    with pytest.raises(error, match=told):
        await bench.ensure()
    proxy.heal()
    assert (await bench.ensure()).changed


@pytest.mark.parametrize("operation", ["CreateQueue", "SetQueueAttributes", "TagQueue", "GetQueueAttributes"])
async def test_a_connection_that_breaks_leaves_nothing_that_the_next_look_would_not_put_right(
    proxied: tuple[Bench, AwsProxy], operation: str
) -> None:
    bench, proxy = proxied
    proxy.answer(500, "InternalError", operation=operation, times=100)
    outcomes = [
        await asyncio.gather(bench.ensure(spec, visibility_timeout_seconds=60), return_exceptions=True)
        for spec in (SqsQueueSpec(), SqsQueueSpec(tags=(("team", "blue"),)))
    ]
    assert any(isinstance(outcome, SqsUnavailableError) for (outcome,) in outcomes)
    proxy.heal()
    await bench.restart()
    await bench.ensure(visibility_timeout_seconds=60)
    assert (await bench.attributes())["VisibilityTimeout"] == "60"
    assert "RedrivePolicy" in await bench.attributes()
    assert await bench.provisioner.remove(bench.name, OWNER) == Removed(jobs=0)


async def test_an_endpoint_without_tags_is_told_and_its_queues_are_never_removed(
    proxied: tuple[Bench, AwsProxy],
) -> None:
    bench, proxy = proxied
    for operation in ("ListQueueTags", "TagQueue", "UntagQueue"):
        proxy.answer(400, "InvalidAction", "no such operation", operation=operation, times=100)
    assert set(reasons(await bench.ensure())) >= {"TagsRefused"}
    assert not (await bench.ensure()).changed
    assert await bench.provisioner.remove(bench.name, OWNER) is None
    await bench.url()


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "UnsupportedOperation")])
async def test_an_endpoint_that_has_told_tags_is_not_believed_to_have_none(
    proxied: tuple[Bench, AwsProxy], status: int, code: str
) -> None:
    bench, proxy = proxied
    await bench.ensure()
    # A gateway on the way, say; without tags nobody's queue would be anybody else's.
    proxy.answer(status, code, operation="ListQueueTags", times=100)
    bench.now = LATER_SECONDS
    with pytest.raises(SqsError):
        await bench.ensure()
    proxy.heal()
    with pytest.raises(PlaceTakenError):
        await bench.ensure(owner=replace(OWNER, name="invoices"))
    assert "TagsRefused" not in reasons(await bench.ensure())


async def test_looking_at_a_queue_that_is_as_wanted_takes_four_calls_and_now_and_then_its_tags(
    proxied: tuple[Bench, AwsProxy],
) -> None:
    bench, proxy = proxied
    await bench.ensure()
    bench.now = LATER_SECONDS
    await bench.ensure()
    proxy.calls.clear()
    # An account may call SQS about tags only some times a second, and the operator looks every 150 s.
    for _ in range(20):
        bench.now += 150
        assert not (await bench.ensure()).changed
    assert proxy.calls == {"GetQueueUrl": 40, "GetQueueAttributes": 40, "ListQueueTags": 12}


async def test_a_queue_that_is_as_wanted_stays_so_while_the_service_tells_no_tags(
    proxied: tuple[Bench, AwsProxy],
) -> None:
    bench, proxy = proxied
    await bench.ensure()
    bench.now = LATER_SECONDS
    await bench.ensure()
    # Of tags an account may ask only some times a second: who asks for those of a thousand queues is throttled.
    proxy.answer(400, "RequestThrottled", "Rate exceeded", operation="ListQueueTags", times=1000)
    for _ in range(2):
        bench.now += LATER_SECONDS
        assert not (await bench.ensure()).changed
    # What may be somebody else's by now is still not changed.
    with pytest.raises(ThrottledError):
        await bench.ensure(visibility_timeout_seconds=5)
    assert (await bench.attributes())["VisibilityTimeout"] == "1800"


async def test_tags_that_others_changed_are_put_right_within_five_minutes(bench: Bench) -> None:
    await bench.ensure()
    bench.now = LATER_SECONDS
    await bench.ensure()
    parameters = {"QueueUrl": await bench.url(), "Tags": {"headrace.dev/max-retries": "99"}}
    await bench.client.call("TagQueue", parameters)
    told = []
    for _ in range(2):
        bench.now += 150
        told.append((await bench.ensure()).changed)
    assert any(told)
    assert (await bench.tags())["headrace.dev/max-retries"] == "3"


async def test_a_queue_that_was_given_away_is_not_changed_by_who_remembers_it_as_its_own(bench: Bench) -> None:
    await bench.ensure()
    bench.now = LATER_SECONDS
    await bench.ensure()
    parameters = {"QueueUrl": await bench.url(), "Tags": {"headrace.dev/namespace": "other"}}
    await bench.client.call("TagQueue", parameters)
    bench.now += 1
    with pytest.raises(PlaceTakenError, match="other/orders"):
        await bench.ensure(visibility_timeout_seconds=5)
    assert (await bench.attributes())["VisibilityTimeout"] == "1800"
