"""`python -m benchmarks`: measure the queue and the worker beside their peers; see `make bench`."""

from __future__ import annotations

import argparse
import asyncio
import compileall
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from benchmarks import machine, peers
from benchmarks.arena import Arena, BrokenError
from benchmarks.journal import Journal
from benchmarks.places import BUILD, PAGE, ROOT, TESTS, WORKER
from benchmarks.report import Result, as_json, as_lines, as_page
from benchmarks.scenario import Scenario
from benchmarks.scenarios import SCENARIOS
from benchmarks.sqs_arena import SqsArena
from benchmarks.sqs_scenarios import SQS_SCENARIOS
from support.elasticmq import ElasticMqNotFoundError
from support.postgres import PostgresNotFoundError, running_server
from support.redis import RedisNotFoundError
from support.signals import end_orderly_on_sigterm

_DESCRIPTION = """\
Measure Headrace's queue in PostgreSQL and its worker beside PgQueuer, Procrastinate and the same work by hand, and its
queue in SQS beside sqs-workers, taskiq-aio-sqs, bare aiobotocore and the same work by hand; all in one run on this
machine.

Starts a PostgreSQL of its own with stock settings from the machine's binaries, in a new folder below /var/tmp, gone
afterwards, and an ElasticMQ that Maven fetches. The peers are installed once into build/bench/peers, from
locks/bench.txt. What contestants say on standard error is in build/bench/contestants.log.

A run of all benchmarks takes about twenty minutes and wants a machine with nothing else to do. It writes
docs/benchmarks.md and build/bench/results.json. One that was broken off goes on with --resume, at the same commit, and
takes what runs of some (--only) have measured. These are for working on them: they print, and write
build/bench/some.json.
"""


def main() -> int:
    """Return the exit status."""
    arguments = _arguments()
    chosen = [scenario for scenario in SCENARIOS if not arguments.only or scenario.id in arguments.only]
    if arguments.list:
        for scenario in chosen:
            print(f"{scenario.id:26}{scenario.title} ({scenario.unit}, {scenario.better} is better)")
        return 0
    end_orderly_on_sigterm()
    try:
        asyncio.run(_run(chosen, is_whole=len(chosen) == len(SCENARIOS), resumes=arguments.resume))
    except (BrokenError, ElasticMqNotFoundError, PostgresNotFoundError, RedisNotFoundError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ids = [scenario.id for scenario in SCENARIOS]
    parser.add_argument(
        "--only",
        metavar="ID",
        action="append",
        choices=ids,
        help=f"measure this one (can be given again): {', '.join(ids)}",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the whole run that was broken off at this commit"
    )
    parser.add_argument("--list", action="store_true", help="say what is measured, and measure nothing")
    return parser.parse_args()


async def _run(scenarios: Sequence[Scenario], *, is_whole: bool, resumes: bool) -> None:
    began = time.monotonic()

    def tell(what: str) -> None:
        seconds = int(time.monotonic() - began)
        print(f"{seconds // 60:02}:{seconds % 60:02}  {what}", flush=True)

    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "contestants.log").unlink(missing_ok=True)
    tell("the peers' environment")
    python = peers.python()
    # As the peers are, and as ours is where it is installed: under PYTHONDONTWRITEBYTECODE each start would compile it.
    for directory in (WORKER, TESTS / "benchmarks"):
        compileall.compile_dir(directory, quiet=1)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(running_server(stock=True))
        facts = {}
        if is_whole:
            tell("the machine's facts")
            facts = await machine.facts(server, python)
        arena = Arena(server, python, BUILD)
        if any(scenario in SQS_SCENARIOS for scenario in scenarios):
            tell("an ElasticMQ, until it is warm")
            arena.sqs = await stack.enter_async_context(SqsArena.opened(arena))
        journal = Journal(BUILD / "measured.jsonl", machine.commit())
        if is_whole and not resumes:
            journal.begin_anew()
        measured = journal.measured() if resumes else {}
        results = []
        for number, scenario in enumerate(scenarios, 1):
            tell(f"[{number}/{len(scenarios)}] {scenario.id}: {scenario.title}")
            if (result := measured.get(scenario.id)) is None:
                started = time.monotonic()
                result = await scenario.run(arena, tell)
                journal.note(result, time.monotonic() - started)
            results.append(result)
    _write(results, facts, minutes=journal.seconds() / 60, is_whole=is_whole)


def _write(results: Sequence[Result], facts: dict[str, str], *, minutes: float, is_whole: bool) -> None:
    print(f"\n{as_lines(results)}\n")
    path = BUILD / ("results.json" if is_whole else "some.json")
    path.write_text(json.dumps(as_json(results), indent=2) + "\n")
    written = [path]
    if is_whole:
        PAGE.write_text(as_page(results, facts, minutes=minutes))
        written.append(PAGE)
    print(f"written: {', '.join(str(file.relative_to(ROOT)) for file in written)}")


if __name__ == "__main__":
    sys.exit(main())
