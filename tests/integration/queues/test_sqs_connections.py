"""HTTP by hand: answers however they come, and whatever is none."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from headrace.queues.sqs.connections import Connections, NotHttpError
from support.certificates import Authority
from support.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

REQUEST = b"POST / HTTP/1.1\r\nHost: sqs\r\nContent-Length: 0\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Amzn-RequestId: 7\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: 1\r\n\r\n"
UNTIL_THE_END = b"HTTP/1.0 200 OK\r\n\r\nhello"


class Server:
    """Answers each request with the same bytes, cut where it is told."""

    def __init__(self, answer: bytes, *, cuts: tuple[int, ...] = (), ends: bool = False) -> None:
        self.connections = 0
        self.requests = 0
        self._answer = answer
        self._cuts = cuts
        self._ends = ends
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                for start, end in zip((0, *self._cuts), (*self._cuts, len(self._answer)), strict=True):
                    writer.write(self._answer[start:end])
                    await writer.drain()
                    await asyncio.sleep(0.001)
                if self._ends:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    @asynccontextmanager
    async def connections_to(self) -> AsyncIterator[Connections]:
        port = free_port()
        server = await asyncio.start_server(self.serve, "127.0.0.1", port)
        connections = Connections("127.0.0.1", port, tls=None, connect_seconds=5)
        try:
            yield connections
        finally:
            await connections.close()
            server.close()


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED, UNTIL_THE_END], ids=["plain", "chunked", "until the end"])
@pytest.mark.parametrize("cuts", [(), (1,), (20, 40), tuple(range(1, 30))])
async def test_an_answer_is_understood_however_it_is_cut(answer: bytes, cuts: tuple[int, ...]) -> None:
    server = Server(answer, cuts=tuple(cut for cut in cuts if cut < len(answer)), ends=answer is UNTIL_THE_END)
    async with server.connections_to() as connections:
        for _ in range(2):
            answered = await connections.post(REQUEST, seconds=5)
            assert (answered.status, answered.body) == (200, b"hello")


async def test_a_connection_is_kept_for_the_next_request() -> None:
    server = Server(PLAIN)
    async with server.connections_to() as connections:
        for _ in range(5):
            assert (await connections.post(REQUEST, seconds=5)).headers["x-amzn-requestid"] == "7"
    assert (server.connections, server.requests) == (1, 5)


async def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    server = Server(PLAIN, cuts=(10,))
    async with server.connections_to() as connections:
        await asyncio.gather(*(connections.post(REQUEST, seconds=5) for _ in range(20)))
        assert server.connections == 20
        await asyncio.gather(*(connections.post(REQUEST, seconds=5) for _ in range(20)))
    assert server.connections == 20


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        PLAIN + b"and more",
    ],
)
async def test_a_connection_that_does_not_go_on_is_not_kept(answer: bytes) -> None:
    server = Server(answer)
    async with server.connections_to() as connections:
        for _ in range(2):
            assert (await connections.post(REQUEST, seconds=5)).status == 200
    assert server.connections == 2


async def test_what_comes_before_the_answer_is_passed_over() -> None:
    async with Server(b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN).connections_to() as connections:
        assert (await connections.post(REQUEST, seconds=5)).body == b"hello"


async def test_an_answer_without_a_body_has_none() -> None:
    async with Server(b"HTTP/1.1 204 No Content\r\n\r\n").connections_to() as connections:
        assert (await connections.post(REQUEST, seconds=5)).body == b""


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
)
async def test_what_is_no_answer_is_refused_at_once(answer: bytes) -> None:
    async with Server(answer).connections_to() as connections:
        with pytest.raises(NotHttpError, match="does not speak HTTP"):
            await connections.post(REQUEST, seconds=30)


async def test_an_answer_that_breaks_off_is_none() -> None:
    async with Server(PLAIN[:-1], ends=True).connections_to() as connections:
        with pytest.raises(ConnectionResetError):
            await connections.post(REQUEST, seconds=5)


async def test_a_request_that_is_given_up_takes_its_connection_along() -> None:
    server = Server(PLAIN[:-1])
    async with server.connections_to() as connections:
        with pytest.raises(TimeoutError):
            await connections.post(REQUEST, seconds=0.1)
        asking = asyncio.create_task(connections.post(REQUEST, seconds=5))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        with pytest.raises(TimeoutError):
            await connections.post(REQUEST, seconds=0.1)
    assert server.connections == 3


async def test_whoever_is_not_trusted_is_told_nothing(tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.sign(address="127.0.0.1")
    (tmp_path / "certificate").write_bytes(pair.certificate)
    (tmp_path / "key").write_bytes(pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    port = free_port()
    server = Server(PLAIN)
    serving = await asyncio.start_server(server.serve, "127.0.0.1", port, ssl=context)
    trusting = ssl.create_default_context(cadata=authority.certificate)
    for tls, is_trusted in [(trusting, True), (ssl.create_default_context(), False)]:
        connections = Connections("127.0.0.1", port, tls=tls, connect_seconds=5)
        if is_trusted:
            assert (await connections.post(REQUEST, seconds=5)).body == b"hello"
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                await connections.post(REQUEST, seconds=5)
        await connections.close()
    serving.close()
    assert server.requests == 1
