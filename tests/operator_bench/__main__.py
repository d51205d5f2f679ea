"""`python -m operator_bench`: measure what the operator costs; see `make bench-operator`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys

from benchmarks.places import BUILD, ROOT
from operator_bench.page import GROWTH, as_json, as_lines, as_page
from operator_bench.scenarios import SCENARIOS
from support.postgres import PostgresNotFoundError
from support.signals import end_orderly_on_sigterm

_PAGE = ROOT / "docs" / "benchmarks-operator.md"


def main() -> int:
    """Return the exit status: 1 where a figure is not as wanted."""
    arguments = _arguments()
    end_orderly_on_sigterm()
    try:
        return asyncio.run(_run(arguments.size, arguments.only))
    except PostgresNotFoundError as error:
        print(f"bench-operator: {error}", file=sys.stderr)
        return 1


async def _run(size: int, only: list[str]) -> int:
    results = {}
    for scenario in SCENARIOS:
        if scenario.id not in only if only else scenario.is_extra:
            continue
        print(f"{scenario.title}: {size} queues and pools", flush=True)
        results[scenario.title] = await scenario.measure(size, lambda words: print(f"  … {words}", flush=True))
        print(*as_lines(results[scenario.title]), sep="\n", flush=True)
        if scenario.is_extra:
            GROWTH.write_text(json.dumps(as_json({scenario.title: results[scenario.title]}), indent=2) + "\n")
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "operator.json").write_text(json.dumps(as_json(results), indent=2))
    if not only:
        machine = f"{len(os.sched_getaffinity(0))} cores"
        _PAGE.write_text(as_page(results, size=size, machine=machine))
    return 0 if all(figure.holds for figures in results.values() for figure in figures) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-operator", description=__doc__)
    parser.add_argument("--size", type=int, default=1000, metavar="N", help="queues, and as many pools")
    parser.add_argument(
        "--only", action="append", default=[], choices=[scenario.id for scenario in SCENARIOS], help="measure this one"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
