"""JobQueues in SQS, from the Secret with the keys to the queues and the binding, and back; moto is the server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from support.aws_proxy import AwsProxy
from support.in_cluster import restricted_namespace
from support.kubectl import Kubectl, eventually
from support.moto import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, Moto
from support.operator_process import OperatorProcess
from support.operator_world import World
from support.sqs_world import AMBIENT_NAMESPACE, QUEUE_PREFIX, SqsWorld, administrator, proxied


@pytest.fixture
def sqs(world: World, moto: Moto) -> SqsWorld:
    """A namespace, and moto."""
    return SqsWorld(world=world, endpoint_url=moto.endpoint_url, client=administrator(moto.endpoint_url))


@pytest.fixture
def proxy(moto: Moto) -> Iterator[AwsProxy]:
    """What stands before moto, and refuses."""
    with proxied(moto.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def troubled(world: World, moto: Moto, proxy: AwsProxy) -> SqsWorld:
    """A namespace whose queues are behind the proxy."""
    return SqsWorld(world=world, endpoint_url=proxy.endpoint_url, client=administrator(moto.endpoint_url))


@pytest.fixture
def ambient(control_plane: ControlPlane, operator_process: OperatorProcess, moto: Moto) -> Iterator[SqsWorld]:
    """The namespace for which the operator uses its own identity."""
    kubectl = Kubectl(
        binary=control_plane._commands / "kubectl", kubeconfig=control_plane.kubeconfig, namespace=AMBIENT_NAMESPACE
    )
    kubectl.apply(restricted_namespace(AMBIENT_NAMESPACE))
    world = World(kubectl=kubectl, operator=operator_process, dsn="")
    yield SqsWorld(world=world, endpoint_url=moto.endpoint_url, client=administrator(moto.endpoint_url))
    if kubectl.find("jobqueue", "work") is not None:
        kubectl.delete("jobqueue", "work")


def binding(world: World) -> dict[str, str]:
    data = world.kubectl.get("secret", "work-binding")["data"]
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


def told(world: World) -> dict[str, str]:
    return {event["reason"]: event["message"] for event in world.events("work")}


async def test_a_queue_and_its_dead_letter_queue_are_made_and_bound(sqs: SqsWorld) -> None:
    sqs.apply_ready_queue(maxRetries=5, awsSqs={"tags": {"team": "shop"}})
    queue = sqs.world.kubectl.get("jobqueue", "work")
    assert queue["status"]["binding"] == {"name": "work-binding", "revision": "1"}
    status = queue["status"]["awsSqs"]
    assert status["queueUrl"] == sqs.url()
    assert status["deadLetterQueueUrl"] == sqs.url(f"{sqs.name}-dead")
    attributes = sqs.attributes()
    assert status["queueArn"] == attributes["QueueArn"]
    assert attributes["MessageRetentionPeriod"] == "1209600"
    assert attributes["SqsManagedSseEnabled"] == "true"
    assert json.loads(attributes["RedrivePolicy"])["maxReceiveCount"] in (18, "18")
    tags = sqs.tags()
    assert tags["team"] == "shop"
    assert tags["headrace.dev/namespace"] == sqs.world.kubectl.namespace
    assert tags["headrace.dev/uid"] == queue["metadata"]["uid"]
    assert binding(sqs.world) == {
        "type": "sqs",
        "provider": "headrace",
        "queue": "work",
        "uri": f"{sqs.url().replace('http', 'sqs+http')}?region={REGION}",
        "queue-url": sqs.url(),
        "dead-letter-queue-url": sqs.url(f"{sqs.name}-dead"),
        "region": REGION,
        "endpoint-url": sqs.endpoint_url,
        "access-key-id": ACCESS_KEY_ID,
        "secret-access-key": SECRET_ACCESS_KEY,
    }


async def test_workers_are_told_of_it_and_the_depth_is_known(sqs: SqsWorld) -> None:
    sqs.apply_ready_queue(awsSqs={"maxNumberOfMessages": 1})
    sqs.world.apply_pool(replicas=1)
    deployment = sqs.world.wait_object("deployment", "workers", lambda _: True)
    [worker] = deployment["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable.get("value") for variable in worker["env"]}
    assert environment["BACKGROUND_JOBS__PROVIDER"] == "AwsSqs"
    assert environment["BACKGROUND_JOBS__AWSSQS__MAXNUMBEROFMESSAGES"] == "1"
    assert environment["BACKGROUND_JOBS__AWSSQS__COUNTINTERVALSECONDS"] == "0"
    assert not any("KEY" in name for name in environment)
    for _ in range(3):
        sqs.client.send_message(QueueUrl=sqs.url(), MessageBody="{}")
    sqs.world.wait_object(
        "jobqueue", "work", lambda seen: seen["status"].get("depth", {}).get("ready") == 3, within_seconds=60
    )


async def test_what_is_changed_in_the_spec_reaches_the_queue(sqs: SqsWorld) -> None:
    sqs.apply_ready_queue()
    sqs.apply_queue(visibilityTimeoutSeconds=600, maxRetries=9)
    eventually(lambda: sqs.attributes()["VisibilityTimeout"] == "600", what="the new visibility")
    eventually(lambda: sqs.tags()["headrace.dev/max-retries"] == "9", what="the new number of retries")


async def test_a_dead_letter_queue_that_is_not_wanted_any_more_is_told_of_no_more(sqs: SqsWorld) -> None:
    sqs.apply_ready_queue()
    sqs.apply_queue(deadLetter={"enabled": False})
    sqs.world.wait_object("jobqueue", "work", lambda seen: "deadLetterQueueUrl" not in seen["status"]["awsSqs"])
    eventually(lambda: "RedrivePolicy" not in sqs.attributes(), what="a queue without a redrive policy")
    assert "dead-letter-queue-url" not in binding(sqs.world)


async def test_what_others_changed_while_nobody_looked_is_put_right_and_told(sqs: SqsWorld) -> None:
    sqs.apply_ready_queue()
    assert sqs.world.operator.stop() == 0
    sqs.client.set_queue_attributes(QueueUrl=sqs.url(), Attributes={"VisibilityTimeout": "7"})
    sqs.client.untag_queue(QueueUrl=sqs.url(), TagKeys=["headrace.dev/max-retries"])
    sqs.world.operator.start()
    eventually(lambda: sqs.attributes()["VisibilityTimeout"] == "1800", what="the visibility as it was")
    eventually(lambda: "headrace.dev/max-retries" in sqs.tags(), what="the tag as it was")
    eventually(
        lambda: any("VisibilityTimeout" in event["message"] for event in sqs.world.events("work")),
        what="an Event that names what was put right",
    )


async def test_delete_takes_both_queues_along_and_says_with_how_many_jobs(sqs: SqsWorld) -> None:
    sqs.apply_ready_queue(deletionPolicy="Delete")
    name = sqs.name
    for _ in range(3):
        sqs.client.send_message(QueueUrl=sqs.url(), MessageBody="{}")
    sqs.world.kubectl.delete("jobqueue", "work")
    assert not sqs.exists(name)
    assert not sqs.exists(f"{name}-dead")
    assert told(sqs.world)["Removed"] == f"queue {name} in {REGION} is removed, with about 3 jobs"


async def test_retain_leaves_the_jobs_and_a_namesake_finds_them_again(sqs: SqsWorld) -> None:
    sqs.apply_ready_queue()
    sqs.client.send_message(QueueUrl=sqs.url(), MessageBody="{}")
    sqs.world.kubectl.delete("jobqueue", "work")
    assert sqs.exists(sqs.name)
    sqs.apply_ready_queue()
    sqs.world.wait_object(
        "jobqueue", "work", lambda seen: seen["status"].get("depth", {}).get("ready") == 1, within_seconds=60
    )


async def test_what_is_somebody_elses_is_neither_taken_nor_deleted(sqs: SqsWorld) -> None:
    sqs.client.create_queue(QueueName=sqs.name, tags={"headrace.dev/namespace": "elsewhere"})
    sqs.apply_secret()
    sqs.apply_queue(deletionPolicy="Delete")
    sqs.world.wait_condition("jobqueue", "work", "Ready", status="False", reason="NameTaken")
    sqs.world.kubectl.delete("jobqueue", "work")
    assert sqs.exists(sqs.name)


async def test_a_queue_that_was_there_is_used_as_it_is(sqs: SqsWorld) -> None:
    dead = f"{sqs.name}-failed"
    longest = {"MessageRetentionPeriod": "1209600"}
    sqs.client.create_queue(QueueName=dead, Attributes=longest)
    redrive = {"deadLetterTargetArn": sqs.attributes(dead)["QueueArn"], "maxReceiveCount": "2"}
    given = {**longest, "VisibilityTimeout": "45", "RedrivePolicy": json.dumps(redrive)}
    sqs.client.create_queue(QueueName=sqs.name, Attributes=given)
    before, tags = sqs.attributes(), sqs.tags()
    sqs.apply_secret()
    sqs.apply_queue(awsSqs={"queueUrl": sqs.url()}, visibilityTimeoutSeconds=600)
    sqs.world.wait_condition("jobqueue", "work", "Ready", status="True")
    degraded = sqs.world.wait_condition("jobqueue", "work", "Degraded", status="True", reason="MaxReceiveCountTooLow")
    assert "maxReceiveCount" in degraded["message"]
    assert "MaxReceiveCountTooLow" in told(sqs.world)
    assert binding(sqs.world)["dead-letter-queue-url"] == sqs.url(dead)
    sqs.world.kubectl.delete("jobqueue", "work")
    assert (sqs.attributes(), sqs.tags()) == (before, tags)


async def test_a_short_dead_letter_retention_counts_once_it_is_confirmed(sqs: SqsWorld) -> None:
    sqs.apply_ready_queue(deadLetter={"retentionDays": 3})
    sqs.world.wait_condition("jobqueue", "work", "Degraded", status="True", reason="DeadLetterRetentionUnconfirmed")
    assert sqs.attributes(f"{sqs.name}-dead")["MessageRetentionPeriod"] == "1209600"
    confirmed = {"headrace.dev/confirm-dead-letter-retention": "3"}
    sqs.apply_queue(deadLetter={"retentionDays": 3}, annotations=confirmed)
    eventually(
        lambda: sqs.attributes(f"{sqs.name}-dead")["MessageRetentionPeriod"] == "259200", what="the short retention"
    )
    sqs.world.wait_condition("jobqueue", "work", "Degraded", status="False")


async def test_rotated_keys_make_a_new_revision_of_the_binding(sqs: SqsWorld) -> None:
    sqs.apply_ready_queue()
    sqs.apply_secret(access_key_id="AKIAROTATED", session_token="a-token")
    sqs.world.wait_object(
        "jobqueue", "work", lambda seen: seen["status"]["binding"]["revision"] == "2", within_seconds=65
    )
    content = binding(sqs.world)
    assert (content["access-key-id"], content["session-token"]) == ("AKIAROTATED", "a-token")


async def test_without_keys_of_its_own_a_namespace_gets_nothing_that_the_settings_do_not_give_it(
    sqs: SqsWorld,
) -> None:
    sqs.apply_queue(awsSqs={"credentials": None})
    refused = sqs.world.wait_condition("jobqueue", "work", "Ready", status="False", reason="AmbientCredentialsRefused")
    assert "HEADRACE_AWS_AMBIENT_NAMESPACES" in refused["message"]
    assert not sqs.exists(sqs.name)


async def test_where_the_settings_allow_it_the_operators_own_identity_makes_the_queue(ambient: SqsWorld) -> None:
    ambient.apply_queue(awsSqs={"credentials": None})
    ambient.world.wait_condition("jobqueue", "work", "Ready", status="True")
    assert ambient.exists(f"{QUEUE_PREFIX}{AMBIENT_NAMESPACE}_work")
    assert not {"access-key-id", "secret-access-key"} & binding(ambient.world).keys()


@pytest.mark.parametrize(
    ("block", "named"),
    [
        ({"endpointUrl": "http://127.0.0.1:1"}, "HEADRACE_AWS_ENDPOINT_URLS"),
        ({"queueName": "of-somebody-else"}, "HEADRACE_AWS_QUEUE_PREFIX"),
    ],
)
async def test_the_operators_own_identity_goes_no_further_than_its_settings(
    ambient: SqsWorld, block: dict[str, Any], named: str
) -> None:
    ambient.apply_queue(awsSqs={"credentials": None, **block})
    refused = ambient.world.wait_condition(
        "jobqueue", "work", "Ready", status="False", reason="AmbientCredentialsRefused"
    )
    assert named in refused["message"]


async def test_as_itself_the_operator_uses_a_queue_that_was_there_only_where_its_tag_says_so(
    ambient: SqsWorld,
) -> None:
    url = ambient.client.create_queue(QueueName="treasury")["QueueUrl"]
    ambient.apply_queue(awsSqs={"credentials": None, "queueUrl": url}, deadLetter={"enabled": False})
    refused = ambient.world.wait_condition("jobqueue", "work", "Ready", status="False", reason="NameTaken")
    assert "headrace.dev/namespace" in refused["message"]
    ambient.client.tag_queue(QueueUrl=url, Tags={"headrace.dev/namespace": AMBIENT_NAMESPACE})
    ambient.world.wait_condition("jobqueue", "work", "Ready", status="True")


@pytest.mark.parametrize(
    ("status", "code", "operation", "reason", "words"),
    [
        (403, "AccessDenied", "CreateQueue", "AccessDenied", "allow sqs:CreateQueue"),
        (403, "AccessDenied", "GetQueueAttributes", "AccessDenied", "allow sqs:GetQueueAttributes"),
        (403, "AccessDenied", "ListQueueTags", "AccessDenied", "allow sqs:ListQueueTags"),
        (403, "ExpiredToken", None, "CredentialsExpired", "renew them"),
        (403, "InvalidClientTokenId", None, "CredentialsRefused", "the access key is unknown"),
        (403, "SignatureDoesNotMatch", None, "CredentialsRefused", "mend the secret access key"),
        (400, "RequestThrottled", None, "Throttled", "fewer calls, or later"),
        (503, "ServiceUnavailable", None, "BackendUnreachable", "can't serve now"),
        (400, "QueueDeletedRecently", "CreateQueue", "QueueDeletedRecently", "less than 60 s ago"),
    ],
)
async def test_what_aws_refuses_is_a_condition_that_says_what_to_do_and_heals(
    troubled: SqsWorld, proxy: AwsProxy, status: int, code: str, operation: str | None, reason: str, words: str
) -> None:
    proxy.answer(status, code, "refused by the test", operation=operation, times=10_000)
    troubled.apply_secret()
    troubled.apply_queue()
    refused = troubled.world.wait_condition("jobqueue", "work", "Ready", status="False", reason=reason)
    assert words in refused["message"]
    assert reason in told(troubled.world)
    proxy.heal()
    # A name that was deleted is free after a minute.
    troubled.world.wait_condition("jobqueue", "work", "Ready", status="True", within_seconds=90)


async def test_a_wrong_clock_is_told_as_such(troubled: SqsWorld, proxy: AwsProxy) -> None:
    proxy.clock_ahead_seconds = 3600
    troubled.apply_secret()
    troubled.apply_queue()
    refused = troubled.world.wait_condition("jobqueue", "work", "Ready", status="False", reason="ClockSkewed")
    assert "s behind: set it" in refused["message"]


async def test_a_right_that_is_taken_away_later_shows_by_its_name(troubled: SqsWorld, proxy: AwsProxy) -> None:
    troubled.apply_ready_queue()
    proxy.answer(403, "AccessDenied", operation="GetQueueAttributes", times=10_000)
    refused = troubled.world.wait_condition(
        "jobqueue", "work", "Ready", status="False", reason="AccessDenied", within_seconds=60
    )
    assert "sqs:GetQueueAttributes" in refused["message"]


async def test_aws_out_of_reach_holds_a_deleted_queue_for_a_minute_and_no_longer(
    troubled: SqsWorld, proxy: AwsProxy
) -> None:
    troubled.apply_ready_queue(deletionPolicy="Delete")
    proxy.cut(times=10_000)
    troubled.world.kubectl.run("delete", "jobqueue", "work", "--wait=false")
    troubled.world.wait_gone("jobqueue", "work", within_seconds=75)
    assert "the queue and its jobs stay behind in the backend" in told(troubled.world)["CleanupAbandoned"]
    assert troubled.exists(troubled.name)


async def test_a_policy_that_only_looks_like_json_is_refused_with_its_field(sqs: SqsWorld) -> None:
    sqs.apply_secret()
    sqs.apply_queue(awsSqs={"policy": "{Version: 2012-10-17}"})
    refused = sqs.world.wait_condition("jobqueue", "work", "Ready", status="False", reason="InvalidSpec")
    assert "spec.awsSqs: policy is no JSON" in refused["message"]


async def test_no_condition_event_or_log_line_tells_a_key(troubled: SqsWorld, proxy: AwsProxy) -> None:
    said = f"The Canonical String for this request should have been 'x-amz-security-token:hunter2-token {'x' * 9}'"
    proxy.answer(403, "SignatureDoesNotMatch", f"does not match. {said}", times=10_000)
    troubled.apply_secret(secret_access_key="hunter2-secret", session_token="hunter2-token")
    troubled.apply_queue()
    troubled.world.wait_condition("jobqueue", "work", "Ready", status="False", reason="CredentialsRefused")
    seen = [troubled.world.kubectl.get("jobqueue", "work"), troubled.world.events("work")]
    assert "hunter2" not in f"{seen}{troubled.world.operator.read_log()}"
