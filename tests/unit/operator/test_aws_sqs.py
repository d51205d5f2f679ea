"""Provider AwsSqs as values: what a JobQueue's block means, whom the operator's own identity serves, what is found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_operator.core.model import QueueDepth, RefusedError, TransientError
from headrace_operator.core.provider import SecretKey
from headrace_operator.core.spec import JobQueue, JobWorkerPool, parse
from headrace_operator.providers.aws_sqs import AwsSqsProvider
from headrace_operator.providers.aws_sqs.naming import derived_name
from headrace_operator.providers.aws_sqs.place import SqsPlace
from headrace_operator.providers.aws_sqs.spec import AwsSqs, aws_sqs_of
from headrace_operator.settings import AwsSettings

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders"
DEAD_URL = f"{URL}-dead"
REFERENCE = {"secretRef": {"name": "keys"}}
KEYS = {
    SecretKey("keys", "access-key-id"): b"AKIAEXAMPLE",
    SecretKey("keys", "secret-access-key"): b"hunter2\n",
}
TOKEN = SecretKey("keys", "session-token", is_optional=True)
ALLOWED = AwsSettings(ambient_namespaces=frozenset({"shop"}), queue_prefix="prod-")


def queue(
    *, namespace: str = "shop", annotations: Mapping[str, str] = {}, found: Mapping[str, Any] = {}, **changes: Any
) -> JobQueue:
    spec = {name: changes.pop(name) for name in ("deadLetter", "maxRetries") if name in changes}
    return parse(
        {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "JobQueue",
            "metadata": {"namespace": namespace, "name": "orders", "uid": "q", "annotations": dict(annotations)},
            "spec": {"provider": "AwsSqs", **spec, "awsSqs": {"region": "eu-west-1", **changes}},
            "status": {"awsSqs": dict(found)},
        },
        JobQueue,
    )


def adopted(**changes: Any) -> JobQueue:
    return queue(**{"region": "eu-west-1", "queueUrl": URL, **changes})


def place(made: JobQueue, settings: AwsSettings = ALLOWED, secrets: Mapping[SecretKey, bytes] = KEYS) -> SqsPlace:
    return AwsSqsProvider(settings).place(made, secrets, lambda host: host if "." in host else f"{host}.shop.svc")


def refusal(made: JobQueue, settings: AwsSettings = ALLOWED) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        place(made, settings)
    return refused.value


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"region": None}, "region is required"),
        ({"region": "Ireland"}, "region must be the name of an AWS region"),
        ({"queueName": "orders.fifo"}, "without .fifo"),
        ({"queueName": "a" * 76}, "at most 75"),
        ({"queueName": "orders!"}, "letters, digits, hyphens and underscores"),
        ({"waitTimeSeconds": 21}, "waitTimeSeconds must be from 0 to 20"),
        ({"maxNumberOfMessages": 11}, "maxNumberOfMessages must be from 1 to 10"),
        ({"policy": "{no JSON"}, "policy is no JSON"),
        ({"policy": "[]"}, "policy must be a JSON object"),
        ({"endpointUrl": "http://user:secret@sqs"}, "endpointUrl must be"),
        ({"encryption": {"sqsManaged": True, "kmsKeyId": "alias/mine"}}, "exclude each other"),
        ({"encryption": {"sqsManaged": False}}, "sqsManaged must be true without a kmsKeyId"),
        ({"deadLetterQueueUrl": DEAD_URL}, "deadLetterQueueUrl goes with queueUrl"),
        ({"queueUrl": f"{URL}.fifo"}, "queueUrl must be a standard queue's URL"),
        ({"queueUrl": URL, "region": "eu-central-1"}, "region is eu-central-1, and queueUrl is in eu-west-1"),
        ({"queueUrl": URL, "tags": {"a": "b"}}, "can't be given with queueUrl"),
        ({"queueUrl": URL, "deadLetterQueueUrl": URL}, "must be another queue's"),
        (
            {"queueUrl": URL, "deadLetterQueueUrl": DEAD_URL.replace("123456789012", "210987654321")},
            "of the same account and region",
        ),
        ({"region": None, "queueUrl": "http://elasticmq:9324/000000000000/orders"}, "region is required where"),
    ],
)
def test_what_an_older_schema_let_through_is_refused_with_the_field(block: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        aws_sqs_of(queue(**block))
    assert refused.value.reason == "InvalidSpec"
    assert refused.value.message.startswith("spec.awsSqs")
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("block", "endpoint"),
    [
        ({}, None),
        ({"queueUrl": URL}, None),
        (
            {"endpointUrl": "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/"},
            "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com",
        ),
        ({"queueUrl": "http://elasticmq:9324/000000000000/orders"}, "http://elasticmq:9324"),
        # Only by its own name is a region AWS's: others lead wherever they lead.
        (
            {"queueUrl": "https://sqs.eu-west-1.amazonaws.com.example.com/123456789012/orders"},
            "https://sqs.eu-west-1.amazonaws.com.example.com",
        ),
        ({"queueUrl": URL.replace("https", "http")}, "http://sqs.eu-west-1.amazonaws.com"),
    ],
)
def test_where_requests_go_is_told_by_the_endpoint_or_by_the_queues_url(
    block: dict[str, Any], endpoint: str | None
) -> None:
    assert aws_sqs_of(queue(**block)).known_endpoint == endpoint


def test_a_place_is_seen_from_the_operator_and_shows_no_key() -> None:
    made = place(queue(endpointUrl="http://elasticmq:9324", credentials=REFERENCE), AwsSettings())
    assert made.backend.endpoint_url == "http://elasticmq.shop.svc:9324"
    assert made.backend.credentials is not None
    assert made.backend.credentials.secret_access_key == "hunter2"
    assert made.queue == "shop_orders"
    assert "hunter2" not in repr((made, made.backend, made.administration, made.backend.credentials))


def test_a_session_token_may_be_left_out() -> None:
    made = queue(credentials=REFERENCE)
    provider = AwsSqsProvider(AwsSettings())
    assert list(provider.secrets(made)) == [*KEYS, TOKEN]
    with_token = place(made, secrets={**KEYS, TOKEN: b"token"}).backend.credentials
    without = place(made).backend.credentials
    assert with_token is not None
    assert without is not None
    assert (with_token.session_token, without.session_token) == ("token", None)


@pytest.mark.parametrize("content", [b"", b" ", b"two words", b"\xff", b"a\nb"])
def test_what_can_be_no_key_is_told_by_its_place_alone(content: bytes) -> None:
    with pytest.raises(TransientError) as wrong:
        place(queue(credentials=REFERENCE), secrets={**KEYS, SecretKey("keys", "secret-access-key"): content})
    assert wrong.value.reason == "InvalidConnection"
    assert wrong.value.message.startswith("key secret-access-key of Secret keys holds no key of AWS")
    assert "words" not in wrong.value.message.partition(":")[0]


NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@given(NAMES, NAMES.map(lambda name: name[:52]), NAMES, NAMES.map(lambda name: name[:52]))
def test_no_two_job_queues_get_one_name(namespace: str, name: str, other_namespace: str, other_name: str) -> None:
    first, second = derived_name("", namespace, name), derived_name("", other_namespace, other_name)
    assert (first == second) == ((namespace, name) == (other_namespace, other_name))
    assert first.startswith(f"{namespace}_")
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,75}", first)


def test_names_that_would_be_the_same_with_a_hyphen_are_not() -> None:
    assert derived_name("", "a-b", "c") != derived_name("", "a", "b-c")


def test_a_prefix_that_leaves_no_room_is_refused_by_its_setting() -> None:
    with pytest.raises(RefusedError, match="HEADRACE_AWS_QUEUE_PREFIX"):
        derived_name("p" * 20, "n" * 63, "orders")


@pytest.mark.parametrize(
    ("made", "settings", "words"),
    [
        (queue(namespace="mail"), ALLOWED, "for namespace mail"),
        (queue(), AwsSettings(), "HEADRACE_AWS_AMBIENT_NAMESPACES"),
        (adopted(), AwsSettings(), "chart: aws.ambientNamespaces"),
        (queue(endpointUrl="https://evil.example.com"), ALLOWED, "HEADRACE_AWS_ENDPOINT_URLS"),
        # Not as another namespace's Service of that name, either.
        (
            queue(endpointUrl="http://sqs:80"),
            AwsSettings(ambient_namespaces=frozenset("*"), endpoint_urls=frozenset({"http://sqs:80"})),
            "http://sqs.shop.svc:80",
        ),
        (
            adopted(queueUrl="https://sqs.eu-west-1.amazonaws.com.example.com/1/orders"),
            ALLOWED,
            "HEADRACE_AWS_ENDPOINT_URLS",
        ),
        (queue(queueName="orders"), ALLOWED, "must begin with prod-shop_"),
        (queue(queueName="prod-shop-two_orders"), ALLOWED, "HEADRACE_AWS_QUEUE_PREFIX"),
    ],
)
def test_the_operators_own_identity_serves_whom_its_settings_name(
    made: JobQueue, settings: AwsSettings, words: str
) -> None:
    refused = refusal(made, settings)
    assert refused.reason == "AmbientCredentialsRefused"
    assert words in refused.message
    assert "spec.awsSqs.credentials.secretRef" in refused.message


def test_where_it_is_allowed_a_queue_is_made_and_one_that_was_there_needs_its_tag() -> None:
    made = place(queue())
    assert (made.queue, made.backend.credentials) == ("prod-shop_orders", None)
    assert place(queue(queueName="prod-shop_x")).queue == "prod-shop_x"
    assert place(adopted()).needs_tag
    assert not place(adopted(credentials=REFERENCE)).needs_tag
    everywhere = AwsSettings(ambient_namespaces=frozenset({"*"}), endpoint_urls=frozenset({"https://vpce.example.com"}))
    assert place(queue(namespace="mail", endpointUrl="https://vpce.example.com/"), everywhere).queue == "mail_orders"


def test_a_prefix_that_changes_moves_no_queue() -> None:
    moved = queue(found={"queueUrl": URL.replace("orders", "shop_orders")})
    assert refusal(moved).reason == "QueueWouldMove"
    assert place(moved, AwsSettings(ambient_namespaces=frozenset({"shop"}))).queue == "shop_orders"


def binding(made: JobQueue, secrets: Mapping[SecretKey, bytes] = KEYS, **status: Any) -> dict[str, str]:
    bound = AwsSqsProvider(ALLOWED).binding(made, secrets, {"queueUrl": URL, **status})
    assert bound is not None
    assert bound.type == "sqs"
    return {name: value for name, value in bound.entries.items() if value}


def test_there_is_no_binding_before_the_queue_is_there() -> None:
    assert AwsSqsProvider(ALLOWED).binding(queue(), {}, {}) is None


def test_a_binding_has_the_queue_in_parts_and_as_a_whole_without_keys() -> None:
    assert binding(queue(), deadLetterQueueUrl=DEAD_URL) == {
        "uri": "sqs://sqs.eu-west-1.amazonaws.com/123456789012/orders",
        "queue-url": URL,
        "dead-letter-queue-url": DEAD_URL,
        "region": "eu-west-1",
    }
    keyed = binding(queue(credentials=REFERENCE), {**KEYS, TOKEN: b"token"})
    assert (keyed["access-key-id"], keyed["secret-access-key"], keyed["session-token"]) == (
        "AKIAEXAMPLE",
        "hunter2",
        "token",
    )
    assert "hunter2" not in keyed["uri"]


@pytest.mark.parametrize(
    ("endpoint", "url", "uri"),
    [
        (
            "http://elasticmq:9324",
            "http://localhost:9324/000000000000/orders",
            "sqs+http://localhost:9324/000000000000/orders?region=eu-west-1&endpoint_url=http%3A%2F%2Felasticmq%3A9324",
        ),
        (
            "http://elasticmq:9324",
            "http://elasticmq:9324/000000000000/orders",
            "sqs+http://elasticmq:9324/000000000000/orders?region=eu-west-1",
        ),
        (
            "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com",
            URL,
            f"{URL.replace('https', 'sqs')}?endpoint_url=https%3A%2F%2Fvpce-1.sqs.eu-west-1.vpce.amazonaws.com",
        ),
    ],
)
def test_the_uri_says_what_the_queues_url_does_not(endpoint: str, url: str, uri: str) -> None:
    made = binding(queue(endpointUrl=endpoint, credentials=REFERENCE), queueUrl=url)
    assert (made["uri"], made["endpoint-url"]) == (uri, endpoint)


def test_workers_take_as_the_spec_says_and_count_nothing() -> None:
    told = AwsSqsProvider(ALLOWED).worker_environment(queue(waitTimeSeconds=5, maxNumberOfMessages=1))
    assert told == {
        "AWSSQS__WAITTIMESECONDS": "5",
        "AWSSQS__MAXNUMBEROFMESSAGES": "1",
        "AWSSQS__COUNTINTERVALSECONDS": "0",
    }


@pytest.mark.parametrize(
    ("days", "annotation", "is_confirmed"),
    [(3, "3", True), (3, "03", False), (3, "5", False), (3, "", False), (3, None, False)],
)
def test_a_short_dead_letter_retention_counts_once_its_days_are_confirmed(
    days: int, annotation: str | None, is_confirmed: bool
) -> None:
    annotations = {} if annotation is None else {"headrace.dev/confirm-dead-letter-retention": annotation}
    settings = AwsSqsProvider(ALLOWED).settings(queue(deadLetter={"retentionDays": days}, annotations=annotations))
    assert settings["dead_letter_retention_days"] == days
    assert settings["sqs"]["dead_letter_retention_confirmed"] is is_confirmed


@pytest.mark.parametrize(
    ("depth", "status", "reasons"),
    [
        (None, {}, []),
        (QueueDepth(ready=1, oldest_ready_age_seconds=86_400 * 11), {}, []),
        (QueueDepth(ready=1, oldest_ready_age_seconds=86_400 * 12), {}, ["RetentionNear"]),
        (QueueDepth(oldest_ready_age_seconds=86_400 * 12), {}, []),
        (
            QueueDepth(ready=1, oldest_ready_age_seconds=86_400 * 3.5),
            {"messageRetentionSeconds": 345_600},
            ["RetentionNear"],
        ),
        (QueueDepth(in_flight=118_000), {}, []),
        # The count is approximate: at the limit it is now above and now below it.
        (QueueDepth(in_flight=119_990), {}, ["InFlightLimitReached"]),
        (QueueDepth(in_flight=120_000), {}, ["InFlightLimitReached"]),
    ],
)
def test_the_depth_tells_what_is_near_a_limit_of_sqs(
    depth: QueueDepth | None, status: dict[str, Any], reasons: list[str]
) -> None:
    assert [finding.reason for finding in AwsSqsProvider(ALLOWED).findings(status, depth)] == reasons


def test_what_is_said_of_the_limit_in_flight_does_not_change_with_each_count() -> None:
    one, other = (AwsSqsProvider(ALLOWED).findings({}, QueueDepth(in_flight=number)) for number in (119_990, 120_010))
    assert one == other


@pytest.mark.parametrize(
    ("spec", "replicas", "words"),
    [
        ({"maxConcurrentJobs": 100, "autoscaling": {"maxReplicas": 1200}}, 0, None),
        ({"maxConcurrentJobs": 100, "autoscaling": {"maxReplicas": 1201}}, 0, "autoscaling.maxReplicas to 1200"),
        ({"maxConcurrentJobs": 100}, 1201, "spec.replicas to 1200"),
    ],
)
def test_a_pool_that_could_hold_more_than_sqs_lets_out_is_told_so(
    spec: dict[str, Any], replicas: int, words: str | None
) -> None:
    pool = parse(
        {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "JobWorkerPool",
            "metadata": {"namespace": "shop", "name": "workers", "uid": "p"},
            "spec": {"queueRef": {"name": "orders"}, "handler": {"exec": {"command": ["true"]}}, **spec},
        },
        JobWorkerPool,
    )
    limit = AwsSqsProvider(ALLOWED).ceiling({}, pool, replicas)
    assert (limit is None) == (words is None)
    if limit is not None and words is not None:
        assert words in limit.message


def test_a_block_of_defaults_is_what_the_schema_makes_of_it() -> None:
    assert aws_sqs_of(queue()) == AwsSqs(region="eu-west-1")
