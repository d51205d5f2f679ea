"""`python -m soak`: jobs under fire, every one accounted for; see `make soak`."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from pathlib import Path

from soak.drive import SAVES_ALL, Report, soak
from support.postgres import running_server
from support.redis import running_redis
from support.signals import end_orderly_on_sigterm


def main() -> int:
    """Soak, tell, and say by the exit status whether all was well."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to strike (default: 10)")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of all chance")
    parser.add_argument("--rate", type=float, default=100.0, help="jobs a second, about (default: 100)")
    parser.add_argument("--workers", type=int, default=20, help="processes (default: 20)")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="headrace-soak-"))
    print(f"soak: {options.minutes:g} minutes, seed {options.seed}, records in {directory}", flush=True)
    end_orderly_on_sigterm()
    with running_server() as server, running_redis(*SAVES_ALL) as redis:
        report = asyncio.run(
            soak(
                server,
                redis,
                directory,
                seconds=options.minutes * 60,
                seed=options.seed,
                workers=options.workers,
                jobs_per_second=options.rate,
                say=lambda line: print(line, flush=True),
            )
        )
    tell(report)
    if report.verdict.wrong:
        return 1
    shutil.rmtree(directory)
    return 0


def tell(report: Report) -> None:
    """The summary."""
    for title, counts in (
        ("blows", report.blows),
        ("jobs", report.verdict.counts),
        ("the workers' own words", report.told),
    ):
        print(f"\n{title}:")
        for what, count in sorted(counts.items()):
            print(f"  {count:8}  {what}")
    wrong = report.verdict.wrong
    print(f"\nDISCREPANCIES: {len(wrong)}" if wrong else "\nevery job is accounted for")
    for line in wrong[:50]:
        print(f"  {line}")


try:
    sys.exit(main())
except KeyboardInterrupt:
    sys.exit(130)
