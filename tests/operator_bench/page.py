"""What is said of the operator's figures: the page, and the list for machines."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operator_bench.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GROWTH = Path(__file__).with_name("growth.json")
"""What growing has shown the last time that it was measured."""

_INTRODUCTION = """\
# What the operator costs

<!-- Written by `make bench-operator`. -->

The operator's process beside {size:,} JobQueues and as many JobWorkerPools, in mode HPA with `minReplicas` 0,
on a real API server with its controllers and a real PostgreSQL, on one machine ({machine}). No node runs: what workers
there are is played. Processor time is that of the operator's process alone.
"""

_METHOD = """\
## How it is measured

Objects stand in ten namespaces, a Secret for each DSN in each of them. They are applied by one `kubectl apply`. Then
the operator is stopped and started; a minute after it knows the depth of every queue and has looked at every object, a
window of a minute begins in which nobody changes anything. Writes and requests are the operator's own, counted by its
`headrace_operator_api_requests_total`; logins are PostgreSQL's `pg_stat_database.sessions`.

*Busy*: each of a tenth of the pools has a worker whose page shows another depth each time; a sample's age is what the
external metrics API says of it. *Dead*: the databases take
connections and never say a word; the hostile page is a megabyte in the place of a worker's depth. A wake is the time
from before a first job is enqueued to the moment when the API shows that the pool wants a worker.

`make bench-operator` measures all of it anew but for the growth, and writes this page and
`build/bench/operator.json`; `SIZE=100` makes it smaller, `ONLY=idle-one` measures one and only prints it. It wants
PostgreSQL's server binaries and a machine with nothing else to do. The code is in `tests/operator_bench`; a small
form of it that counts what an idle minute costs is part of `make test`.
"""

_ON_GROWTH = """\
Idle pairs on one DSN, made by 16 clients at once instead of `kubectl`, more and more of them on one stage
(`make bench-operator ONLY=growth SIZE=5000`). Waits are those of somebody who asks for `/healthz` ten times a second:
for so long the event loop was at something else.
"""

_WHAT_BREAKS_FIRST = """\
The page of metrics was measured with 10,000 queues: more than a second of a processor, 0.13 ms a queue, which is why
it is made beside the event loop. The rest follows from what is counted above. What a pair costs at rest does not
depend on how many there are: a look about every ten minutes, and a count every 20 s, of 200 queues at a time. So a
start is what is felt first: each Deployment and autoscaler is applied once, eight looks of a namespace at a time,
while the API server takes what it can; what a sample makes urgent comes first meanwhile. Then memory, though of each
object only that is held which is read of it. And a Secret is read once a minute for all who use it, since no right to
watch Secrets is asked for: 10,000 queues with a Secret each would cost the API server 200 requests a second, and one
Secret for each namespace costs next to none.
"""

_KEDA = """\
## Beside KEDA

KEDA 2.21.0 measured on kind (Kubernetes 1.37.2, one node, two cores): as many ScaledObjects, each with a `postgresql`
trigger, `pollingInterval` 30, `cooldownPeriod` 30, on a Deployment at 0. It carried a node and its pods
besides, so read it as an order of magnitude.

| KEDA, 1,000 idle ScaledObjects on one PostgreSQL | |
|---|---|
| processor, operator | 0.073 cores (an upper bound: it was still reconciling; from 300 of them scaled up, 0.05) |
| memory, operator and metrics adapter | 390 MiB and 105 MiB |
| connections held | 1,000: one a ScaledObject |
| transactions of the database | 66.7 a second |
| API writes of the operator | 18.9 a second while it reconciled anew; 0 an object once idle (read in its source) |
| all Ready after the apply | about 340 s for the last 700, bound by its 20 requests a second |
| wake from zero, mean / p50 / max | 17.1 / 17.4 / 28.8 s (poll 30); 2.4 / 2.4 / 4.5 s with `pollingInterval` 5 |
"""


def as_page(results: Mapping[str, Sequence[Figure]], *, size: int, machine: str) -> str:
    """The page of a whole run."""
    parts = [_INTRODUCTION.format(size=size, machine=machine)]
    parts += [f"## {title}\n\n{_table(figures)}" for title, figures in results.items()]
    parts.append(_on_growth())
    return "\n".join([*parts, _KEDA, _METHOD])


def _on_growth() -> str:
    """What was measured the last time, where it was, and what it means."""
    grown = json.loads(GROWTH.read_text()) if GROWTH.exists() else {}
    tables = [f"{_ON_GROWTH}\n{_by_column([Figure(**value) for value in values])}\n" for values in grown.values()]
    return f"## On the way to 10,000\n\n{''.join(tables)}{_WHAT_BREAKS_FIRST}"


def as_lines(figures: Sequence[Figure]) -> list[str]:
    """For people who wait."""
    return [
        f"  {figure.column or ''} {figure.name}: {_value(figure.value, figure.unit)}{_verdict(figure)}"
        for figure in figures
    ]


def as_json(results: Mapping[str, Sequence[Figure]]) -> dict[str, Any]:
    """For machines."""
    return {title: [asdict(figure) for figure in figures] for title, figures in results.items()}


def _table(figures: Sequence[Figure]) -> str:
    rows = [
        f"| {figure.name} | {_value(figure.value, figure.unit)} |"
        f" {'' if figure.wanted is None else _value(figure.wanted, figure.unit)} |"
        for figure in figures
    ]
    return "\n".join(["| | measured | wanted at most |", "|---|---|---|", *rows, ""])


def _by_column(figures: Sequence[Figure]) -> str:
    """A column for each size."""
    columns = list(dict.fromkeys(figure.column or "" for figure in figures))
    rows: dict[str, dict[str, str]] = {}
    for figure in figures:
        rows.setdefault(figure.name, {})[figure.column or ""] = _value(figure.value, figure.unit)
    lines = [f"| {name} | {' | '.join(values[column] for column in columns)} |" for name, values in rows.items()]
    return "\n".join([f"| pairs | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}", *lines, ""])


def _verdict(figure: Figure) -> str:
    return "" if figure.holds else f"  (wanted: {_value(figure.wanted or 0, figure.unit)} at most)"


def _value(value: float, unit: str) -> str:
    digits = 0 if value >= 100 or value == int(value) else 3 if value < 0.1 else 2
    return f"{value:,.{digits}f} {unit}".rstrip()
