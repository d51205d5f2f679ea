"""Calls of the service by aioboto3: its endpoints, credentials, signatures, tries and errors are botocore's."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import aioboto3
from aiobotocore.config import AioConfig
from botocore import xform_name
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    InvalidConfigError,
    InvalidRegionError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import (
    ConnectionError as NoConnectionError,
)

from headrace.queues.sqs.bounded import BoundedSession
from headrace.queues.sqs.errors import (
    SqsAccessError,
    SqsError,
    are_credentials_refused,
    not_in_time,
    translated,
    unreachable,
)
from headrace.queues.sqs.place import MAX_WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from headrace.queues.sqs.place import Place
    from headrace.queues.sqs.signing import Keys

log = logging.getLogger(__name__)

CONNECT_SECONDS = 4.0
"""How long an endpoint may take to take a connection."""
ANSWER_SECONDS = 10.0
"""How long it may take to answer, beyond what a receive waits."""
_PATIENCE_SECONDS = 40.0
"""How long a call may take in all, tries included, where nobody says otherwise."""
_CONNECTIONS = 100
_RENEWAL_SECONDS = 30.0
"""How often credentials that are refused are looked for anew."""

_NO_CREDENTIALS = (
    CredentialRetrievalError,
    InvalidConfigError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)


def waits_seconds(operation: str, parameters: Mapping[str, Any]) -> int:
    """How long the service itself may hold back its answer. Where a receive doesn't say, the queue has a wait."""
    return int(parameters.get("WaitTimeSeconds", MAX_WAIT_SECONDS)) if operation == "ReceiveMessage" else 0


def skew_seconds(date: str | None) -> float | None:
    """By how much the server's clock is ahead of ours, by the header ``Date`` of its answer."""
    try:
        return parsedate_to_datetime(date).timestamp() - time.time() if date else None
    except ValueError:
        return None


@contextmanager
def our_errors(operation: str) -> Iterator[None]:
    """Let nothing of botocore's pass."""
    try:
        yield
    except ClientError as error:
        said = error.response.get("Error", {})
        answer = error.response.get("ResponseMetadata", {})
        raise translated(
            said.get("Code", ""),
            said.get("Message", ""),
            status=answer.get("HTTPStatusCode"),
            operation=error.operation_name,
            skew_seconds=skew_seconds(answer.get("HTTPHeaders", {}).get("date")),
        ) from None
    except _NO_CREDENTIALS as error:
        raise translated("NoCredentials", str(error), operation=operation) from None
    except SSLError as error:
        raise SqsAccessError(
            f"TLS with SQS failed: {error}; mend the endpoint's certificate, or name its authority by AWS_CA_BUNDLE",
            operation=operation,
        ) from None
    except (NoConnectionError, HTTPClientError) as error:
        raise unreachable(error, operation=operation) from None
    except (BotoCoreError, InvalidRegionError, ValueError) as error:
        # What was to be sent is nothing that could be: parameters, a region's or an endpoint's name.
        said = " ".join(str(error).split())
        raise SqsError(f"{operation or 'a client'} of SQS can't be made: {said}", operation=operation) from None


class BotoClient:
    """Fills `client.SqsClient`, and lends what it knows to whoever sends by hand."""

    def __init__(self, place: Place, stack: AsyncExitStack) -> None:
        self._place = place
        self._stack = stack
        self._session: Any = None
        self._client: Any = None
        self._credentials: Any = None
        self._renewing = asyncio.Lock()
        self._renewed_at = time.monotonic()
        self.turn = 0
        """Which client it is that calls: another one after credentials were found or replaced."""

    @classmethod
    @asynccontextmanager
    async def opened(cls, place: Place) -> AsyncIterator[BotoClient]:
        """A client, for as long as it is used."""
        async with AsyncExitStack() as stack:
            client = cls(place, stack)
            with our_errors(""):
                await client._open(client._new_session())
            yield client

    async def call(
        self, operation: str, parameters: Mapping[str, Any], *, patience_seconds: float | None = None
    ) -> dict[str, Any]:
        """See `client.SqsClient`."""
        patience = _PATIENCE_SECONDS if patience_seconds is None else patience_seconds
        try:
            async with asyncio.timeout(patience + waits_seconds(operation, parameters)):
                turn = self.turn
                try:
                    return await self._called(operation, parameters)
                except SqsError as error:
                    if not (are_credentials_refused(error.code) and await self.renew(turn)):
                        raise
                    return await self._called(operation, parameters)
        except TimeoutError:
            raise not_in_time(operation) from None

    async def keys(self) -> Keys:
        """The credentials as they are now; botocore has renewed them where it is time.

        Raises
        ------
        SqsAccessError
            When there are none, or they can't be renewed.
        """
        with our_errors(""):
            if self._credentials is None:
                await self._look_again()
            try:
                keys: Keys = await self._credentials.get_frozen_credentials()
            except RuntimeError as error:
                # So botocore says that even new ones have expired.
                raise translated("ExpiredToken", str(error)) from None
            return keys

    async def renew(self, turn: int) -> bool:
        """Look for other credentials, after those of this turn were refused; whether there are any."""
        async with self._renewing:
            if turn != self.turn:
                return True  # Others that were refused have found them meanwhile.
            if self._place.credentials is not None or time.monotonic() < self._renewed_at + _RENEWAL_SECONDS:
                return False
            self._renewed_at = time.monotonic()
            session = self._new_session()
            before = await self.keys()
            with our_errors(""):
                credentials = await session.get_credentials()
                if credentials is None or await credentials.get_frozen_credentials() == before:
                    return False
                await self._open(session)
            log.info("the credentials for SQS were refused: going on with others")
            return True

    @property
    def endpoint_url(self) -> str:
        """Where the service is, by botocore's rules: options, environment, files, the region, FIPS, dual stack."""
        return str(self._client.meta.endpoint_url)

    @property
    def region(self) -> str:
        """The one to sign for."""
        return str(self._client.meta.region_name)

    @property
    def max_attempts(self) -> int | None:
        """How often a call is tried at the most, where the environment says so."""
        attempts: int | None = self._client.meta.config.retries.get("total_max_attempts")
        return attempts

    @property
    def ca_bundle(self) -> str | None:
        """A file of authorities, where the environment or a file of AWS's names one."""
        bundle: str | None = self._session._session.get_config_variable("ca_bundle")  # noqa: SLF001 - boto3 has no other way
        return bundle

    def operation_model(self, operation: str) -> Any:
        """What botocore knows of an operation."""
        return self._client.meta.service_model.operation_model(operation)

    def _new_session(self) -> Any:
        credentials = self._place.credentials
        if credentials is None:
            return aioboto3.Session(region_name=self._place.region)
        return aioboto3.Session(
            aws_access_key_id=credentials.access_key_id,
            aws_secret_access_key=credentials.secret_access_key,
            aws_session_token=credentials.session_token,
            region_name=self._place.region,
        )

    async def _open(self, session: Any) -> None:
        """Make a client. One that was there before goes on until all is closed: somebody may be using it."""
        self._client = await self._stack.enter_async_context(
            session.client(
                "sqs",
                endpoint_url=self._place.endpoint_url,
                config=AioConfig(
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=MAX_WAIT_SECONDS + ANSWER_SECONDS,
                    max_pool_connections=_CONNECTIONS,
                    retries={"mode": "standard"},
                    user_agent_extra="headrace",
                    http_session_cls=BoundedSession,
                ),
            )
        )
        self._session = session
        self._credentials = await session.get_credentials()
        self.turn += 1

    async def _look_again(self) -> None:
        """Find credentials where there were none: a client that was made without never looks for them itself."""
        if await self._session.get_credentials() is None:
            raise NoCredentialsError
        await self._open(self._session)

    async def _called(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        with our_errors(operation):
            if self._credentials is None:
                await self._look_again()
            answer: dict[str, Any] = await getattr(self._client, xform_name(operation))(**parameters)
        answer.pop("ResponseMetadata", None)
        return answer
