"""What `headrace worker --app` is given."""

from __future__ import annotations

from benchmarks.contestants.apps.notes import note
from headrace import App

app = App()


@app.job("noop")
async def noop(payload: dict[str, int]) -> None:
    note(payload["number"])
