"""The worker's HTTP endpoints, served from a thread of their own so that they answer while the event loop can't.

``/healthz`` fails only when the worker itself is stuck: its event loop has not turned for long. A lost database never
fails it, since a restart would not bring the database back. ``/readyz`` follows the backend, and fails once the worker
takes nothing more. ``/metrics`` is for Prometheus, ``/depth`` for the operator.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import socketserver
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

STUCK_AFTER_SECONDS = 30.0
"""Nothing that a handler does may stop the loop for so long: a restart is the only help left."""

STALL_SECONDS = 2.0
"""A loop that stands for so long delays every job: worth a line in the log."""

_TURN_SECONDS = 0.5
_LOOK_SECONDS = 0.5

# At most so often, however often the loop stands: the counter tells the rest.
_COMPLAINT_SECONDS = 60.0
_FRAMES = 10


class Pulse:
    """Notes that the event loop turns, and says so when it doesn't, and where it stands.

    A thread of its own looks: on the loop nothing can be done while the loop is blocked.

    Parameters
    ----------
    stuck_after_seconds
        When the worker counts as stuck. Defaults to `STUCK_AFTER_SECONDS`.
    on_stall
        Called, from any thread, each time the loop has stood for `STALL_SECONDS`.
    clock
        Monotonic seconds. Defaults to `time.monotonic`.
    """

    def __init__(
        self,
        *,
        stuck_after_seconds: float = STUCK_AFTER_SECONDS,
        on_stall: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._stuck_after_seconds = stuck_after_seconds
        self._on_stall = on_stall
        self._last_turn = self._looked_at = clock()
        self._thread_id = threading.get_ident()
        self._counted_turn: float | None = None
        """The turn after which the loop was last found standing."""
        self._complained_at = float("-inf")
        self._complained = False
        self._unsaid = 0

    @property
    def is_stuck(self) -> bool:
        """Whether the loop has not turned for long."""
        return self._clock() - self._last_turn > self._stuck_after_seconds

    def turn(self) -> None:
        """The loop has turned."""
        now, last_turn = self._clock(), self._last_turn
        self._last_turn = now
        stood_seconds = now - last_turn
        if stood_seconds <= STALL_SECONDS:
            return
        if self._counted_turn != last_turn:
            # Other threads stood as well: there is no stack to show.
            self._stalled(last_turn, stood_seconds, "the process was stopped, or something held the interpreter")
        if self._complained:
            log.warning("event loop turns again, it stood for %.1f s", stood_seconds)

    def look(self) -> None:
        """Complain where the loop stands; from another thread, every now and then."""
        now, last_turn = self._clock(), self._last_turn
        looked_at, self._looked_at = self._looked_at, now
        if now - looked_at > STALL_SECONDS:
            return  # This thread stood, too; the loop may be about to turn.
        if now - last_turn > STALL_SECONDS and self._counted_turn != last_turn:
            self._stalled(last_turn, now - last_turn, _stack(self._thread_id))

    def _stalled(self, last_turn: float, seconds: float, where: str) -> None:
        self._counted_turn = last_turn
        self._on_stall()
        self._complained = self._clock() - self._complained_at >= _COMPLAINT_SECONDS
        if not self._complained:
            self._unsaid += 1
            return
        self._complained_at = self._clock()
        unsaid, self._unsaid = self._unsaid, 0
        log.warning(
            "event loop has not turned for %.1f s%s, no job gets on: %s",
            *(seconds, f" ({unsaid} more times since this was last said)" if unsaid else "", where),
        )

    async def run(self) -> None:
        """Turn, until cancelled; called on the loop in question."""
        self._thread_id = threading.get_ident()
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ended,), name="headrace-pulse", daemon=True)
        thread.start()
        try:
            while True:
                self.turn()
                await asyncio.sleep(_TURN_SECONDS)
        finally:
            ended.set()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(_LOOK_SECONDS):
            self.look()


def _stack(thread_id: int) -> str:
    """Where a thread stands, innermost first."""
    frame = sys._current_frames().get(thread_id)  # noqa: SLF001 - there is no other way to see another thread's stack
    frames = list(reversed(traceback.extract_stack(frame)))
    shown = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[:_FRAMES]]
    return " < ".join((f"{shown[0]} ({frames[0].line})", *shown[1:]))


class _Server(ThreadingHTTPServer):
    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # On :: IPv4 is served, too.
        # Without http.server's own addition: it asks DNS for this host's name, which may take seconds.
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - socketserver's names
        """Log it in the log's own form; a probe that gave up in the middle is no news."""
        level = logging.DEBUG if isinstance(sys.exception(), ConnectionError) else logging.ERROR
        log.log(level, "a request was not answered client=%s", client_address, exc_info=True)


class HealthServerError(OSError):
    """The address can't be served."""


@contextmanager
def serving(
    host: str,
    port: int,
    *,
    is_stuck: Callable[[], bool],
    is_ready: Callable[[], bool],
    metrics: Callable[[], bytes],
    depths: Callable[[], bytes],
) -> Iterator[int]:
    """Serve while the context lasts; gives the port (port 0: any free one).

    Raises
    ------
    HealthServerError
        When the address is taken or isn't this machine's.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/healthz":
                    self._answer(*((HTTPStatus.SERVICE_UNAVAILABLE, b"stuck\n") if is_stuck() else _OK))
                case "/readyz":
                    self._answer(*(_OK if is_ready() else (HTTPStatus.SERVICE_UNAVAILABLE, b"takes no jobs\n")))
                case "/metrics":
                    self._answer(HTTPStatus.OK, metrics(), CONTENT_TYPE_LATEST)
                case "/depth":
                    self._answer(HTTPStatus.OK, depths(), "application/json")
                case _:
                    self._answer(HTTPStatus.NOT_FOUND, b"/healthz, /readyz, /metrics or /depth\n")

        def _answer(self, status: HTTPStatus, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name for it
            """Say nothing: probes come every few seconds."""

    # A client that connects and says nothing must not hold its thread for ever.
    Handler.timeout = 10
    try:
        server = _Server((host, port), Handler)
    except OSError as error:
        raise HealthServerError(
            f"can't serve metrics on {host}:{port} ({error.strerror}): set HEADRACE_METRICS_ADDRESS to a free address"
        ) from None
    thread = threading.Thread(target=server.serve_forever, name="headrace-health", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_OK = (HTTPStatus.OK, b"ok\n")
