"""The soak of `make soak`, as short as it can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from soak.drive import SAVES_ALL, soak
from support.redis import running_redis

if TYPE_CHECKING:
    from pathlib import Path

    from support.postgres import PostgresServer


async def test_every_job_is_accounted_for(own_postgres: PostgresServer, tmp_path: Path) -> None:
    with running_redis(*SAVES_ALL) as redis:
        report = await soak(
            *(own_postgres, redis, tmp_path),
            seconds=15,
            seed=1,
            workers=3,
            jobs_per_second=60,
            every_seconds=1.0,
            short=True,
        )
    assert report.verdict.wrong == []
    assert report.verdict.counts["completed"] > 100
    assert report.verdict.counts["completed by their keys' finish"] > 10
    assert report.verdict.counts["again: failed"] > 100
    assert {"kill", "backends killed", "crash", "redis killed"} <= report.blows.keys()
