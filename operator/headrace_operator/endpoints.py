"""The operator's HTTP endpoints: ``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from headrace_operator.core.model import TransientError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from prometheus_client import CollectorRegistry

_SHUTDOWN_SECONDS = 1.0


@asynccontextmanager
async def serving(
    address: str,
    *,
    registry: CollectorRegistry,
    health_problem: Callable[[], str | None],
    readiness_problem: Callable[[], str | None],
) -> AsyncIterator[int]:
    """Serve inside the block; gives the port (port 0: any free one).

    Parameters
    ----------
    health_problem
        Why the operator should be restarted; None where it should not.
    readiness_problem
        Why it does not work yet; None where it does.

    Raises
    ------
    TransientError
        ``AddressUnavailable``
    """

    async def metrics(_: web.Request) -> web.Response:
        # A page of some thousand queues takes a second, in which nothing else must wait.
        page = await asyncio.to_thread(generate_latest, registry)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(_: web.Request) -> web.Response:
        return _answer(health_problem())

    async def readyz(_: web.Request) -> web.Response:
        return _answer(readiness_problem())

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        host, _, port = address.rpartition(":")
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            raise TransientError("AddressUnavailable", f"can't listen on {address}: {error}") from None
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _answer(problem: str | None) -> web.Response:
    return web.Response(text="ok\n") if problem is None else web.Response(text=f"{problem}\n", status=503)
