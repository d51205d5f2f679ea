"""The quickstart, as its README tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.in_cluster import EXAMPLES
from support.kubectl import KubectlError, eventually

if TYPE_CHECKING:
    from support.stage import Stage

FOLDER = EXAMPLES / "quickstart"


def test_the_first_jobs_show_in_the_logs(stage: Stage) -> None:
    for name in ("jobqueue", "jobworkerpool-hpa", "enqueue"):
        stage.kubectl.apply(file=FOLDER / f"{name}.yaml")

    def printed() -> str:
        try:
            return stage.kubectl.run("logs", "--selector=headrace.dev/pool=hello", "--tail=-1")
        except KubectlError:
            # No container runs yet.
            return ""

    eventually(
        printed,
        until=lambda lines: '{"hello":"world"}' in lines.splitlines(),
        what="a job's output",
    )
