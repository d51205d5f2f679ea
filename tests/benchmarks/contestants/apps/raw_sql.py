"""The limit's worker: no more than it takes to connect, and to run a job."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import asyncpg
import uvloop

from benchmarks.contestants.apps.notes import DSN_VARIABLE, note


async def main() -> None:
    """Run one job, then wait to be told to stop, as workers do."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    connection = await asyncpg.connect(os.environ[DSN_VARIABLE])
    async with connection.transaction():
        row = await connection.fetchrow("SELECT id, payload FROM jobs ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED")
        assert row is not None
        note(json.loads(row["payload"])["number"])
        await connection.execute("DELETE FROM jobs WHERE id = $1", row["id"])
    await stopped.wait()
    await connection.close()


if __name__ == "__main__":
    uvloop.run(main())
