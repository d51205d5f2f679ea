"""What PgQueuer's `run` is given. Its command, `pgq run`, fails on the newest typer that it asks for."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pgqueuer
import uvloop

from benchmarks.contestants.apps.notes import DSN_VARIABLE, note


@asynccontextmanager
async def create() -> AsyncIterator[Any]:
    connection = await asyncpg.connect(os.environ[DSN_VARIABLE])
    worker = pgqueuer.PgQueuer.from_asyncpg_connection(connection)

    @worker.entrypoint("noop")  # type: ignore[untyped-decorator]
    async def noop(job: Any) -> None:
        note(json.loads(job.payload)["number"])

    try:
        yield worker
    finally:
        await connection.close()


if __name__ == "__main__":
    uvloop.run(pgqueuer.run(create))
