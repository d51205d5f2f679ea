"""From a JobQueue and its Secrets to the place of its queue. Pure."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from headrace_operator.core.model import RefusedError, TransientError
from headrace_operator.core.provider import SecretKey
from headrace_operator.providers.aws_sqs.ambient import require_allowed
from headrace_operator.providers.aws_sqs.naming import derived_name
from headrace_operator.providers.aws_sqs.spec import aws_sqs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headrace_operator.core.spec import JobQueue
    from headrace_operator.providers.aws_sqs.spec import AwsSqs
    from headrace_operator.settings import AwsSettings

ACCESS_KEY_ID = "access-key-id"
SECRET_ACCESS_KEY = "secret-access-key"  # noqa: S105 - the name of a Secret's key
SESSION_TOKEN = "session-token"  # noqa: S105 - as above

_LANES = 4
"""How many queues of one backend are made sure of at a time: of a thousand each must have its turn in minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsCredentials:
    """What requests are signed with. `repr` shows nothing."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsBackend:
    """SQS of one region, as one identity sees it: all queues there are asked for by one client."""

    region: str
    endpoint_url: str | None = None
    """As the operator sees it; None for the region's own address."""
    credentials: SqsCredentials | None = None
    """None: the operator's own identity."""

    def __repr__(self) -> str:
        return f"SqsBackend({self.region})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsPlace:
    """One queue, with its dead-letter queue. `repr` shows no key."""

    backend: SqsBackend
    queue: str
    """Its name in SQS."""
    queue_url: str | None = None
    """Of a queue that was there before; None where it is ours to make."""
    dead_letter_queue_url: str | None = None
    """Likewise, of its dead-letter queue."""
    needs_tag: bool = False
    """Whether one that was there before must bear a tag that names the JobQueue's namespace."""
    provider: str = "AwsSqs"

    @property
    def administration(self) -> tuple[SqsBackend, int]:
        """See `core.provider.Place`."""
        return self.backend, zlib.crc32(self.queue.encode()) % _LANES

    @property
    def label(self) -> str:
        """See `core.provider.Place`."""
        return f"queue {self.queue} in {self.backend.region}"

    def __repr__(self) -> str:
        return f"SqsPlace({self.label})"


def secret_keys(queue: JobQueue) -> Sequence[SecretKey]:
    """What the Secret with the credentials must hold, and may."""
    sqs = aws_sqs_of(queue)
    if sqs.credentials is None:
        return []
    secret = sqs.credentials.secret_ref.name
    return [
        SecretKey(secret, ACCESS_KEY_ID),
        SecretKey(secret, SECRET_ACCESS_KEY),
        SecretKey(secret, SESSION_TOKEN, is_optional=True),
    ]


def place_of(
    queue: JobQueue,
    secrets: Mapping[SecretKey, bytes],
    seen_from_here: Callable[[str], str],
    settings: AwsSettings,
) -> SqsPlace:
    """See `core.provider.Provider.place`."""
    sqs = aws_sqs_of(queue)
    endpoint = sqs.known_endpoint
    endpoint_url = None if endpoint is None else with_host(endpoint, seen_from_here)
    name = _name(queue, sqs, settings)
    if sqs.credentials is None:
        made = None if sqs.queue_url is not None else name
        require_allowed(queue.metadata.namespace, made, endpoint_url, settings)
    return SqsPlace(
        backend=SqsBackend(
            region=sqs.known_region, endpoint_url=endpoint_url, credentials=credentials_of(queue, secrets)
        ),
        queue=name,
        queue_url=sqs.queue_url,
        dead_letter_queue_url=sqs.dead_letter_queue_url,
        needs_tag=sqs.credentials is None,
    )


def credentials_of(queue: JobQueue, secrets: Mapping[SecretKey, bytes]) -> SqsCredentials | None:
    """What stands in the Secret; None where the spec names none.

    Raises
    ------
    TransientError
        ``InvalidConnection``, where what stands there can be no key; it is not repeated.
    """
    keys = secret_keys(queue)
    if not keys:
        return None
    read = {key.key: _text(secrets[key], key) for key in keys if key in secrets}
    return SqsCredentials(
        access_key_id=read[ACCESS_KEY_ID],
        secret_access_key=read[SECRET_ACCESS_KEY],
        session_token=read.get(SESSION_TOKEN),
    )


def with_host(url: str, renamed: Callable[[str], str]) -> str:
    """The URL with another name for its host."""
    parts = urlsplit(url)
    host, colon, port = parts.netloc.partition(":")
    if parts.netloc.startswith("["):
        return url
    return f"{parts.scheme}://{renamed(host)}{colon}{port}"


def _text(secret: bytes, where: SecretKey) -> str:
    try:
        text = secret.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable() or " " in text:
        # The cause would show the key.
        raise TransientError(
            "InvalidConnection", f"{where} holds no key of AWS: put in the key alone, as AWS gave it, on one line"
        ) from None
    return text


def _name(queue: JobQueue, sqs: AwsSqs, settings: AwsSettings) -> str:
    if sqs.queue_url is not None:
        return sqs.queue_url.rpartition("/")[2]
    if sqs.queue_name is not None:
        return sqs.queue_name
    name = derived_name(settings.queue_prefix, queue.metadata.namespace, queue.metadata.name)
    known = str(queue.found.get("queueUrl", "")).rpartition("/")[2]
    if known and known != name:
        raise RefusedError(
            "QueueWouldMove",
            f"the queue is {known}, and by the operator's setting HEADRACE_AWS_QUEUE_PREFIX it would be {name} now, "
            "without the jobs: set that back, or make a new JobQueue and move the producers to it",
        )
    return name
