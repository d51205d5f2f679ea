"""The whole soak: produce and strike, let it drain, collect the evidence."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import redis.asyncio

from headrace.idempotency import key_prefix
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from soak.monkey import Monkey, Workers
from soak.producers import Producers
from soak.verdict import MAX_RETRIES, Evidence, Finish, Run, Verdict, judge
from support.postgres import PostgresServer
from support.redis import RedisServer

# Leases, their rescue, suspects one at a time, and retries: what is not done by then hangs.
DRAIN_SECONDS = 180.0

SAVES_ALL = ("appendonly yes", "appendfsync always")
"""A Redis with these lines forgets no finish, however it ends."""

_FINISHED = "finished "
# A job's own key: its id, and when it was enqueued.
_OWN_KEY = re.compile(r"(job:\d+):\d+")

_LEFT = """
SELECT id::text FROM headrace.jobs UNION SELECT id::text FROM headrace.parked_jobs
UNION SELECT 'claimed ' || unnest(job_ids) FROM headrace.claims
"""
_DEAD = "SELECT id::text, reason, error FROM headrace.dead_jobs"

_TOLD = {
    "leases lost": "lease lost",
    "leases given up, out of reach": "lease out of reach",
    "outcomes refused": "outcome refused",
    "outcomes reported late": "outcomes not reported",
    "finishes refused": "finish refused",
    "idempotency store away": "the idempotency store fails",
    "keys lost to others": "keys belong to others by now",
}


@dataclass(kw_only=True)
class Report:
    """How it ended."""

    verdict: Verdict
    blows: Counter[str]
    told: Counter[str]
    """What the workers' logs say, counted."""


async def soak(
    server: PostgresServer,
    redis_server: RedisServer,
    directory: Path,
    *,
    seconds: float,
    seed: int,
    workers: int = 20,
    jobs_per_second: float = 100.0,
    every_seconds: float = 4.0,
    short: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Produce and strike for so long, then drain; gives what is wrong.

    Parameters
    ----------
    server
        Empty; it is restarted now and then.
    redis_server
        The same; it runs with `SAVES_ALL`.
    directory
        Where workers leave their records and logs.
    seconds
        How long to strike.
    seed
        Of all chance.
    workers
        How many processes.
    jobs_per_second
        About.
    every_seconds
        How often the monkey strikes, about.
    short
        Without the blows that take long.
    say
        Takes lines of progress.
    """
    place = Place(dsn=server.dsn)
    await PostgresProvisioner(place).ensure(
        "orders", QueueSettings(max_retries=MAX_RETRIES), Owner(namespace="shop", name="orders", uid="1")
    )
    crew = Workers(directory, server.dsn, redis_server.url, count=workers)
    try:
        async with PostgresQueue(place, "orders") as queue:
            producers = Producers(queue, random.Random(f"{seed}/producers"), jobs_per_second=jobs_per_second)
            monkey = Monkey(server, redis_server, crew, random.Random(f"{seed}/monkey"), short=short)
            watching = asyncio.create_task(_watch(producers, monkey, crew, directory, say))
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(producers.run())
                    await monkey.run(seconds, every_seconds=every_seconds)
                    producers.stop()
                say("calm: the rest drains")
                await _drained(server.dsn)
            finally:
                watching.cancel()
                await asyncio.wait([watching])
        await crew.stop()
        left, dead = await _remains(server.dsn)
        finished = await _finished(redis_server.url)
    finally:
        crew.close()
    runs, finishes = read_records(directory)
    evidence = Evidence(
        asked=producers.asked,
        runs=runs,
        blows=monkey.blows,
        exits=crew.exits,
        left=left,
        dead=dead,
        finishes=finishes,
        finished=finished,
    )
    (directory / "evidence.json").write_text(json.dumps(vars(evidence), default=vars))
    verdict = judge(evidence)
    verdict.wrong += crew.wrong
    logs = await asyncio.to_thread(_logs, directory)
    return Report(
        verdict=verdict,
        blows=Counter(blow.kind for blow in monkey.blows),
        told=Counter({what: len(re.findall(words, logs)) for what, words in _TOLD.items()}),
    )


async def _watch(
    producers: Producers, monkey: Monkey, crew: Workers, directory: Path, say: Callable[[str], None]
) -> None:
    started = time.monotonic()
    while True:
        for _ in range(20):
            await asyncio.sleep(1)
            crew.look_after()
        finished = sum(run.ended == "done" for run in read_records(directory)[0])
        say(
            f"{time.monotonic() - started:5.0f} s: {len(producers.asked)} asked for, {finished} done, "
            f"{len(monkey.blows)} blows, last: {monkey.blows[-1].kind if monkey.blows else 'none'}"
        )


async def _drained(dsn: str) -> None:
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline and (await _remains(dsn))[0]:  # noqa: ASYNC110 - other processes work
        await asyncio.sleep(0.5)


async def _remains(dsn: str) -> tuple[list[str], dict[str, str]]:
    connection = await asyncpg.connect(dsn)
    try:
        left = [row[0] for row in await connection.fetch(_LEFT)]
        dead = {row["id"]: row["reason"] for row in await connection.fetch(_DEAD)}
    finally:
        await connection.close()
    return left, dead


async def _finished(url: str) -> dict[str, str]:
    """The token by which each finished key was finished."""
    prefix = key_prefix("shop", "orders")
    async with redis.asyncio.from_url(url, decode_responses=True) as client:
        keys = [key async for key in client.scan_iter(f"{prefix}*", count=1000)]
        values = await client.mget(keys) if keys else []
    held = {str(key).removeprefix(prefix): str(value) for key, value in zip(keys, values, strict=True)}
    return {_plain(key): value.removeprefix(_FINISHED) for key, value in held.items() if value.startswith(_FINISHED)}


def _plain(key: str) -> str:
    """A key as the verdict knows it, which does not know when a job was enqueued by the database's clock."""
    return _OWN_KEY.sub(r"\1", key)


def _logs(directory: Path) -> str:
    return "\n".join(log.read_text() for log in directory.glob("worker-*.log"))


def read_records(directory: Path) -> tuple[list[Run], list[Finish]]:
    """What all workers have noted so far."""
    begun: dict[str, dict[str, Any]] = {}
    finishes: list[Finish] = []
    stopped: list[dict[str, Any]] = []
    for file in directory.glob("runs-*.jsonl"):
        for line in file.read_text().splitlines():
            note = json.loads(line)
            if "finished" in note:
                finishes.append(Finish(key=_plain(note["finished"]), token=note["token"], at=note["at"]))
            elif "stopped" in note:
                stopped.append(note)
            elif "began" in note:
                begun[note["run"]] = {
                    "name": note["run"],
                    "job_id": note["began"],
                    "token": note["token"],
                    "attempt": note["attempt"],
                    "process": note["process"],
                    "began_at": note["at"],
                    "group": note["group"],
                }
            else:
                begun[note["run"]] |= {"ended": note["ended"], "ended_at": note["at"]}
    for note in stopped:
        for run in begun.values():
            if (run["job_id"], run["process"]) == (note["stopped"], note["process"]) and run["began_at"] < note["at"]:
                run.setdefault("ended", "stopped")
                run.setdefault("ended_at", note["at"])
    return [Run(**run) for run in begun.values()], finishes
