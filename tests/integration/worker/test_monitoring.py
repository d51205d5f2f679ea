"""docs/monitoring.md, the chart's alerts and its dashboard, on a real Prometheus that scrapes a real worker."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
import yaml

from cluster.places import REPOSITORY
from headrace import new_job
from headrace.metrics import PREFIX, Metrics
from headrace.queues.base import Depth, Owner, QueueSettings, Totals, Witnessed
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from support.postgres import fresh_database
from support.prometheus import Prometheus, promtool, running_prometheus
from support.worker_process import eventually, running_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PAGE = (REPOSITORY / "docs" / "monitoring.md").read_text()
ALERTS = REPOSITORY / "charts" / "headrace" / "files" / "alerts.yaml"
DASHBOARD = json.loads((REPOSITORY / "charts" / "headrace" / "files" / "dashboard.json").read_text())


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def page_queries() -> list[str]:
    return [line for block in blocks("promql") for line in block.splitlines()]


def dashboard_queries() -> list[str]:
    """As Grafana sends them, with every queue chosen."""
    chosen = {"$namespace": ".*", "$queue": ".*", "$__rate_interval": "1m"}
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    for variable, value in chosen.items():
        expressions = [expression.replace(variable, value) for expression in expressions]
    return expressions


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prometheus(postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    """A Prometheus that has seen a worker complete, retry and give up jobs, with the rules of page and chart."""
    directory = tmp_path_factory.mktemp("monitoring")
    original = directory / "original.yaml"
    original.write_text(blocks("yaml")[0])
    async with fresh_database(postgres_dsn) as dsn:
        place = Place(dsn=dsn)
        owner = Owner(namespace="shop", name="orders", uid="1")
        await PostgresProvisioner(place).ensure("orders", QueueSettings(max_retries=1), owner)
        with (
            running_worker(
                directory,
                *("--app", "support.worker_app:app"),
                dsn=dsn,
                BACKGROUND_JOBS__RETRY__INITIALDELAYSECONDS="0.01",
            ) as worker,
            running_prometheus(directory, [worker.port], rules=[ALERTS, original]) as running,
        ):
            # A rate needs two samples, the first of them before the jobs.
            await eventually(lambda: bool(running.query("background_jobs_completed_total")), what="a first sample")
            async with PostgresQueue(place, "orders") as queue:
                await queue.enqueue([new_job("quick")] * 20 + [new_job("failing")] * 3 + [new_job("gated", "never")])
            await eventually(
                lambda: (
                    running.value("background_jobs_failed_total") == 3
                    and running.value("background_jobs_completed_total") == 20
                    and running.value("background_jobs_busy_slots") == 1
                    and running.value("background_jobs_queue_in_flight") == 1
                    and running.value("background_jobs_queue_dead_lettered") == 3
                    and running.value("background_jobs_lease_extensions_total > 0") is not None
                ),
                what="all of it seen by Prometheus",
            )
            yield running


def test_every_query_of_the_page_and_the_dashboard_finds_the_queue(prometheus: Prometheus) -> None:
    queries = page_queries() + dashboard_queries()
    assert len(queries) > 20
    for query in queries:
        series = prometheus.query(query)
        assert [one["metric"] for one in series] == [{"namespace": "shop", "queue": "orders"}], query


def test_the_numbers_are_what_happened(prometheus: Prometheus) -> None:
    value = prometheus.value
    assert value("background_jobs_retried_total") == 3
    assert value("background_jobs_duration_count") == 26
    assert value("background_jobs_queue_wait_time_count") == 27, "the one that runs has started, too"
    p95 = [query for query in page_queries() if "0.95" in query]
    assert len(p95) == 2
    for query in p95:
        seconds = value(query)
        assert seconds is not None
        assert 0 < seconds < 7200, "within the buckets"


@pytest.mark.asyncio(loop_scope="module")
async def test_the_alerts_load_and_each_can_be_judged(prometheus: Prometheus) -> None:
    def judged() -> bool:
        return all(rule["health"] == "ok" for rule in prometheus.rules())

    await eventually(judged, what="every rule evaluated")
    names = {rule["name"]: rule for rule in prometheus.rules()}
    assert {"BackgroundJobsQueueDepth", "BackgroundJobsFailureRate", "HeadraceQueueBacklog"} <= names.keys()
    assert names["HeadraceQueueBacklog"]["state"] == "inactive"


def test_the_page_lists_every_metric_with_its_kind_and_no_other(prometheus: Prometheus) -> None:
    listed = dict(re.findall(rf"^\| `({PREFIX}\w+)` \| (\w+)", PAGE, re.MULTILINE))
    metrics = Metrics()
    metrics.of("shop", "orders").observe_depth(Depth(totals=Totals()))
    of_this_worker = {family.name for family in metrics.registry.collect()}
    metrics.of("shop", "orders").witnessed = lambda: Witnessed(held=0, empty_for_seconds=None, oldest_age_seconds=0)
    families = [family for family in metrics.registry.collect() if family.name.startswith(PREFIX)]
    assert listed == {family.name + "_total" * (family.type == "counter"): family.type for family in families}
    for name, kind in listed.items():
        if name.removesuffix("_total") not in of_this_worker:
            continue  # Its queue is counted exactly, and needs no witness.
        [found] = prometheus.query(name + "_count" * (kind == "histogram"))
        assert found["metric"].keys() - {"__name__", "instance", "job"} == {"namespace", "queue"}, name


def test_the_rules_are_good_rules() -> None:
    assert "8 rules found" in promtool("check", "rules", ALERTS)


def series(name: str, values: str, *, pod: str = "a", queue: str = "orders") -> dict[str, str]:
    labels = f'namespace="shop",queue="{queue}",instance="{pod}:8080",job="workers"'
    return {"series": f"{PREFIX}{name}{{{labels}}}", "values": values}


BACKLOG = [series("queue_depth", "1001x20", pod=pod) for pod in ("a", "b")]
FAILURES = [series("failed_total", "0+12x20")]  # 0.2 a second
AT_DEPTH = [series("queue_depth", "1000x20")]
AT_RATE = [series("failed_total", "0+6x20")]  # 0.1 a second


@pytest.mark.parametrize(
    ("rules", "samples", "alert", "fires_at", "silent_at", "labels"),
    [
        pytest.param("page", BACKLOG[:1], "BackgroundJobsQueueDepth", "5m", "4m", "each", id="depth"),
        pytest.param("page", FAILURES, "BackgroundJobsFailureRate", "5m", None, "each", id="failure-rate"),
        pytest.param("page", AT_DEPTH, "BackgroundJobsQueueDepth", None, "15m", "each", id="1000"),
        pytest.param("page", AT_RATE, "BackgroundJobsFailureRate", None, "15m", "each", id="0.1"),
        pytest.param("chart", BACKLOG, "HeadraceQueueBacklog", "5m", "4m", "queue", id="chart-backlog"),
        pytest.param(
            "chart",
            [*BACKLOG, series("queue_paused", "1x20")],
            *("HeadraceQueueBacklog", None, "15m", "queue"),
            id="chart-backlog-of-a-paused-queue",
        ),
        pytest.param(
            "chart",
            [series("failed_total", "0+4x20", pod=pod) for pod in ("a", "b")],
            *("HeadraceJobsFail", "10m", "1m", "queue"),
            id="chart-failures-of-all-workers-together",
        ),
        pytest.param(
            "chart",
            [series("queue_depth", "5x40"), series("completed_total", "7x40")],
            *("HeadraceQueueStands", "10m", "9m", "queue"),
            id="chart-stands",
        ),
        pytest.param(
            "chart",
            [series("queue_depth", "5x40"), series("completed_total", "0+1x40")],
            *("HeadraceQueueStands", None, "30m", "queue"),
            id="chart-moves",
        ),
        pytest.param(
            "chart",
            [series("queue_depth", "5x40"), series("completed_total", "7x40"), series("queue_paused", "1x40")],
            *("HeadraceQueueStands", None, "30m", "queue"),
            id="chart-stands-since-it-is-paused",
        ),
        pytest.param(
            "chart",
            [series("queue_oldest_age_seconds", "901x20"), series("queue_paused", "1x20")],
            *("HeadraceJobsStartLate", None, "15m", "queue"),
            id="chart-late-since-it-is-paused",
        ),
        pytest.param(
            "chart",
            [series("queue_oldest_age_seconds", "901x20")],
            *("HeadraceJobsStartLate", "5m", "4m", "queue"),
            id="chart-late",
        ),
        pytest.param(
            "chart",
            [series("queue_oldest_age_seconds", "864001x20")],
            *("HeadraceJobsNearRetention", "10m", "9m", "queue"),
            id="chart-near-retention",
        ),
        pytest.param(
            "chart",
            [series("queue_dead_lettered", "3x11000")],
            *("HeadraceDeadLettersWait", "7d1h", "6d", "queue"),
            id="chart-dead-letters-of-a-week",
        ),
        pytest.param(
            "chart",
            [series("queue_dead_lettered", "3x5000 0x100 3x6000")],
            *("HeadraceDeadLettersWait", None, "7d1h", "queue"),
            id="chart-dead-letters-that-were-looked-after",
        ),
        pytest.param(
            "chart",
            [series("lease_lost_total", "0 0 1x20")],
            *("HeadraceLeasesLost", "3m", "1m", "queue"),
            id="chart-lease-lost",
        ),
        pytest.param(
            "chart",
            [series("event_loop_stalls_total", "0 0 1x20")],
            *("HeadraceEventLoopBlocked", "3m", "1m", "queue"),
            id="chart-event-loop",
        ),
    ],
)
def test_an_alert_fires_when_it_should_and_not_before(
    tmp_path: Path,
    rules: str,
    samples: list[dict[str, str]],
    alert: str,
    fires_at: str | None,
    silent_at: str | None,
    labels: str,
) -> None:
    own = {"namespace": "shop", "queue": "orders"}
    if labels == "each":
        own |= {"instance": "a:8080", "job": "workers"}
    groups = yaml.safe_load(blocks("yaml")[0] if rules == "page" else ALERTS.read_text())
    [rule] = [rule for group in groups["groups"] for rule in group["rules"] if rule["alert"] == alert]
    rule.pop("annotations", None)  # Their texts are not what is judged here.
    checks = [
        {"eval_time": at, "alertname": alert, "exp_alerts": alerts}
        for at, alerts in ((silent_at, []), (fires_at, [{"exp_labels": own | rule.get("labels", {})}]))
        if at is not None
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "one", "rules": [rule]}]}))
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "30s",
        "tests": [{"interval": "1m", "input_series": samples, "alert_rule_test": checks}],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    promtool("test", "rules", tmp_path / "test.yaml")
