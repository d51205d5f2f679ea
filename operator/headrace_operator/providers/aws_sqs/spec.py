"""``spec.awsSqs`` of a JobQueue. Defaults repeat the schema's, and so do the checks that it makes."""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

import msgspec

from headrace_operator.core.spec import JobQueue, Part, parse_block

_AWS_HOSTS = (
    re.compile(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"),
    re.compile(r"sqs-fips\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"),
    re.compile(r"sqs(?:-fips)?\.([a-z0-9-]+)\.api\.aws"),
    re.compile(r"([a-z0-9-]+)\.queue\.amazonaws\.com(?:\.cn)?"),
    re.compile(r"(?:[a-z0-9-]+\.)+sqs\.([a-z0-9-]+)\.vpce\.amazonaws\.com(?:\.cn)?"),
)
"""Hosts that tell their region. The first is the one that AWS's own clients find by themselves.

See https://docs.aws.amazon.com/general/latest/gr/sqs-service.html
"""

_QUEUE_URL = re.compile(r"https?://[^/?#@\s]+/[^/?#@\s]+/[A-Za-z0-9_-]{1,80}")
_ENDPOINT_URL = re.compile(r"https?://[^/?#@\s]+/?")
_REGION = re.compile(r"[a-z]{2,}(?:-[a-z0-9]+)+")
_QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,75}")


class SecretName(Part, frozen=True, kw_only=True):
    """A Secret of the queue's namespace."""

    name: str


class AwsCredentials(Part, frozen=True, kw_only=True):
    """What to sign requests with."""

    secret_ref: SecretName


class Encryption(Part, frozen=True, kw_only=True):
    """How SQS encrypts what it keeps."""

    sqs_managed: bool | None = None
    kms_key_id: str | None = None

    def __post_init__(self) -> None:
        if self.sqs_managed and self.kms_key_id is not None:
            raise ValueError("sqsManaged and kmsKeyId exclude each other: remove one of them")
        if self.sqs_managed is False and self.kms_key_id is None:
            raise ValueError("sqsManaged must be true without a kmsKeyId: remove it, or name a key")


class AwsSqs(Part, frozen=True, kw_only=True):
    """Where a queue lives with provider AwsSqs."""

    region: str | None = None
    queue_name: str | None = None
    queue_url: str | None = None
    dead_letter_queue_url: str | None = None
    wait_time_seconds: int = 20
    max_number_of_messages: int = 10
    encryption: Encryption | None = None
    policy: str | None = None
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    endpoint_url: str | None = None
    credentials: AwsCredentials | None = None

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(problem)

    @property
    def known_region(self) -> str:
        """The region: as it is given, or as the queue's URL tells it."""
        region = self.region or region_of_url(self.queue_url or "")
        assert region is not None, "else it is refused"
        return region

    @property
    def known_endpoint(self) -> str | None:
        """Where SQS is reached, as pods of the namespace see it; None for the region's own address."""
        if self.endpoint_url is not None:
            return self.endpoint_url.rstrip("/")
        if self.queue_url is None:
            return None
        parts = urlsplit(self.queue_url)
        is_regions_own = parts.scheme == "https" and _AWS_HOSTS[0].fullmatch(parts.netloc) is not None
        return None if is_regions_own else f"{parts.scheme}://{parts.netloc}"


def aws_sqs_of(queue: JobQueue) -> AwsSqs:
    """The provider's own block.

    Raises
    ------
    RefusedError
        ``InvalidSpec``, with the field and what is wrong with it.
    """
    return parse_block(queue, AwsSqs)


def region_of_url(url: str) -> str | None:
    """The region that the host in a queue's URL tells, where it is one of AWS's."""
    host = urlsplit(url).hostname or ""
    return next((found[1] for pattern in _AWS_HOSTS if (found := pattern.fullmatch(host))), None)


def _problems(sqs: AwsSqs) -> list[str]:
    """What is wrong, each with its field and the fix."""
    problems = []
    if not 0 <= sqs.wait_time_seconds <= 20:
        problems.append("waitTimeSeconds must be from 0 to 20")
    if not 1 <= sqs.max_number_of_messages <= 10:
        problems.append("maxNumberOfMessages must be from 1 to 10")
    if sqs.region is not None and not _REGION.fullmatch(sqs.region):
        problems.append("region must be the name of an AWS region, such as eu-west-1")
    if sqs.endpoint_url is not None and not _ENDPOINT_URL.fullmatch(sqs.endpoint_url):
        problems.append("endpointUrl must be http(s)://HOST or http(s)://HOST:PORT, with nothing after it")
    if sqs.queue_name is not None and not _QUEUE_NAME.fullmatch(sqs.queue_name):
        problems.append("queueName must be at most 75 letters, digits, hyphens and underscores, without .fifo")
    if sqs.policy is not None and (problem := _policy_problem(sqs.policy)):
        problems.append(problem)
    return problems + _url_problems(sqs)


def _url_problems(sqs: AwsSqs) -> list[str]:
    urls = {"queueUrl": sqs.queue_url, "deadLetterQueueUrl": sqs.dead_letter_queue_url}
    problems = [
        f"{name} must be a standard queue's URL, https://HOST/ACCOUNT/NAME, with nothing after the name"
        for name, url in urls.items()
        if url is not None and not _QUEUE_URL.fullmatch(url)
    ]
    if problems:
        return problems
    if sqs.queue_url is None:
        if sqs.region is None:
            problems.append("region is required for a queue that is to be made: give one such as eu-west-1")
        if sqs.dead_letter_queue_url is not None:
            problems.append("deadLetterQueueUrl goes with queueUrl: give both, or neither")
        return problems
    told = region_of_url(sqs.queue_url)
    if told is None and sqs.region is None:
        problems.append("region is required where the host of queueUrl tells none")
    if told is not None and sqs.region not in (None, told):
        problems.append(f"region is {sqs.region}, and queueUrl is in {told}: correct it, or leave it out")
    if sqs.queue_name is not None or sqs.encryption is not None or sqs.policy is not None or sqs.tags:
        problems.append("queueName, encryption, policy and tags can't be given with queueUrl: remove them")
    if sqs.dead_letter_queue_url is not None:
        if sqs.dead_letter_queue_url == sqs.queue_url:
            problems.append("deadLetterQueueUrl must be another queue's than queueUrl")
        elif _place(sqs.dead_letter_queue_url) != _place(sqs.queue_url):
            problems.append("deadLetterQueueUrl must be a queue of the same account and region as queueUrl")
    return problems


def _place(url: str) -> str:
    """Host and account."""
    return url.rpartition("/")[0]


def _policy_problem(policy: str) -> str | None:
    try:
        document = json.loads(policy)
    except ValueError as error:
        return f"policy is no JSON ({error}): write it as JSON text, under policy: |"
    if not isinstance(document, dict) or "Statement" not in document:
        return "policy must be a JSON object with Version and Statement"
    return None
