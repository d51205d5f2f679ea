"""The end-to-end tests' app: every run of every job is a row, so that a job lost or run twice shows.

It reaches the pods as a ConfigMap beside the bundled worker image; the table lives in the queue's own database.
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
        uri = Path(os.environ["SERVICE_BINDING_ROOT"], "queue", "uri")
        _pools.append(await asyncpg.create_pool(await asyncio.to_thread(uri.read_text), min_size=0, max_size=2))
    return _pools[0]


@app.job("work")
async def work(payload: dict[str, float], context: Context) -> None:
    """Sleep for ``payload["seconds"]``, noting start and end."""
    pool = await _pool()
    run = await pool.fetchval(
        "INSERT INTO public.runs (job_id, attempt, pod) VALUES ($1, $2, $3) RETURNING id",
        context.job.id,
        context.job.attempt,
        os.environ["HEADRACE_WORKER_NAME"],
    )
    await asyncio.sleep(payload["seconds"])
    await pool.execute("UPDATE public.runs SET finished_at = clock_timestamp() WHERE id = $1", run)
