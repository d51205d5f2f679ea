"""Workers killed at every step between claim and finish, on a real backend and a real Redis."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis.asyncio

from headrace.idempotency.base import DEFAULT_PREFIX
from support.redis import running_redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.elasticmq import ElasticMq

STEPS = 14
# Hundreds at each step with HEADRACE_KILLS_PER_STEP=200: ten minutes.
KILLS = int(os.environ.get("HEADRACE_KILLS_PER_STEP", "2"))


@pytest.fixture
def redis_url() -> Iterator[str]:
    with running_redis() as server:
        yield server.url


@pytest.fixture(params=["database_dsn", "sqs_url"])
def place(request: pytest.FixtureRequest) -> str:
    """Where the queues are: each backend in turn."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def sqs_url(elasticmq: ElasticMq) -> str:
    return elasticmq.url("QUEUE")


async def test_no_job_is_lost_and_no_run_starts_after_a_recorded_finish(
    place: str, redis_url: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    # A client of SQS takes a second of a busy machine to be made.
    kills = (KILLS + 1) // 2 if place.startswith("sqs") else KILLS
    driver = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.mortal_worker", place, redis_url, str(ledger)),
        *(str(STEPS), str(kills)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    said, _ = await driver.communicate()
    assert driver.returncode == 0
    assert int(said) >= STEPS * kills * 3 // 4, "most steps are there to be killed at"

    happened: dict[str, list[str]] = defaultdict(list)
    for line in ledger.read_text("utf-8").splitlines():
        what, _, key = line.partition(" ")
        happened[key].append(what)
    assert len(happened) == STEPS * kills * 2, "every job ran"
    finished = await finished_keys(redis_url)
    for key, events in happened.items():
        # Killed between Redis's answer and the note of it, a worker leaves none.
        assert key in finished, f"{key}: {events}"
        assert events.count("finished") <= 1, f"{key}: {events}"
        if "finished" in events:
            assert "started" not in events[events.index("finished") :], f"{key}: {events}"


async def finished_keys(url: str) -> set[str]:
    async with redis.asyncio.from_url(url, decode_responses=True) as client:
        names = [str(name) async for name in client.scan_iter(f"{DEFAULT_PREFIX}*", count=1000)]
        values = await client.mget(names)
    held = zip(names, map(str, values), strict=True)
    return {name.removeprefix(DEFAULT_PREFIX) for name, value in held if value.startswith("finished ")}
