"""Where a queue in SQS is: its URL, read. Pure, but that the environment may name the region."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import SplitResult, parse_qsl, urlsplit

from headrace.queues.errors import QueueError, UnsupportedCapabilityError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCHEMES: Mapping[str, str] = {"sqs": "https", "sqs+http": "http"}
"""Ours, and what the endpoint speaks."""

EXAMPLE = "sqs://sqs.REGION.amazonaws.com/ACCOUNT/NAME"

MAX_WAIT_SECONDS = 20
"""The longest poll."""
MAX_MESSAGES = 10
"""The most messages of one call."""
MAX_RETRIES = 1000
"""No queue of ours has more."""

QUEUE_DELETED_SECONDS = 60.0
"""For how long a deleted queue's name is taken."""

ClientKind: TypeAlias = Literal["signed", "boto"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_REGION = re.compile(r"[a-z]{2,}(?:-[a-z0-9]+)+")

# The endpoint that botocore itself finds for a region; https://docs.aws.amazon.com/general/latest/gr/sqs-service.html
_STANDARD_HOST = re.compile(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
# Others of the service whose name tells the region: FIPS, dual stack, legacy, and interface endpoints of a VPC.
_OTHER_HOSTS = (
    re.compile(r"sqs-fips\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"),
    re.compile(r"sqs(?:-fips)?\.([a-z0-9-]+)\.api\.aws"),
    re.compile(r"([a-z0-9-]+)\.queue\.amazonaws\.com(?:\.cn)?"),
    re.compile(r"(?:[a-z0-9-]+\.)+sqs\.([a-z0-9-]+)\.vpce\.amazonaws\.com(?:\.cn)?"),
)

_SECRET = ("access_key_id", "secret_access_key", "session_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Keys that somebody was given. Without any, botocore looks around: environment, files, pod, machine."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where queues live: a region of a service, as somebody."""

    region: str
    endpoint_url: str | None = None
    """None: the one that botocore finds for the region."""
    credentials: Credentials | None = None
    """None: ambient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsOptions:
    """How a queue is used."""

    client: ClientKind = "signed"
    """``signed``: what is called for every job is signed and sent by hand. ``boto``: everything by aioboto3."""
    wait_time_seconds: int = MAX_WAIT_SECONDS
    """How long a poll of a queue waits for a first message."""
    max_number_of_messages: int = MAX_MESSAGES
    """How many messages a poll brings at the most."""
    max_retries: int = 3
    """How often a failed job is tried again, where the queue has no settings of ours."""
    count_interval_seconds: float = 60.0
    """How often this process may count the queue; 0: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsAddress:
    """One queue, and how it is used."""

    place: Place
    queue_url: str
    """As the service knows it."""
    name: str
    """The queue's own."""
    account: str
    dead_letter_queue_url: str | None = None
    """None: the one that the queue's redrive policy names."""
    options: SqsOptions = SqsOptions()


def parse_url(url: str, **options: Any) -> SqsAddress:
    """Where a URL leads.

    Parameters
    ----------
    url
        ``sqs://HOST[:PORT]/ACCOUNT/NAME``: the queue's URL with another scheme (``sqs+http`` where the endpoint speaks
        plain HTTP), and options in its query.
    **options
        The same, and the credentials, which no URL holds; they win over the query. None is as if it were not given.

    Raises
    ------
    UnsupportedCapabilityError
        When it is a FIFO queue's.
    QueueError
        With the part of the URL, or the option, and the fix. Nothing secret is repeated.
    """
    parts = _split(url)
    given = _query(parts.query) | {name: value for name, value in options.items() if value is not None}
    if unknown := sorted(given.keys() - _READ.keys()):
        raise QueueError(f"{unknown[0]}: no option of sqs:// queues, which take {', '.join(sorted(_READ))}")
    values = {name: _READ[name](name, value) for name, value in given.items()}
    account, name = _path(parts)
    queue_url = f"{SCHEMES[parts.scheme]}://{parts.netloc}{parts.path}"
    return SqsAddress(
        place=Place(
            region=values.get("region") or _region(parts),
            endpoint_url=values.get("endpoint_url") or _endpoint_url(parts),
            credentials=_credentials(values),
        ),
        queue_url=queue_url,
        name=name,
        account=account,
        dead_letter_queue_url=values.get("dead_letter_queue_url"),
        options=SqsOptions(
            **{field_name: values[field_name] for field_name in SqsOptions.__slots__ if field_name in values}
        ),
    )


def queue_url_to_sqs(queue_url: str) -> str:
    """The URL of ours for a queue's own: what `parse_url` reads."""
    for ours, theirs in SCHEMES.items():
        if queue_url.startswith(f"{theirs}://"):
            return f"{ours}://{queue_url.removeprefix(f'{theirs}://')}"
    raise QueueError("queue URL: must begin with https:// or http://")


def region_of_host(host: str) -> str | None:
    """The region that a host's name tells, where it is one of the service's."""
    for pattern in (_STANDARD_HOST, *_OTHER_HOSTS):
        if found := pattern.fullmatch(host):
            return found[1]
    return "us-east-1" if host == "queue.amazonaws.com" else None


def _split(url: object) -> SplitResult:
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        # Reading the port is what finds a malformed one.
        is_whole = parts is not None and parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, is_whole = None, False
    if parts is None or not is_whole:
        raise QueueError(f"the queue's URL is no queue's of SQS: write {EXAMPLE}")
    if "@" in parts.netloc:
        raise QueueError(
            "the queue's URL holds a user or a password: leave them out, and give access_key_id and secret_access_key "
            "as options, or by the environment"
        )
    return parts


def _query(query: str) -> dict[str, Any]:
    given = dict(parse_qsl(query, keep_blank_values=True))
    for name in _SECRET:
        if name in given:
            raise QueueError(f"{name}: must not stand in a URL; give it as an option, or by the environment")
    return given


def _path(parts: SplitResult) -> tuple[str, str]:
    """Account and name: the last two parts, since some endpoints put more before them."""
    *_, account, name = ["", "", *parts.path.split("/")]
    if name.endswith(".fifo"):
        raise UnsupportedCapabilityError(f"queue {name}: FIFO queues can't be used; name a standard queue")
    if not _NAME.fullmatch(name):
        raise QueueError(
            f"queue {name[:90]!r}: the URL must end with a queue's name, 1 to 80 of the characters A-Z, a-z, 0-9, - "
            f"and _: write {EXAMPLE}"
        )
    if not account:
        raise QueueError(f"queue {name}: the URL names no account before it: write {EXAMPLE}")
    return account, name


def _region(parts: SplitResult) -> str:
    region = (
        region_of_host(parts.hostname or "") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    )
    if not region:
        raise QueueError(f"region: the host {parts.hostname} tells none; give the option region, or set AWS_REGION")
    return _read_region("AWS_REGION", region)


def _endpoint_url(parts: SplitResult) -> str | None:
    if parts.scheme == "sqs" and parts.port is None and _STANDARD_HOST.fullmatch(parts.hostname or ""):
        return None
    return f"{SCHEMES[parts.scheme]}://{parts.netloc}"


def _credentials(values: Mapping[str, Any]) -> Credentials | None:
    key_id, secret, token = (values.get(name) for name in _SECRET)
    if key_id and secret:
        return Credentials(access_key_id=key_id, secret_access_key=secret, session_token=token)
    if key_id or secret or token:
        missing = "secret_access_key" if key_id else "access_key_id"
        raise QueueError(
            f"{missing}: is missing beside {'access_key_id' if key_id else 'secret_access_key'}; give both"
        )
    return None


def _read_text(name: str, value: object) -> str:
    if not (isinstance(value, str) and value and value.isprintable()):
        raise QueueError(f"{name}: must be a text that is not empty, without line breaks")
    return value


def _read_region(name: str, value: object) -> str:
    if not (isinstance(value, str) and _REGION.fullmatch(value)):
        raise QueueError(f"{name} {str(value)[:40]!r}: must be the name of a region, such as eu-central-1")
    return value


def _read_url(name: str, value: object) -> str:
    try:
        parts = urlsplit(value) if isinstance(value, str) else SplitResult("", "", "", "", "")
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        is_plain = "@" not in parts.netloc and not parts.query and not parts.fragment
    except ValueError:
        is_url = is_plain = False
    if not (is_url and is_plain):
        raise QueueError(f"{name}: must be a URL that begins with https:// or http://, without a password or a query")
    return str(value).rstrip("/")


def _read_client(name: str, value: object) -> str:
    if value not in {"signed", "boto"}:
        raise QueueError(f"{name} {str(value)[:40]!r}: must be signed or boto")
    return str(value)


def _whole(lowest: int, highest: int) -> Callable[[str, object], int]:
    def read(name: str, value: object) -> int:
        refusal = QueueError(f"{name} {str(value)[:40]!r}: must be a whole number from {lowest} to {highest}")
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise refusal
        try:
            number = int(value)
        except ValueError:
            raise refusal from None
        if not lowest <= number <= highest:
            raise refusal
        return number

    return read


def _read_interval(name: str, value: object) -> float:
    refusal = QueueError(f"{name} {str(value)[:40]!r}: must be a number of seconds, at least 2, or 0 for never")
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise refusal
    try:
        seconds = float(value)
    except ValueError:
        raise refusal from None
    if not (seconds == 0 or 2 <= seconds <= 86_400):
        raise refusal
    return seconds


_READ: Mapping[str, Callable[[str, object], Any]] = {
    "region": _read_region,
    "endpoint_url": _read_url,
    "dead_letter_queue_url": _read_url,
    "access_key_id": _read_text,
    "secret_access_key": _read_text,
    "session_token": _read_text,
    "client": _read_client,
    "wait_time_seconds": _whole(0, MAX_WAIT_SECONDS),
    "max_number_of_messages": _whole(1, MAX_MESSAGES),
    "max_retries": _whole(0, MAX_RETRIES),
    "count_interval_seconds": _read_interval,
}

PLACE_OPTIONS = frozenset({"region", "endpoint_url", *_SECRET, "dead_letter_queue_url", "client"})
"""What says where a queue is, and who asks."""

OPTIONS = frozenset(_READ)
"""All that `parse_url` takes."""
