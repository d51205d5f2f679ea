"""Jobs as HTTP requests, for servers in any language.

One POST per job: the payload is the body, the rest stands in ``Headrace-Job-*`` headers, and the response's status is
the outcome. A 2xx completes the job; a 4xx gives it up (dead-letter queue), but for 408, 409, 425 and 429, which like
all else retry it. The first part of a response's body is kept as the error.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp
from yarl import URL

from headrace import trace_context
from headrace.job import BYTES_CONTENT_TYPE
from headrace.runtime.handlers import DEFAULT_TERMS, HandlerError, Terms
from headrace.runtime.outcome import COMPLETED, MAX_ERROR_LENGTH, REJECTED, Failed, GivenUp, Interrupted, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from headrace.app import Context
    from headrace.job import Job

CONNECT_PATIENCE_SECONDS = 30.0
"""A server that can't be reached may be starting, or restarting: nothing was sent, so nothing is lost by waiting."""

MAX_RETRY_AFTER_SECONDS = 86_400.0
"""What a server may ask for is no longer than a day."""

# These refuse for good. Any other may pass: a deploy answers 404 for a while, a proxy 401 or 403.
_REJECTING = frozenset({400, 410, 413, 415, 422})

_CONNECT_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.05
_LAST_PAUSE_SECONDS = 1.0

# What of a response's body is waited for: enough for an error, and to use the connection again.
_BODY_BYTES = 64 * 1024
_KEPT_BYTES = 4 * MAX_ERROR_LENGTH
_BODY_SECONDS = 5.0

# A server that vanished without a word is noticed within about half a minute.
_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000))

_SAFE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_HARMLESS = re.compile(r"[!-~]([ -~]*[!-~])?")

# Whether a request in this context had to make a connection, rather than take one that was there.
_connected: ContextVar[list[bool]] = ContextVar("_connected")


class HttpHandler:
    """Sends each job to a server.

    Connections are kept and used again. One that the server closed at the very moment in which it was used again says
    nothing about the job: the request is sent once more, which at-least-once delivery allows. On a connection of its
    own a request is never repeated.

    Parameters
    ----------
    url
        Where to POST.
    ca_certificates
        PEM of the authorities to trust. Defaults to those of the system.
    connect_patience_seconds
        How long to go on trying to reach the server before an attempt has failed.

    Raises
    ------
    HandlerError
        When the URL or the certificates are none.
    """

    def __init__(
        self,
        url: str,
        *,
        ca_certificates: str | None = None,
        connect_patience_seconds: float = CONNECT_PATIENCE_SECONDS,
    ) -> None:
        self._url = _checked(url)
        if ca_certificates is not None and self._url.scheme != "https":
            raise HandlerError(
                f"http: CA certificates need https://, and the URL is {self._url}: change it, or give none"
            )
        self._tls = _tls(ca_certificates)
        self._connect_patience_seconds = connect_patience_seconds
        self._session: aiohttp.ClientSession | None = None
        self._draining = asyncio.Event()

    def terms(self, name: str) -> Terms:  # noqa: ARG002 - the server itself decides by Headrace-Job-Name
        """See `Handler`."""
        return DEFAULT_TERMS

    async def run(self, job: Job, context: Callable[[], Context]) -> Outcome:  # noqa: ARG002
        """See `Handler`."""
        if self._session is None:
            self._session = _session(self._tls)
        headers = request_headers(job)
        loop = asyncio.get_running_loop()
        gives_up_at = 0.0
        pause = _FIRST_PAUSE_SECONDS
        is_repeated = False
        while True:
            connected: list[bool] = []
            _connected.set(connected)
            try:
                return await self._post(self._session, job.payload, headers)
            except aiohttp.ClientSSLError as error:
                return Failed(f"the server can't be trusted: {_described(error)}")
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                if self._draining.is_set():
                    return Interrupted(f"the server was gone while the worker drained: {_described(error)}")
                gives_up_at = gives_up_at or loop.time() + self._connect_patience_seconds
                if loop.time() + pause > gives_up_at:
                    return Failed(f"the server can't be reached: {_described(error)}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._draining.wait()
                pause = min(pause * 2, _LAST_PAUSE_SECONDS)
            except (aiohttp.ClientConnectionError, ConnectionError) as error:
                if self._draining.is_set():
                    return Interrupted(f"the server went while the worker drained: {_described(error)}")
                if connected or is_repeated:
                    return Failed(f"the server closed the connection without an answer: {_described(error)}")
                is_repeated = True
            except aiohttp.ClientError as error:
                return Failed(f"the server's answer is no HTTP: {_described(error)}")

    async def _post(self, session: aiohttp.ClientSession, payload: bytes, headers: Mapping[str, str]) -> Outcome:
        async with session.post(self._url, data=payload, headers=headers, allow_redirects=False) as response:
            body = await _beginning(response)
            if 200 <= response.status < 300:
                return COMPLETED
            return _outcome(response.status, response.reason or "", response.headers, body)

    def drain(self) -> None:
        """See `Handler`."""
        self._draining.set()

    async def close(self) -> None:
        """See `Handler`."""
        if self._session is not None:
            await self._session.close()


def request_headers(job: Job) -> dict[str, str]:
    """What is said of a job beside its payload.

    Values are percent-encoded where they hold a percent sign, anything but printable ASCII, or a space at either end.
    The job's own headers are one JSON object in ASCII; trace context also stands in the headers that are meant for it.
    """
    headers = {
        "User-Agent": "headrace",
        "Content-Type": _encoded(job.content_type) or BYTES_CONTENT_TYPE,
        "Headrace-Job-Id": _encoded(job.id),
        "Headrace-Job-Queue": _encoded(job.queue),
        "Headrace-Job-Name": _encoded(job.name),
        "Headrace-Job-Attempt": str(job.attempt),
        "Headrace-Job-Priority": str(job.priority),
        "Headrace-Job-Enqueued-At": job.enqueued_at.isoformat(),
    }
    if job.group is not None:
        headers["Headrace-Job-Group"] = _encoded(job.group)
    if job.deduplication_key is not None:
        headers["Headrace-Job-Deduplication-Key"] = _encoded(job.deduplication_key)
    if job.fairness_key is not None:
        headers["Headrace-Job-Fairness-Key"] = _encoded(job.fairness_key)
    if job.expires_at is not None:
        headers["Headrace-Job-Expires-At"] = job.expires_at.isoformat()
    trace = {"baggage": job.headers.get("baggage", ""), **trace_context.of(job)}
    headers |= {name: value for name, value in trace.items() if _HARMLESS.fullmatch(value)}
    if job.headers:
        # JSON leaves DEL as it is.
        headers["Headrace-Job-Headers"] = json.dumps(dict(job.headers)).replace("\x7f", "\\u007f")
    return headers


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """How long a ``Retry-After`` asks to wait, in seconds or until a date; None where it says nothing that counts."""
    if value is None:
        return None
    if value.strip().isdecimal():
        # Digits without end are more than a float holds, and more than anybody waits.
        seconds = float(value.strip()[:12])
    else:
        try:
            moment = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _outcome(status: int, reason: str, headers: Mapping[str, str], body: str) -> Outcome:
    answered = f"status {status} {reason}".strip()
    if 300 <= status < 400:
        location = headers.get("Location", "")
        return Failed(f"{answered}: redirects are not followed; give the URL where they lead: {location[:200]}")
    report = f"{answered}: {body}" if body else answered
    if status in _REJECTING:
        return GivenUp(REJECTED, error=report)
    return Failed(report, delay_seconds=retry_after_seconds(headers.get("Retry-After"), datetime.now(UTC)))


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """The first part of a body. The status has been said: a body that can't be read changes nothing of it."""
    content = response.content
    if content.at_eof():
        return ""
    kept = b""
    left = _BODY_BYTES
    with contextlib.suppress(TimeoutError, aiohttp.ClientError, ConnectionError):
        async with asyncio.timeout(_BODY_SECONDS):
            while left > 0 and not content.at_eof():
                chunk = await content.readany()
                left -= len(chunk)
                kept = (kept + chunk)[:_KEPT_BYTES]
    # A connection with more to come is closed, not kept.
    return kept.decode("utf-8", "replace")[:MAX_ERROR_LENGTH].strip()


def _encoded(text: str) -> str:
    if _HARMLESS.fullmatch(text) and "%" not in text:
        return text
    return quote(text, safe=_SAFE if text == text.strip(" ") else _SAFE.replace(" ", ""), errors="replace")


def _described(error: Exception) -> str:
    return str(error) or type(error).__name__


def _session(tls: ssl.SSLContext) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        # The worker's slots are the limit.
        connector=aiohttp.TCPConnector(limit=0, ssl=tls, socket_factory=_socket),
        cookie_jar=aiohttp.DummyCookieJar(),
        # How long a job may take is the worker's to say.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding"),
    )


def _socket(address: tuple[Any, ...]) -> socket.socket:
    _connected.get().append(True)
    made = socket.socket(*address[:3])
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def _tls(ca_certificates: str | None) -> ssl.SSLContext:
    if ca_certificates is None:
        return ssl.create_default_context()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        tls.load_verify_locations(cadata=ca_certificates)
    except (ssl.SSLError, ValueError) as error:
        raise HandlerError(f"http: the CA certificates are no PEM: {error}") from None
    return tls


def _checked(url: str) -> URL:
    example = "such as http://127.0.0.1:8000/jobs"
    # First: whatever else is wrong with it, a password isn't said again.
    if "@" in url.partition("//")[2].partition("/")[0]:
        raise HandlerError(
            "http: the URL must have no user and no password: they would stand in the environment and in manifests; "
            "let the server trust the worker's network, or put a proxy that adds them between the two"
        )
    try:
        parsed = URL(url)
    except ValueError as error:
        raise HandlerError(f"http: {url[:200]!r} is no URL ({error}): give one {example}") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise HandlerError(f"http: {url[:200]!r} must begin with http:// or https:// and a host, {example}")
    if parsed.fragment:
        raise HandlerError(f"http: {url[:200]!r} must have no fragment: no server sees it; remove #{parsed.fragment}")
    return parsed
