"""A proxy before a server of SQS's protocol: it counts calls, and does to them what networks and AWS do."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from support.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

SKEW_ALLOWED_SECONDS = 300.0
"""By how much a signature's time may be off: what SQS bears."""


@dataclass(kw_only=True)
class _Fault:
    """Something that is done to the next calls of an operation."""

    operation: str | None
    times: float
    of: str
    """What must stand in the request, such as a queue's URL; whatever it is, where this is empty."""
    act: Callable[[_Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A request, read."""

    operation: str
    request: web.Request
    body: bytes
    forward: Callable[[bytes], Awaitable[web.Response]]


class AwsProxy:
    """Forwards to an endpoint of AWS's JSON protocol.

    Parameters
    ----------
    endpoint_url
        Where to. A server that takes a queue's name from the path of its URL won't mind the proxy's port in it.
    """

    def __init__(self, endpoint_url: str) -> None:
        self.port = free_port()
        self.calls: Counter[str] = Counter()
        """Calls that came, by operation."""
        self.under_way: Counter[str] = Counter()
        """Those that are not answered yet."""
        self.clock_ahead_seconds = 0.0
        """By how much the server's clock is ahead of ours. What is signed for another time is refused."""
        self.delay_seconds = 0.0
        """What is added to each call."""
        self.refused_keys: dict[str, str] = {}
        """By access key id: the code with which AWS refuses it."""
        self._target = endpoint_url
        self._faults: list[_Fault] = []
        self._session: aiohttp.ClientSession
        self._came = asyncio.Condition()

    @property
    def endpoint_url(self) -> str:
        """For clients of AWS."""
        return f"http://127.0.0.1:{self.port}"

    def answer(
        self,
        status: int,
        code: str,
        message: str = "",
        *,
        operation: str | None = None,
        times: float = 1,
        of: str = "",
    ) -> None:
        """Refuse the next calls with an error, forwarding nothing; `of`: only those in which this stands."""

        async def act(_: _Call) -> web.StreamResponse:
            return self._error(status, code, message)

        self._faults.append(_Fault(operation=operation, times=times, of=of, act=act))

    def answer_page(self, status: int, page: str, *, operation: str | None = None, times: float = 1) -> None:
        """Answer the next calls with something that is no answer of AWS's."""

        async def act(_: _Call) -> web.StreamResponse:
            return web.Response(status=status, text=page, content_type="text/html")

        self._faults.append(_Fault(operation=operation, times=times, of="", act=act))

    def cut(self, *, operation: str | None = None, times: float = 1, is_done: bool = False) -> None:
        """Break the connection instead of answering the next calls; `is_done`: after the server has done it."""

        async def act(call: _Call) -> web.StreamResponse:
            if is_done:
                await call.forward(call.body)
            transport = call.request.transport
            assert transport is not None
            transport.abort()
            return web.Response()

        self._faults.append(_Fault(operation=operation, times=times, of="", act=act))

    def slow(self, seconds: float, *, operation: str | None = None, times: float = 1, of: str = "") -> None:
        """Answer the next calls only after a while; they are done at once. `of`: only those in which this stands."""

        async def act(call: _Call) -> web.StreamResponse:
            answer = await call.forward(call.body)
            await asyncio.sleep(seconds)
            return answer

        self._faults.append(_Fault(operation=operation, times=times, of=of, act=act))

    def fail_entries(
        self,
        operation: str,
        is_failing: Callable[[dict[str, Any]], bool],
        *,
        code: str = "InternalError",
        is_sender_fault: bool = False,
        times: float = 1,
    ) -> None:
        """Let some entries of the next batches fail; the others are done."""

        async def act(call: _Call) -> web.StreamResponse:
            said = json.loads(call.body)
            failing = [entry for entry in said["Entries"] if is_failing(entry)]
            said["Entries"] = [entry for entry in said["Entries"] if not is_failing(entry)]
            answer: dict[str, Any] = {}
            if said["Entries"]:
                answered = await call.forward(json.dumps(said).encode())
                assert isinstance(answered.body, bytes)
                answer = json.loads(answered.body)
            answer.setdefault("Failed", []).extend(
                {"Id": entry["Id"], "SenderFault": is_sender_fault, "Code": code, "Message": "injected"}
                for entry in failing
            )
            answer.setdefault("Successful", [])
            return web.json_response(answer, content_type="application/x-amz-json-1.0")

        self._faults.append(_Fault(operation=operation, times=times, of="", act=act))

    async def until_under_way(self, operation: str, number: int) -> None:
        """Wait until so many calls of an operation are under way."""
        async with self._came:
            await self._came.wait_for(lambda: self.under_way[operation] >= number)

    def heal(self) -> None:
        """Do nothing to calls any more."""
        self._faults.clear()
        self.delay_seconds = self.clock_ahead_seconds = 0.0
        self.refused_keys.clear()

    def _error(self, status: int, code: str, message: str) -> web.Response:
        return web.json_response(
            {"__type": f"com.amazonaws.sqs#{code}", "message": message},
            status=status,
            content_type="application/x-amz-json-1.0",
            headers={"Date": formatdate(time.time() + self.clock_ahead_seconds, usegmt=True)},
        )

    def _refusal(self, request: web.Request) -> web.Response | None:
        now = time.time() + self.clock_ahead_seconds
        signed_at = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if abs(signed_at.timestamp() - now) > SKEW_ALLOWED_SECONDS:
            said = "Signature expired" if signed_at.timestamp() < now else "Signature not yet current"
            return self._error(403, "InvalidSignatureException", f"{said}: {signed_at:%Y%m%dT%H%M%SZ}")
        for key, code in self.refused_keys.items():
            if f"Credential={key}/" in request.headers["Authorization"]:
                return self._error(403, code, "The security token included in the request is expired")
        return None

    def _next_fault(self, operation: str, body: bytes) -> _Fault | None:
        for fault in self._faults:
            if fault.operation in {None, operation} and fault.times > 0 and fault.of.encode() in body:
                fault.times -= 1
                return fault
        return None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        self.calls[operation] += 1
        self.under_way[operation] += 1
        async with self._came:
            self._came.notify_all()
        try:
            if refusal := self._refusal(request):
                return refusal
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)

            async def forward(body: bytes) -> web.Response:
                return await self._forwarded(request, body)

            fault = self._next_fault(operation, body)
            if fault is not None:
                return await fault.act(_Call(operation=operation, request=request, body=body, forward=forward))
            return await forward(body)
        finally:
            self.under_way[operation] -= 1

    async def _forwarded(self, request: web.Request, body: bytes) -> web.Response:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in {"content-length", "host", "expect", "accept-encoding"}
        }
        async with self._session.post(self._target + request.path, data=io.BytesIO(body), headers=headers) as answer:
            kept = {
                name: value for name, value in answer.headers.items() if name.lower().startswith(("x-amz", "content-t"))
            }
            kept["Date"] = formatdate(time.time() + self.clock_ahead_seconds, usegmt=True)
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AwsProxy]:
        """Forward, until left."""
        application = web.Application(client_max_size=16 * 1024 * 1024)
        application.router.add_post("/{path:.*}", self._serve)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=True) as self._session:
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            try:
                yield self
            finally:
                await runner.cleanup()
