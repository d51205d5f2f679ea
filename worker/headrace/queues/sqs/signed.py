"""Calls that are made for every job, signed and sent by hand.

Botocore would take four fifths of a busy worker's time. Credentials, the endpoint, what is tried again, after which
pauses and how often, are botocore's all the same.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import msgspec
from botocore.exceptions import ConnectionClosedError, ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError
from botocore.httpsession import get_cert_path
from botocore.retries.quota import RetryQuota
from botocore.retries.standard import (
    DEFAULT_MAX_ATTEMPTS,
    ExponentialBackoff,
    RetryContext,
    RetryPolicy,
    RetryQuotaChecker,
    StandardRetryConditions,
)
from botocore.utils import get_environ_proxies

from headrace.queues.sqs.boto import ANSWER_SECONDS, CONNECT_SECONDS, BotoClient, skew_seconds, waits_seconds
from headrace.queues.sqs.connections import Connections, NotHttpError, NotTakenError, most_bytes
from headrace.queues.sqs.errors import (
    SqsAccessError,
    SqsError,
    are_credentials_refused,
    is_clock_skewed,
    not_in_time,
    plain,
    translated,
    unreachable,
)
from headrace.queues.sqs.signing import Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from headrace.queues.sqs.connections import Answer
    from headrace.queues.sqs.place import Place

log = logging.getLogger(__name__)

HOT = frozenset(
    {
        "SendMessageBatch",
        "ReceiveMessage",
        "DeleteMessageBatch",
        "ChangeMessageVisibilityBatch",
        "GetQueueAttributes",
    }
)
"""What is sent by hand; all else goes by aioboto3."""

# Less is within what the service bears, and what a header of whole seconds tells.
_SKEW_THAT_MATTERS_SECONDS = 5.0

_LONGEST_PAGE_BYTES = 4096

_TARGETS = {operation: f"AmazonSQS.{operation}" for operation in HOT}
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class SignedClient:
    """Fills `client.SqsClient`."""

    def __init__(self, boto: BotoClient, connections: Connections) -> None:
        self._boto = boto
        self._connections = connections
        self._retries = _Retries(boto)
        self._signer = Signer(endpoint_url=boto.endpoint_url, region=boto.region)
        path = quote(urlsplit(boto.endpoint_url).path or "/", safe="/%:@!$&'()*+,;=~")
        self._first_lines = f"POST {path} HTTP/1.1\r\nUser-Agent: headrace\r\n"
        self._skew_seconds = 0.0
        """By how much the service's clock is ahead of ours."""
        self._timestamp: tuple[int, str] = 0, ""

    @classmethod
    @asynccontextmanager
    async def opened(cls, place: Place) -> AsyncIterator[SignedClient | BotoClient]:
        """A client, for as long as it is used; where the way leads through a proxy of the environment's, aioboto3's."""
        async with BotoClient.opened(place) as boto:
            endpoint = urlsplit(boto.endpoint_url)
            if endpoint.scheme in get_environ_proxies(boto.endpoint_url):
                yield boto
                return
            is_safe = endpoint.scheme == "https"
            connections = Connections(
                endpoint.hostname or "",
                endpoint.port or (443 if is_safe else 80),
                tls=_tls(boto) if is_safe else None,
                connect_seconds=CONNECT_SECONDS,
            )
            try:
                yield cls(boto, connections)
            finally:
                await connections.close()

    async def call(
        self, operation: str, parameters: Mapping[str, Any], *, patience_seconds: float | None = None
    ) -> dict[str, Any]:
        """See `client.SqsClient`."""
        if operation not in HOT:
            return await self._boto.call(operation, parameters, patience_seconds=patience_seconds)
        body = _encode(parameters)
        wait_seconds = waits_seconds(operation, parameters)
        if patience_seconds is None:
            return await self._tried(operation, body, wait_seconds)
        try:
            async with asyncio.timeout(patience_seconds + wait_seconds):
                return await self._tried(operation, body, wait_seconds)
        except TimeoutError:
            raise not_in_time(operation) from None

    async def _tried(self, operation: str, body: bytes, wait_seconds: int) -> dict[str, Any]:
        """Send, again and again where botocore would, and once more where what was wrong could be put right."""
        attempt = 1
        is_mended = False
        budget: dict[str, Any] = {}
        while True:
            turn, skewed_by = self._boto.turn, self._skew_seconds
            try:
                status, headers, payload = await self._sent(operation, body, wait_seconds)
            except OSError as error:
                failure = _unanswered(operation, error, self._boto.endpoint_url)
            else:
                if status == 200:
                    answer = _understood(payload)
                    if answer is not None:
                        self._retries.release(status, budget)
                        return answer
                failure = _refused(operation, status, headers, payload)
            if not is_mended and await self._mended(failure, turn, skewed_by):
                is_mended = True
                continue
            delay_seconds = self._retries.delay_seconds(operation, attempt, failure, budget)
            if delay_seconds is None:
                raise failure.error from None
            await asyncio.sleep(delay_seconds)
            attempt += 1

    async def _sent(self, operation: str, body: bytes, wait_seconds: int) -> Answer:
        keys = await self._boto.keys()
        try:
            headers = self._signer.headers(target=_TARGETS[operation], body=body, keys=keys, timestamp=self._now())
        except ValueError as error:
            raise SqsAccessError(f"{operation} of SQS can't be signed: {error}; mend it", operation=operation) from None
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"{self._first_lines}{lines}Content-Length: {len(body)}\r\n\r\n"
        return await self._connections.post(
            head.encode() + body, seconds=wait_seconds + ANSWER_SECONDS, most_bytes=most_bytes(operation)
        )

    def _now(self) -> str:
        """The time as it is signed: the service's, as far as we know."""
        second = int(time.time() + self._skew_seconds)
        if second != self._timestamp[0]:
            self._timestamp = second, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        return self._timestamp[1]

    async def _mended(self, failure: _Failure, turn: int, skewed_by: float) -> bool:
        """Whether what was wrong is put right: the time that we sign, or credentials that were replaced.

        Other calls may have seen to it meanwhile.
        """
        code = failure.error.code
        if is_clock_skewed(code, failure.message):
            ahead = skew_seconds(failure.headers.get("date"))
            if ahead is None or abs(ahead - skewed_by) < _SKEW_THAT_MATTERS_SECONDS:
                return False
            if abs(ahead - self._skew_seconds) < _SKEW_THAT_MATTERS_SECONDS:
                return True
            self._skew_seconds = ahead
            log.warning(
                "the clock here is %.0f s %s that of SQS: signing with the service's time; set the clock",
                abs(ahead),
                "behind" if ahead > 0 else "ahead of",
            )
            return True
        return are_credentials_refused(code) and await self._boto.renew(turn)


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """A call that came to nothing, as we tell it and as botocore's rules want to see it."""

    error: SqsError
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    response: Any = None
    parsed: Any = None
    caught: Exception | None = None


class _Retries:
    """Botocore's standard rules: whether a call is tried again, and after which pause."""

    def __init__(self, boto: BotoClient) -> None:
        self._boto = boto
        self._policy = RetryPolicy(
            retry_checker=StandardRetryConditions(max_attempts=boto.max_attempts or DEFAULT_MAX_ATTEMPTS),
            retry_backoff=ExponentialBackoff(),
        )
        self._capacity = RetryQuota()
        self._quota = RetryQuotaChecker(self._capacity)

    def delay_seconds(self, operation: str, attempt: int, failure: _Failure, budget: dict[str, Any]) -> float | None:
        """The pause before the next try; None: there is none."""
        context = RetryContext(
            attempt_number=attempt,
            operation_model=self._boto.operation_model(operation),
            http_response=failure.response,
            parsed_response=failure.parsed,
            caught_exception=failure.caught,
            request_context=budget,
        )
        if not (self._policy.should_retry(context) and self._quota.acquire_retry_quota(context)):
            return None
        return float(self._policy.compute_retry_delay(context))

    def release(self, status: int, budget: dict[str, Any]) -> None:
        """Give back what the tries of a call have taken, once it has succeeded."""
        if self._capacity.available_capacity == RetryQuota.INITIAL_CAPACITY:
            return
        self._quota.release_retry_quota(budget, SimpleNamespace(status_code=status))


def _understood(payload: bytes) -> dict[str, Any] | None:
    """An answer; None: it is none of SQS."""
    if not payload:
        return {}
    try:
        return _decode(payload)
    except msgspec.MsgspecError:
        return None


def _refused(operation: str, status: int, headers: Mapping[str, str], payload: bytes) -> _Failure:
    said = _understood(payload)
    if said is None and status == 200:
        # A proxy's page, say. To botocore's rules it is what a gateway in trouble answers.
        said, status = {"message": "what answered was not SQS"}, 502
    said = {"message": payload[:_LONGEST_PAGE_BYTES].decode(errors="replace")} if said is None else said
    code, message = plain(
        str(said.get("__type") or status),
        str(said.get("message") or said.get("Message") or ""),
    )
    return _Failure(
        error=translated(
            code, message, status=status, operation=operation, skew_seconds=skew_seconds(headers.get("date"))
        ),
        message=message,
        headers=headers,
        response=SimpleNamespace(status_code=status, headers=headers),
        parsed={"Error": {"Code": code, "Message": message}},
    )


def _unanswered(operation: str, error: Exception, url: str) -> _Failure:
    """No answer. Botocore's rules know its own names for it."""
    ours: SqsError = unreachable(error, operation=operation)
    match error:
        case ssl.SSLError():
            ours = SqsAccessError(
                f"TLS with SQS failed: {error}; mend the endpoint's certificate, or name its authority by "
                "AWS_CA_BUNDLE",
                operation=operation,
            )
            return _Failure(error=ours, caught=error)
        case NotTakenError():
            caught: Exception = ConnectTimeoutError(endpoint_url=url, error=error)
        case TimeoutError():
            ours = not_in_time(operation)
            caught = ReadTimeoutError(endpoint_url=url, error=error)
        case ConnectionResetError() | NotHttpError():
            caught = ConnectionClosedError(endpoint_url=url, error=error)
        case _:
            caught = EndpointConnectionError(endpoint_url=url, error=error)
    return _Failure(error=ours, caught=caught)


def _tls(boto: BotoClient) -> ssl.SSLContext:
    """The authorities that botocore trusts."""
    return ssl.create_default_context(cafile=get_cert_path(boto.ca_bundle or True))
