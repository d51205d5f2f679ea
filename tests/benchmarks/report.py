"""What is said of the figures: the lines for people, the list for machines, the page. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

OURS = "Headrace"
POSTGRES_PEERS = ("PgQueuer", "Procrastinate")
SQS_PEERS = ("sqs-workers", "taskiq-aio-sqs")
PEERS = (*POSTGRES_PEERS, *SQS_PEERS)
LIMIT = "by hand"
BARE = "aiobotocore"
"""On SQS, a second limit: of those whose requests botocore makes."""
CONTESTANTS = (OURS, *PEERS, BARE, LIMIT)

Better = Literal["higher", "lower"]

_WIDTH = 120

_INTRODUCTION = """
Headrace's queue in PostgreSQL, and its worker, beside the two that a Python programmer would otherwise take, PgQueuer
and Procrastinate, and beside the limit: the same done by hand with no library around it, which is, of the queue, the
same claims and deletions as plain SQL over one asyncpg connection. Its queue in SQS, beside sqs-workers and
taskiq-aio-sqs, and beside two limits: the same calls by bare aiobotocore, and signed and sent by hand over aiohttp.
All on one machine in one run; every job is seen to be handled exactly once.

A ratio above 1 is in Headrace's favour, whichever way is better. Read the ratios rather than the figures: those are of
this machine, on which the database and its clients share the cores.
"""

_METHOD = """
A contestant is one process under uvloop. Each measurement has a new database on a PostgreSQL with stock settings
(`fsync`, `synchronous_commit` and `full_page_writes` on) over loopback TCP, and, where jobs are drained, a
`VACUUM ANALYZE` and a `CHECKPOINT` before. Jobs do nothing; each goes through the library's own dispatch (`@app.job`),
ours with metrics on. No history of finished jobs is kept, but where a peer's default is to keep it and defaults are
measured.

Those on SQS have a new queue on an ElasticMQ with a heap of 1 GiB, which has worked off 120,000 messages before: it
speaks the protocol and is no AWS, and it shares the cores with whoever is measured. Its figures tell what clients cost;
AWS's answers take longer, which is what the ones with 10 ms are for. Peers get fewer jobs.

Some of the worker's benchmarks need no database, and in some the jobs are requests or programs; each says so.

A rate counts from the worker's first request for jobs to the moment when the database holds none any more; where there
are repetitions it is their median. Every contestant is given the best of the settings tried, which the table names; to
keep the run short, the slowest gets fewer jobs.
"""

_RUNNING = """
`make bench` measures all of this anew (here that took {minutes} minutes), prints it, and writes this page and
`build/bench/results.json`; `make bench ONLY=drain_best` measures one and only prints it, `make bench LIST=1` names
them. It wants PostgreSQL's server binaries and a machine with nothing else to do. The peers are installed from
`locks/bench.txt` into an environment of their own below `build/bench`. The code is in `tests/benchmarks`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What one contestant reached in a benchmark, at its best setting."""

    contestant: str
    value: float
    settings: str
    """As a person would say it, such as ``slots=500, 20,000 jobs``."""
    details: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A benchmark's figures, all from one run."""

    id: str
    title: str
    unit: str
    better: Better
    how: str
    figures: Sequence[Figure]
    missing: Mapping[str, str]
    """Who has no figure, and why."""

    def figure(self, contestant: str) -> Figure | None:
        """That of one contestant."""
        return next((figure for figure in self.figures if figure.contestant == contestant), None)

    @property
    def contestants(self) -> tuple[str, ...]:
        """Who there is to be measured, where this one's queues are."""
        named = {figure.contestant for figure in self.figures} | self.missing.keys()
        return (OURS, *SQS_PEERS, BARE, LIMIT) if named & {*SQS_PEERS, BARE} else (OURS, *POSTGRES_PEERS, LIMIT)

    @property
    def peer(self) -> Figure | None:
        """The best of the peers'."""
        figures = [figure for figure in self.figures if figure.contestant in PEERS]
        return best(figures, self.better) if figures else None

    def ratio(self, other: Figure | None) -> float | None:
        """How many times better ours is: above 1 whichever way is better."""
        ours = self.figure(OURS)
        if ours is None or other is None or not ours.value or not other.value:
            return None
        return ours.value / other.value if self.better == "higher" else other.value / ours.value


def best(figures: Sequence[Figure], better: Better) -> Figure:
    """The highest, or the lowest."""
    return (max if better == "higher" else min)(figures, key=lambda figure: figure.value)


def as_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For machines: ours, the best peer's and the limit, null where there is none."""
    return [
        {
            "id": result.id,
            "ours": _value(result.figure(OURS)),
            "peer": _value(result.peer),
            "peer_name": result.peer.contestant if result.peer else None,
            "limit": _value(result.figure(LIMIT)),
            "unit": result.unit,
            "settings": {figure.contestant: figure.settings for figure in result.figures},
        }
        for result in results
    ]


def as_lines(results: Sequence[Result]) -> str:
    """For a terminal: a table."""
    header = ("benchmark", "unit", "ours", "peer", "ours/peer", "limit", "ours/limit")
    rows = [header]
    for result in results:
        limit = result.figure(LIMIT)
        peer = result.peer
        rows.append(
            (
                result.id,
                result.unit,
                said(_value(result.figure(OURS))),
                f"{said(peer.value)} ({peer.contestant})" if peer else "-",
                _times(result.ratio(peer), "-"),
                said(_value(limit)),
                _times(result.ratio(limit), "-"),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def as_page(results: Sequence[Result], machine: Mapping[str, str], *, minutes: float) -> str:
    """For docs/: ratios, figures, how they were measured, and on what."""
    lines = [
        "<!-- Generated by `make bench`; don't edit. -->",
        "# Benchmarks",
        "",
        *_paragraphs(_INTRODUCTION),
        "| benchmark | better | Headrace | best peer | ÷ peer | limit | ÷ limit |",
        "|---|---|---|---|---|---|---|",
        *(_ratio_row(result) for result in results),
        "",
        "## All figures",
        "",
        *_figures(results, (OURS, *POSTGRES_PEERS, LIMIT)),
        *_figures(results, (OURS, *SQS_PEERS, BARE, LIMIT)),
        "## How each is measured",
        "",
        *_paragraphs(_METHOD),
        *(_filled(f"- **{result.id}**: {result.title}. {result.how}", indent="  ") for result in results),
        "",
        "## The machine",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in machine.items()),
        "",
        "## Run it",
        "",
        *_paragraphs(_RUNNING.format(minutes=f"{minutes:.0f}")),
    ]
    return "\n".join(lines).rstrip() + "\n"


def said(value: float | None) -> str:
    """A figure, no more exact than it is."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else round(figure.value, 4)


def _times(ratio: float | None, nothing: str) -> str:
    return nothing if ratio is None else f"{ratio:.2f}"


def _ratio_row(result: Result) -> str:
    peer, limit = result.peer, result.figure(LIMIT)
    cells = (
        f"`{result.id}` ({result.unit})",
        result.better,
        said(_value(result.figure(OURS))),
        f"{said(peer.value)} {peer.contestant}" if peer else "",
        f"**{_times(result.ratio(peer), '')}**" if peer else "",
        said(limit.value) if limit else "",
        _times(result.ratio(limit), ""),
    )
    return f"| {' | '.join(cells)} |"


def _figures(results: Sequence[Result], contestants: Sequence[str]) -> list[str]:
    """The table of the benchmarks whose contestants these are; of ours alone, the first has it."""
    measured = [result for result in results if result.contestants == contestants]
    if not measured:
        return []
    return [
        f"| benchmark | {' | '.join(contestants)} |",
        f"|---|{'---|' * len(contestants)}",
        *(_figures_row(result, contestants) for result in measured),
        "",
    ]


def _figures_row(result: Result, contestants: Sequence[str]) -> str:
    cells = []
    for name in contestants:
        figure = result.figure(name)
        if figure is None:
            cells.append(result.missing.get(name, ""))
        else:
            cells.append(
                f"{said(figure.value)}<br>{figure.settings}" + (f"<br>{figure.details}" if figure.details else "")
            )
    return f"| `{result.id}` | {' | '.join(cells)} |"


def _paragraphs(text: str) -> list[str]:
    """Its paragraphs, each with an empty line after it."""
    return [line for paragraph in text.strip().split("\n\n") for line in (_filled(paragraph), "")]


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(text, width=_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
