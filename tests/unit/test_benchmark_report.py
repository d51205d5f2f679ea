"""What the benchmarks' page and list say, given figures: nothing is measured here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.contestants.order import Order, Workload
from benchmarks.journal import Journal
from benchmarks.machine import sync_time
from benchmarks.report import BARE, LIMIT, OURS, Better, Figure, Result, as_json, as_lines, as_page, said
from benchmarks.scenarios import SCENARIOS

if TYPE_CHECKING:
    from pathlib import Path

PG_TEST_FSYNC = """\
1 seconds per test
O_DIRECT supported on this platform for open_datasync and open_sync.

Compare file sync methods using one 8kB write:
(in wal_sync_method preference order, except fdatasync is Linux's default)
        open_datasync                      8333.333 ops/sec     120 usecs/op
        fdatasync                          8474.576 ops/sec     118 usecs/op
        fsync                              4000.000 ops/sec     250 usecs/op

Compare file sync methods using two 8kB writes:
        fdatasync                          5000.000 ops/sec     200 usecs/op
"""


def result(better: Better = "higher", **values: float) -> Result:
    names = {"ours": OURS, "pgqueuer": "PgQueuer", "procrastinate": "Procrastinate", "limit": LIMIT}
    return Result(
        id="drain_best",
        title="One worker",
        unit="jobs/s",
        better=better,
        how="Median of three.",
        figures=[
            Figure(contestant=names[name], value=value, settings=f"batch={index}")
            for index, (name, value) in enumerate(values.items())
        ],
        missing={} if "pgqueuer" in values else {"PgQueuer": "has no groups"},
    )


def test_the_peer_is_the_best_one_whichever_way_is_better() -> None:
    rates = result(ours=50_000, pgqueuer=20_000, procrastinate=800)
    sizes = result("lower", ours=400, pgqueuer=1700, procrastinate=1400)

    assert rates.peer is not None
    assert rates.peer.contestant == "PgQueuer"
    assert sizes.peer is not None
    assert sizes.peer.contestant == "Procrastinate"


def test_a_ratio_above_one_is_in_our_favour_whichever_way_is_better() -> None:
    rates = result(ours=50_000, pgqueuer=20_000)
    sizes = result("lower", ours=400, pgqueuer=1600)

    assert rates.ratio(rates.peer) == pytest.approx(2.5)
    assert sizes.ratio(sizes.peer) == pytest.approx(4.0)


def test_machines_get_null_where_there_is_no_figure() -> None:
    [row] = as_json([result(ours=50_000)])

    assert row == {
        "id": "drain_best",
        "ours": 50_000,
        "peer": None,
        "peer_name": None,
        "limit": None,
        "unit": "jobs/s",
        "settings": {"Headrace": "batch=0"},
    }


def test_a_benchmark_that_ours_can_not_run_has_no_ratio_and_breaks_nothing() -> None:
    without = result(pgqueuer=20_000)

    assert without.ratio(without.peer) is None
    assert as_json([without])[0]["ours"] is None
    assert "20,000 (PgQueuer)" in as_lines([without])
    assert "20,000 PgQueuer" in as_page([without], {}, minutes=1)


def test_the_page_says_ratios_figures_settings_machine_and_what_is_missing() -> None:
    page = as_page([result(ours=50_000, procrastinate=800, limit=100_000)], {"kernel": "Linux 6.1"}, minutes=11.2)

    assert (
        "| `drain_best` (jobs/s) | higher | 50,000 | 800 Procrastinate | **62.50** | 100,000 | 0.50 |"
        in page.splitlines()
    )
    assert (
        "| `drain_best` | 50,000<br>batch=0 | has no groups | 800<br>batch=1 | 100,000<br>batch=2 |"
        in page.splitlines()
    )
    assert "| kernel | Linux 6.1 |" in page.splitlines()
    assert "- **drain_best**: One worker. Median of three." in page.splitlines()
    assert "took 11 minutes" in page
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) <= 120


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (52_345.6, "52,346"), (999.4, "999"), (1.2345, "1.23"), (0.96, "0.96")]
)
def test_a_figure_is_said_no_more_exactly_than_it_is(value: float | None, text: str) -> None:
    assert said(value) == text


def test_the_time_of_an_fdatasync_is_that_of_one_write() -> None:
    assert sync_time(PG_TEST_FSYNC) == "118 µs"
    assert sync_time("pg_test_fsync: error: could not open output file") is None


def test_an_order_reaches_its_process_unchanged() -> None:
    order = Order(
        verb="drain",
        dsn="postgresql://127.0.0.1/x",
        workload=Workload(jobs=20, groups=3, priorities=11, payload_bytes=9, handler="http"),
        settings={"slots": 500, "delete_jobs": "always"},
        url="http://127.0.0.1:8000/jobs",
        alone=False,
    )

    assert Order.from_json(order.to_json()) == order


def test_workloads_are_what_they_say() -> None:
    workload = Workload(groups=2, priorities=11, payload_bytes=2048)

    assert [workload.group(number) for number in range(3)] == ["group-0", "group-1", "group-0"]
    assert [workload.priority(number) for number in (10, 11)] == [10, 0]
    assert len(str(workload.payload(7)["text"])) == 2048
    assert workload.payload(7) == Workload(payload_bytes=2048).payload(7)
    assert Workload().payload(7) == {"number": 7}


def test_the_benchmarks_are_those_that_others_ask_for_by_id() -> None:
    assert [scenario.id for scenario in SCENARIOS] == [
        *("drain_best", "drain_default", "enqueue_concurrent", "enqueue_many", "drain_pinned_xmin"),
        *("wal_bytes_per_job", "drain_backlog_1m", "drain_groups", "drain_priorities", "drain_2kb", "drain_100kb"),
        *("drain_4_processes", "idle_queries_per_minute", "wake_p99_ms", "wake_busy_p99_ms"),
        *("drain_100_workers", "crowd_server_time", "claim_beside_held", "drain_failures", "drain_pinned_groups"),
        *("drain_history", "drain_keys", "idempotency_claim_ms"),
        *("runtime_overhead_us", "sleeping_jobs_rss_mib", "http_handler", "exec_handler", "start_to_first_job_s"),
        *("sqs_drain", "sqs_drain_10ms", "sqs_calls_per_1000", "sqs_enqueue_concurrent"),
    ]


def test_a_run_that_was_broken_off_knows_what_its_commit_has_measured(tmp_path: Path) -> None:
    measured = result(ours=50_000, pgqueuer=20_000)
    path = tmp_path / "measured.jsonl"
    Journal(path, "abc").note(measured, 12.5)
    Journal(path, "other").note(result("lower", ours=1), 1.0)

    journal = Journal(path, "abc")

    assert journal.measured() == {"drain_best": measured}
    assert journal.seconds() == 12.5

    journal.begin_anew()
    assert journal.measured() == {}


def test_what_is_measured_on_sqs_has_a_table_of_its_own() -> None:
    on_sqs = Result(
        id="sqs_drain",
        title="One worker on SQS",
        unit="jobs/s",
        better="higher",
        how="Median of three.",
        figures=[Figure(contestant=name, value=100, settings="") for name in (OURS, "sqs-workers", BARE, LIMIT)],
        missing={},
    )
    page = as_page([result(ours=50_000, pgqueuer=20_000, limit=60_000), on_sqs], {}, minutes=1)
    assert (
        "| benchmark | Headrace | PgQueuer | Procrastinate | by hand |\n|---|---|---|---|---|\n| `drain_best`" in page
    )
    assert "| benchmark | Headrace | sqs-workers | taskiq-aio-sqs | aiobotocore | by hand |" in page
