"""The http handler against real servers: what is sent, what each answer means, and what a lost connection means."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from headrace import new_job
from headrace.metrics import Metrics
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.memory import MemoryBackend, MemoryQueue
from headrace.runtime.handlers import HandlerError
from headrace.runtime.handlers.http import HttpHandler
from headrace.runtime.outcome import COMPLETED, REJECTED, Failed, GivenUp, Interrupted
from headrace.runtime.worker import Worker
from support.certificates import Authority
from support.jobs import job
from support.postgres import free_port
from support.raw_http import OK, Request, raw_server
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from headrace.runtime.outcome import Outcome

    Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]
    Made = Callable[..., HttpHandler]


@pytest.fixture
async def made() -> AsyncIterator[Made]:
    """Make handlers that are closed at the end, with no patience for a server that isn't there unless told so."""
    handlers: list[HttpHandler] = []

    def make(url: str, **options: Any) -> HttpHandler:
        handlers.append(HttpHandler(url, **{"connect_patience_seconds": 0.0, **options}))
        return handlers[-1]

    yield make
    for handler in handlers:
        await handler.close()


async def run(handler: HttpHandler, **fields: Any) -> Outcome:
    return await handler.run(job(**fields), lambda: pytest.fail("a server has no use for a context"))


def answering(*parts: bytes) -> Answer:
    """Answer every request with these bytes."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


def response(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def close(writer: asyncio.StreamWriter, *, reset: bool = False) -> None:
    if reset:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


async def test_a_job_is_one_post_with_its_payload_as_the_body(made: Made) -> None:
    async with raw_server(answering(OK)) as server:
        payload = bytes(range(256)) * 4096
        sent = {"payload": payload, "name": "größe\r\nX-Admin: yes", "headers": {"traceparent": "00-1", "é": "\r\n"}}
        assert await run(made(server.url), **sent) is COMPLETED
    [request] = server.requests
    assert request.line == "POST /jobs?kind=a%20b HTTP/1.1"
    assert request.body == payload
    assert request.header("Content-Type") == "application/json"
    assert request.header("Headrace-Job-Name") == "gr%C3%B6%C3%9Fe%0D%0AX-Admin: yes"
    assert request.header("X-Admin") is None
    assert request.header("traceparent") == "00-1"
    assert request.header("Headrace-Job-Headers") == '{"traceparent": "00-1", "\\u00e9": "\\r\\n"}'
    assert request.header("Host") == f"127.0.0.1:{server.port}"
    assert request.header("Accept-Encoding") is None


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (response("200 OK", b"done"), COMPLETED),
        (response("202 Accepted"), COMPLETED),
        (b"HTTP/1.1 204 No Content\r\n\r\n", COMPLETED),
        (response("299 Odd"), COMPLETED),
        (response("400 Bad Request", b"no picture"), GivenUp(REJECTED, error="status 400 Bad Request: no picture")),
        (response("404 Not Found"), Failed("status 404 Not Found")),
        (response("403 Forbidden"), Failed("status 403 Forbidden")),
        (response("410 Gone"), GivenUp(REJECTED, error="status 410 Gone")),
        (response("422", b"\xff"), GivenUp(REJECTED, error="status 422: \N{REPLACEMENT CHARACTER}")),
        (response("408 Request Timeout"), Failed("status 408 Request Timeout")),
        (response("409 Conflict", b"locked"), Failed("status 409 Conflict: locked")),
        (response("425 Too Early"), Failed("status 425 Too Early")),
        (response("429 Slow", b"", "Retry-After: 7"), Failed("status 429 Slow", delay_seconds=7.0)),
        (response("500 Oops", b"disk on fire\n"), Failed("status 500 Oops: disk on fire")),
        (response("503 Busy", b"", "Retry-After: soon"), Failed("status 503 Busy")),
        (
            response("302 Found", b"", "Location: /other"),
            Failed("status 302 Found: redirects are not followed; give the URL where they lead: /other"),
        ),
    ],
)
async def test_the_status_decides(made: Made, answer: bytes, outcome: Outcome) -> None:
    async with raw_server(answering(answer)) as server:
        assert await run(made(server.url)) == outcome
    assert len(server.requests) == 1


async def test_what_is_no_http_is_a_failure(made: Made) -> None:
    async with raw_server(answering(b"220 smtp.example ready\r\n\r\n")) as server:
        outcome = await run(made(server.url))
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("the server's answer is no HTTP")


@pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
async def test_of_an_endless_body_the_beginning_is_read_and_the_connection_closed(made: Made, status: str) -> None:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while True:
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)

    async with raw_server(answer) as server:
        outcome = await run(made(server.url))
        await eventually(lambda: server.closed_by_client == 1, what="closed")
    assert outcome == (COMPLETED if status == "200 OK" else Failed("status 500 Oops: " + "x" * 4000))


@pytest.mark.parametrize(
    ("status", "outcome"), [("200 OK", COMPLETED), ("500 Oops", Failed("status 500 Oops: beginning"))]
)
@pytest.mark.parametrize("end", ["stalls", "closes", "resets"])
async def test_a_body_that_never_ends_changes_nothing_of_its_status(
    made: Made, monkeypatch: pytest.MonkeyPatch, status: str, outcome: Outcome, end: str
) -> None:
    monkeypatch.setattr("headrace.runtime.handlers.http._BODY_SECONDS", 0.2 if end == "stalls" else 60.0)

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 100\r\n\r\nbeginning".encode())
        await writer.drain()
        if end == "stalls":
            await asyncio.Event().wait()
        await asyncio.sleep(0.1)
        close(writer, reset=end == "resets")

    async with raw_server(answer) as server:
        assert await run(made(server.url)) == outcome


async def test_connections_are_kept_and_used_again(made: Made) -> None:
    head, body = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"done"

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        # As most servers do: in two packets.
        writer.write(head)
        await writer.drain()
        await asyncio.sleep(0.001)
        writer.write(body)

    async with raw_server(answer) as server:
        handler = made(server.url)

        async def several() -> None:
            for _ in range(50):
                assert await run(handler) is COMPLETED

        await asyncio.gather(*(several() for _ in range(4)))
        assert len(server.requests) == 200
        assert server.accepted == 4


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_kept_connection_that_the_server_closes_in_that_moment_costs_no_attempt(
    made: Made, *, reset: bool
) -> None:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) == 2:
            close(writer, reset=reset)
        else:
            writer.write(OK)

    async with raw_server(answer) as server:
        handler = made(server.url)
        assert await run(handler) is COMPLETED
        assert await run(handler) is COMPLETED
        assert [request.connection for request in server.requests] == [1, 1, 2]


async def test_connections_closed_while_nothing_was_sent_are_replaced(made: Made) -> None:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.05)
        close(writer)

    async with raw_server(answer) as server:
        handler = made(server.url)
        for _ in range(3):
            assert await run(handler) is COMPLETED
            await asyncio.sleep(0.2)
        assert [request.connection for request in server.requests] == [1, 2, 3]


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_new_connection_closed_without_an_answer_is_a_failure_and_nothing_is_repeated(
    made: Made, *, reset: bool
) -> None:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        close(writer, reset=reset)

    async with raw_server(answer) as server:
        outcome = await run(made(server.url))
        assert isinstance(outcome, Failed)
        assert outcome.error.startswith("the server closed the connection without an answer: ")
        assert len(server.requests) == 1


async def test_what_is_repeated_is_repeated_once(made: Made) -> None:
    both = asyncio.Event()

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) > 2:
            close(writer)
            return
        if len(server.requests) == 2:
            both.set()
        # Two connections are in use at once, so that two are kept.
        await both.wait()
        writer.write(OK)

    async with raw_server(answer) as server:
        handler = made(server.url)
        assert set(await asyncio.gather(run(handler), run(handler))) == {COMPLETED}
        assert isinstance(await run(handler), Failed)
        assert [request.connection for request in server.requests[:2]] == [1, 2]
        assert len(server.requests) == 4


class TestAServerThatCannotBeReached:
    async def test_fails_the_attempt_when_patience_ends(self, made: Made) -> None:
        outcome = await run(made(f"http://127.0.0.1:{free_port()}/jobs", connect_patience_seconds=0.2))
        assert isinstance(outcome, Failed)
        assert outcome.error.startswith("the server can't be reached: ")

    async def test_is_waited_for_while_it_starts(self, made: Made) -> None:
        port = free_port()
        running = asyncio.create_task(
            run(made(f"http://127.0.0.1:{port}/jobs", connect_patience_seconds=60.0), payload=b"x")
        )
        await asyncio.sleep(0.3)
        async with raw_server(answering(OK), port=port) as server:
            assert await running is COMPLETED
        assert [request.body for request in server.requests] == [b"x"]

    async def test_that_does_not_even_refuse_counts_as_unreachable(
        self, made: Made, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("headrace.runtime.handlers.http._CONNECT_SECONDS", 0.2)
        with full_backlog() as port:
            outcome = await run(made(f"http://127.0.0.1:{port}/jobs"))
        assert isinstance(outcome, Failed)
        assert outcome.error.startswith("the server can't be reached: ")

    async def test_interrupts_what_waits_once_the_worker_drains(self, made: Made) -> None:
        handler = made(f"http://127.0.0.1:{free_port()}/jobs", connect_patience_seconds=3600.0)
        running = asyncio.create_task(run(handler))
        await asyncio.sleep(0.1)
        handler.drain()
        assert isinstance(await running, Interrupted)


@contextlib.contextmanager
def full_backlog() -> Any:
    """A port whose server accepts nothing more: packets to it are dropped."""
    with socket.socket() as server, contextlib.ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(server.getsockname())
        yield server.getsockname()[1]


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_server_that_goes_while_the_worker_drains_interrupts_its_jobs(made: Made, *, reset: bool) -> None:
    gate = asyncio.Event()

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        close(writer, reset=reset)

    async with raw_server(answer) as server:
        handler = made(server.url)
        running = asyncio.create_task(run(handler))
        await eventually(lambda: len(server.requests) == 1, what="sent")
        handler.drain()
        gate.set()
        assert isinstance(await running, Interrupted)


async def test_an_answer_counts_while_the_worker_drains(made: Made) -> None:
    async with raw_server(answering(response("500 Oops"))) as server:
        handler = made(server.url)
        handler.drain()
        assert await run(handler) == Failed("status 500 Oops")


async def test_a_cancelled_job_closes_its_connection_so_that_the_server_sees_it(made: Made) -> None:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with raw_server(answer) as server:
        running = asyncio.create_task(run(made(server.url)))
        await eventually(lambda: len(server.requests) == 1, what="sent")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await eventually(lambda: server.closed_by_client == 1, what="seen by the server")


async def test_connections_ask_whether_the_other_end_is_still_there(made: Made) -> None:
    async with raw_server(answering(OK)) as server:
        handler = made(server.url)
        await run(handler)
        # Linux lists a connection's timers: 02 is keepalive. Who vanishes without a word is found out by it.
        client = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]  # noqa: ASYNC240
        peer = f"0100007F:{server.port:04X}"
        [timer] = {fields[5] for fields in client if fields[2] == peer and fields[3] == "01"}
        assert timer.startswith("02:")


class TestTls:
    @pytest.fixture
    def authority(self) -> Authority:
        return Authority()

    @pytest.fixture
    def tls(self, authority: Authority, tmp_path: Path) -> ssl.SSLContext:
        pair = authority.sign(address="127.0.0.1")
        (tmp_path / "tls.pem").write_bytes(pair.certificate + pair.key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "tls.pem")
        return context

    async def test_a_server_is_trusted_for_the_authority_that_is_given(
        self, made: Made, tls: ssl.SSLContext, authority: Authority
    ) -> None:
        async with raw_server(answering(OK), tls=tls) as server:
            handler = made(f"https://127.0.0.1:{server.port}/", ca_certificates=authority.certificate)
            assert await run(handler) is COMPLETED

    async def test_and_not_otherwise_and_nothing_is_sent(self, made: Made, tls: ssl.SSLContext) -> None:
        async with raw_server(answering(OK), tls=tls) as server:
            outcome = await run(made(f"https://127.0.0.1:{server.port}/", connect_patience_seconds=3600.0))
        assert isinstance(outcome, Failed)
        assert outcome.error.startswith("the server can't be trusted: ")
        assert server.requests == []

    @pytest.mark.parametrize("certificates", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
    def test_certificates_that_are_none_are_refused(self, certificates: str) -> None:
        with pytest.raises(HandlerError, match="http: the CA certificates are no PEM"):
            HttpHandler("https://server/", ca_certificates=certificates)

    def test_certificates_for_a_server_without_tls_are_refused(self, authority: Authority) -> None:
        with pytest.raises(HandlerError, match="need https://"):
            HttpHandler("http://server/", ca_certificates=authority.certificate)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "must begin with http:// or https:// and a host, such as http://127.0.0.1:8000/jobs"),
        ("127.0.0.1:8000/jobs", "must begin with http://"),
        ("localhost:8000", "must begin with http://"),
        ("ftp://server/jobs", "must begin with http://"),
        ("http:///jobs", "and a host"),
        ("http://server:99999/", "is no URL"),
        ("http://server/#jobs", "remove #jobs"),
    ],
)
def test_a_url_that_is_none_is_refused_with_the_fix(url: str, complaint: str) -> None:
    with pytest.raises(HandlerError, match=complaint):
        HttpHandler(url)


@pytest.mark.parametrize("url", ["ftp://user:hunter2@server/#there", "http://hunter2@server:99999", "//a:hunter2@b"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(HandlerError, match="must have no user and no password") as refused:
        HttpHandler(url)
    assert "hunter2" not in str(refused.value)


async def test_a_worker_sends_a_queues_jobs_and_takes_the_answers(made: Made) -> None:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.header("Headrace-Job-Name") == "endless":
            await asyncio.Event().wait()
        asked_to_wait = request.header("Headrace-Job-Attempt") == "1"
        writer.write(
            {
                "good": OK,
                "bad": response("400 Bad Request"),
                "busy": response("503 Busy", b"", "Retry-After: 0") if asked_to_wait else OK,
            }[request.header("Headrace-Job-Name") or ""]
        )

    backend = MemoryBackend()
    backend.register("orders", QueueSettings(max_retries=1), Owner(namespace="", name="orders", uid=""))
    metrics = Metrics()

    def counted(name: str) -> float:
        prefix = f"background_jobs_{name}{{"
        return sum(
            float(line.rpartition(" ")[2]) for line in metrics.render().decode().splitlines() if line.startswith(prefix)
        )

    async with raw_server(answer) as server, MemoryQueue(backend, "orders") as producer:
        handler = made(server.url)
        worker = Worker(
            MemoryQueue(backend, "orders"),
            handler,
            metrics.of("shop", "orders"),
            poll_interval_seconds=0.05,
            job_timeout_seconds=0.5,
        )
        working = asyncio.create_task(worker.run())
        await producer.enqueue([new_job("good"), new_job("bad"), new_job("busy"), new_job("endless")])
        await eventually(lambda: counted("completed_total") == 2, what="the good and the busy one completed")
        dead = backend.places["orders"].dead
        # The endless one may be dead as well by now.
        await eventually(lambda: "bad" in {ended.job.name for ended in dead.values()}, what="the bad one given up")
        await eventually(lambda: server.closed_by_client >= 1, what="the endless one's timeout seen by the server")
        worker.stop()
        worker.stop()
        await working
    assert counted("retried_total") >= 2
