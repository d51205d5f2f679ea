"""What `procrastinate worker` is given."""

from __future__ import annotations

import os

import procrastinate

from benchmarks.contestants.apps.notes import DSN_VARIABLE, note

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ[DSN_VARIABLE]))


@app.task(name="noop")  # type: ignore[untyped-decorator]
async def noop(number: int) -> None:
    note(number)
