"""Answers to aioboto3 that end: an endpoint may be anybody's, and say more than a process has room for."""

from __future__ import annotations

from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession
from botocore.exceptions import ConnectionClosedError, HTTPClientError, ReadTimeoutError

from headrace.queues.sqs.connections import most_bytes

_CHUNK_BYTES = 64 * 1024


class BoundedSession(AIOHTTPSession):  # type: ignore[misc] # aiobotocore has no types
    """Reads no more than an answer may have."""

    async def send(self, request: Any) -> Any:
        """Send a request, and read its whole answer.

        Raises
        ------
        HTTPClientError
            When it is longer than `most_bytes`, or ends before its end: botocore's own names for it.
        """
        operation = str(request.headers.get("X-Amz-Target", "")).rpartition(".")[2]
        request.stream_output = True
        answer = await super().send(request)
        body = bytearray()
        try:
            async for chunk in answer.raw.content.iter_chunked(_CHUNK_BYTES):
                body += chunk
                if len(body) > most_bytes(operation):
                    raise HTTPClientError(error=ValueError("what answered says more than SQS would"))
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=request.url, error=error) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionClosedError(endpoint_url=request.url, error=error) from None
        finally:
            # One that was read to its end is back where it came from: this does nothing to it.
            answer.raw.close()
        answer._content = bytes(body)  # noqa: SLF001 - where it would have put it itself
        return answer
