from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from headrace.health import STUCK_AFTER_SECONDS, HealthServerError, Pulse, serving
from headrace.metrics import DEPTH_MAX_AGE_SECONDS, WorkerMetrics
from headrace.queues.base import Depth


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_depth_is_published_until_it_is_too_old() -> None:
    clock = Clock()
    metrics = WorkerMetrics("shop", "orders", clock=clock)
    assert b"background_jobs_queue_depth" not in metrics.render(), "no depth, no series"
    metrics.observe_depth(Depth(ready=7, delayed=6, in_flight=5, dead_lettered=4, oldest_ready_age_seconds=3))
    clock.now += DEPTH_MAX_AGE_SECONDS
    text = metrics.render().decode()
    for name, value in {
        "queue_depth": 7,
        "queue_delayed": 6,
        "queue_in_flight": 5,
        "queue_dead_lettered": 4,
        "queue_oldest_age_seconds": 3,
    }.items():
        assert f'background_jobs_{name}{{namespace="shop",queue="orders"}} {value}.0\n' in text
    clock.now += 1
    assert b"background_jobs_queue" not in metrics.render().replace(b"background_jobs_queue_wait", b"")


@pytest.mark.parametrize("name", ["duration", "queue_wait_time"])
def test_buckets_reach_from_milliseconds_past_an_hour(name: str) -> None:
    text = WorkerMetrics("shop", "orders").render().decode()
    assert f'background_jobs_{name}_bucket{{le="0.005",' in text
    assert f'background_jobs_{name}_bucket{{le="7200.0",' in text


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_endpoints_say_stuck_ready_and_the_metrics() -> None:
    state = {"stuck": False, "ready": False}
    with serving(
        "127.0.0.1", 0, is_stuck=lambda: state["stuck"], is_ready=lambda: state["ready"], metrics=lambda: b"x 1\n"
    ) as port:
        assert fetch(port, "/healthz") == (200, "ok\n")
        assert fetch(port, "/readyz")[0] == 503
        state.update(stuck=True, ready=True)
        assert fetch(port, "/healthz")[0] == 503
        assert fetch(port, "/readyz?verbose")[0] == 200
        assert fetch(port, "/metrics") == (200, "x 1\n")
        assert fetch(port, "/")[0] == 404
        with (
            pytest.raises(HealthServerError, match="HEADRACE_METRICS_ADDRESS"),
            serving("127.0.0.1", port, is_stuck=bool, is_ready=bool, metrics=bytes),
        ):
            pass


def test_a_loop_that_does_not_turn_for_long_is_stuck() -> None:
    clock = Clock()
    pulse = Pulse(clock=clock)
    clock.now += STUCK_AFTER_SECONDS
    assert not pulse.is_stuck
    clock.now += 1
    assert pulse.is_stuck
    pulse.turn()
    assert not pulse.is_stuck
