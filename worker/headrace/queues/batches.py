"""Many jobs, in as many statements as they need: no lock is held for long, and no side holds too much at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from headrace.job import NewJob

MAX_BATCH_JOBS = 1000


def batches(jobs: Iterable[NewJob], *, max_bytes: int) -> Iterator[list[NewJob]]:
    """At most `MAX_BATCH_JOBS` each, with at most so many bytes of payload; one job at least."""
    batch: list[NewJob] = []
    size = 0
    for job in jobs:
        if batch and (len(batch) == MAX_BATCH_JOBS or size + len(job.payload) > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(job)
        size += len(job.payload)
    if batch:
        yield batch
