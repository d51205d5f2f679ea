"""The demo's picture: a live table in a terminal, plain lines where there is none."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLAIN_LINE_EVERY_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One look at the story."""

    elapsed_seconds: float
    jobs_enqueued: int
    jobs_completed: int
    jobs_per_second: float
    ready: int
    in_flight: int
    desired_replicas: int
    replicas: int
    ready_replicas: int
    reason: str
    message: str

    def line(self) -> str:
        """The scene as one greppable line."""
        return (
            f"{self.elapsed_seconds:6.1f} s  completed {self.jobs_completed:>5}/{self.jobs_enqueued}  "
            f"{self.jobs_per_second:6.1f} jobs/s  ready {self.ready:>5}  in flight {self.in_flight:>4}  "
            f"replicas {self.ready_replicas}/{self.replicas} (desired {self.desired_replicas})  {self.reason}"
        )


def _render(scene: Scene) -> Panel:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="dim")
    table.add_column()
    table.add_row("jobs", ProgressBar(total=max(scene.jobs_enqueued, 1), completed=scene.jobs_completed, width=50))
    table.add_row("", f"{scene.jobs_completed} of {scene.jobs_enqueued} done, {scene.jobs_per_second:.1f} jobs/s")
    table.add_row("queue", f"{scene.ready} ready, {scene.in_flight} in flight")
    workers = "█" * scene.ready_replicas + "░" * max(0, scene.replicas - scene.ready_replicas)
    table.add_row("workers", f"{workers} {scene.ready_replicas} ready of {scene.replicas}")
    table.add_row("desired", f"{scene.desired_replicas}  {scene.reason}")
    table.add_row("why", scene.message)
    return Panel(table, title=f"Headrace demo, {scene.elapsed_seconds:.0f} s", width=100)


@contextmanager
def stage() -> Iterator[Callable[[Scene], None]]:
    """Yield a function that shows a scene."""
    console = Console()
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            yield lambda scene: live.update(_render(scene))
        return

    shown_at = float("-inf")

    def show(scene: Scene) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at >= PLAIN_LINE_EVERY_SECONDS:
            shown_at = time.monotonic()
            print(scene.line(), flush=True)

    yield show
