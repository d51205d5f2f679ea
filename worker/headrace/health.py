"""The worker's HTTP endpoints, served from a thread of their own so that they answer while the event loop can't.

``/healthz`` fails only when the worker itself is stuck: its event loop has not turned for long. A lost database never
fails it, since a restart would not bring the database back. ``/readyz`` follows the backend. ``/metrics`` is for
Prometheus.
"""

from __future__ import annotations

import asyncio
import socketserver
import threading
import time
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STUCK_AFTER_SECONDS = 30.0
_TURN_SECONDS = 1.0


class Pulse:
    """Notes that the event loop turns.

    Parameters
    ----------
    clock
        Monotonic seconds. Defaults to `time.monotonic`.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_turn = clock()

    @property
    def is_stuck(self) -> bool:
        """Whether the loop has not turned for long."""
        return self._clock() - self._last_turn > STUCK_AFTER_SECONDS

    def turn(self) -> None:
        """The loop has turned."""
        self._last_turn = self._clock()

    async def run(self) -> None:
        """Turn every second, until cancelled."""
        while True:
            self.turn()
            await asyncio.sleep(_TURN_SECONDS)


class _Server(ThreadingHTTPServer):
    def server_bind(self) -> None:
        # Without http.server's own addition: it asks DNS for this host's name, which may take seconds.
        socketserver.TCPServer.server_bind(self)


class HealthServerError(OSError):
    """The address can't be served."""


@contextmanager
def serving(
    host: str, port: int, *, is_stuck: Callable[[], bool], is_ready: Callable[[], bool], metrics: Callable[[], bytes]
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
                    self._answer(*(_OK if is_ready() else (HTTPStatus.SERVICE_UNAVAILABLE, b"no backend\n")))
                case "/metrics":
                    self._answer(HTTPStatus.OK, metrics(), CONTENT_TYPE_LATEST)
                case _:
                    self._answer(HTTPStatus.NOT_FOUND, b"/healthz, /readyz or /metrics\n")

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
