"""The end-to-end tests' app: every run of every job is a row, so that a job lost or run twice shows.

It reaches the pods as a ConfigMap beside the bundled worker image; the table lives in the queue's own database, or in
that which LEDGER_DSN names. Run as a program it is a server that does the same, one POST a job.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import asyncpg

from headrace import App, Context

app = App()
_pools: list[asyncpg.Pool] = []


async def _pool() -> asyncpg.Pool:
    if not _pools:
        dsn = os.environ.get("LEDGER_DSN")
        if dsn is None:
            dsn = await asyncio.to_thread(Path(os.environ["SERVICE_BINDING_ROOT"], "queue", "uri").read_text)
        _pools.append(await asyncpg.create_pool(dsn, min_size=0, max_size=2))
    return _pools[0]


@app.job("work")
async def work(payload: dict[str, float], context: Context) -> None:
    """Sleep for ``payload["seconds"]``, noting start and end."""
    await noted(context.job.id, context.attempt, payload["seconds"])


async def noted(job_id: str, attempt: int, seconds: float) -> None:
    """One run, whoever was asked for it."""
    pool = await _pool()
    run = await pool.fetchval(
        "INSERT INTO public.runs (job_id, attempt, pod) VALUES ($1, $2, $3) RETURNING id",
        job_id,
        attempt,
        os.environ["HEADRACE_WORKER_NAME"],
    )
    await asyncio.sleep(seconds)
    await pool.execute("UPDATE public.runs SET finished_at = clock_timestamp() WHERE id = $1", run)


def serve() -> None:
    """Serve until told to stop; then end in the middle of whatever it does, as programs do that heed no signals."""
    from aiohttp import web  # noqa: PLC0415 - the server alone pays for it

    async def jobs(request: web.Request) -> web.Response:
        payload = await request.json()
        await noted(
            request.headers["Headrace-Job-Id"], int(request.headers["Headrace-Job-Attempt"]), payload["seconds"]
        )
        return web.Response()

    async def healthz(_: web.Request) -> web.Response:
        return web.Response()

    server = web.Application()
    server.add_routes([web.post("/jobs", jobs), web.get("/healthz", healthz)])
    web.run_app(server, port=8000, handle_signals=False)


if __name__ == "__main__":
    serve()
