"""The story where no container can run: `headrace-operator dev`, the same example, the same decisions."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.progress import say, step
from demo.ledger import Ledger
from demo.summary import Summary, summarize
from demo.watch import Pool, watch
from support.dev_process import running_dev

if TYPE_CHECKING:
    from support.dev_process import DevProcess


def tell(example: Path, name: str, jobs: int, *, pictures: Path, pictures_kept: int) -> Summary:
    """Tell it; the example's queue, its pool and its jobs are named alike."""
    manifests = [part for kind in ("jobqueue", "jobworkerpool") for part in ("-f", str(example / f"{kind}.yaml"))]
    with (
        tempfile.TemporaryDirectory(prefix="headrace-demo-") as scratch,
        running_dev(Path(scratch), *manifests, "-q", PYTHONPATH=str(example)) as dev,
    ):
        with step("set the stage"):
            dev.wait_for_queue(lambda queue: queue["ready"] is not None, what="the queue is there")
        for note in dev.started["notes"]:
            say(note)
        say(f"enqueue {jobs} jobs")
        dev.enqueue(name, "thumbnail", "--payload", '{"seed": 7}', "--count", str(jobs))
        ledger = Ledger(dsn=dev.dsn, queue=name)
        peak = watch(lambda: _pool(dev), ledger, jobs)
        runs = ledger.runs()
        if runs:
            ledger.keep_pictures(pictures, pictures_kept)
        return summarize(
            runs,
            cluster="none",
            kubernetes_version=None,
            jobs_enqueued=jobs,
            peak_replicas=peak,
            final_replicas=_pool(dev).remaining,
        )


def _pool(dev: DevProcess) -> Pool:
    status = dev.told[-1]["pools"][0]
    return Pool(
        desired_replicas=status["desired"],
        # Those that drain included: zero is when nobody is left.
        replicas=max(status["current"], status["desired"]),
        ready_replicas=status["ready"],
        reason=status["reason"],
        message=status["message"],
    )
