from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import urllib.error
import urllib.request
from contextlib import suppress

import pytest

from headrace.health import STALL_SECONDS, STUCK_AFTER_SECONDS, HealthServerError, Pulse, serving
from headrace.metrics import DEPTH_MAX_AGE_SECONDS, Metrics
from headrace.queues.base import Depth, Totals, Witnessed
from support.worker_process import eventually


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_depth_is_published_until_it_is_too_old() -> None:
    clock = Clock()
    metrics = Metrics(clock=clock)
    assert b"background_jobs_queue_depth" not in metrics.render(), "no depth, no series"
    metrics.of("shop", "orders").observe_depth(
        Depth(ready=7, delayed=6, blocked=2, in_flight=5, dead_lettered=4, oldest_ready_age_seconds=3, paused=True)
    )
    clock.now += DEPTH_MAX_AGE_SECONDS
    text = metrics.render().decode()
    for name, value in {
        "queue_depth": 7,
        "queue_delayed": 6,
        "queue_blocked": 2,
        "queue_paused": 1,
        "queue_in_flight": 5,
        "queue_dead_lettered": 4,
        "queue_oldest_age_seconds": 3,
    }.items():
        assert f'background_jobs_{name}{{namespace="shop",queue="orders"}} {value}.0\n' in text
    clock.now += 1
    assert b"background_jobs_queue" not in metrics.render().replace(b"background_jobs_queue_wait", b"")


@pytest.mark.parametrize("name", ["duration", "queue_wait_time"])
def test_buckets_reach_from_milliseconds_past_an_hour(name: str) -> None:
    metrics = Metrics()
    metrics.of("shop", "orders")
    text = metrics.render().decode()
    assert f'background_jobs_{name}_bucket{{le="0.005",' in text
    assert f'background_jobs_{name}_bucket{{le="7200.0",' in text


def test_what_has_arrived_is_the_queues_own_count_and_there_where_it_keeps_one() -> None:
    metrics = Metrics()
    metrics.of("shop", "mails").observe_depth(Depth(ready=1))
    assert "queue_arrived" not in metrics.render().decode()
    metrics.of("shop", "orders").observe_depth(Depth(ready=1, totals=Totals(arrived=17)))
    shown = [
        line for line in metrics.render().decode().splitlines() if line.startswith("background_jobs_queue_arrived")
    ]
    assert shown == ['background_jobs_queue_arrived_total{namespace="shop",queue="orders"} 17.0']


def test_no_series_is_published_twice() -> None:
    metrics = Metrics()
    metrics.of("shop", "orders").observe_depth(Depth(totals=Totals()))
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith("background_jobs_")]
    assert len(lines) == len({line.rpartition(" ")[0] for line in lines})


def test_a_process_publishes_each_of_its_queues_in_one_registry() -> None:
    metrics = Metrics()
    metrics.of("shop", "orders").completed.inc(3)
    metrics.of("shop", "mails").completed.inc()
    assert metrics.of("shop", "orders") is metrics.of("shop", "orders")
    metrics.of("shop", "mails").duration.observe([2])
    metrics.of("shop", "mails").observe_depth(Depth(ready=5))
    metrics.event_loop_stalled()
    lines = metrics.render().decode().splitlines()
    for line in (
        'background_jobs_completed_total{namespace="shop",queue="orders"} 3.0',
        'background_jobs_completed_total{namespace="shop",queue="mails"} 1.0',
        'background_jobs_duration_count{namespace="shop",queue="orders"} 0.0',
        'background_jobs_duration_count{namespace="shop",queue="mails"} 1.0',
        'background_jobs_duration_bucket{le="1.0",namespace="shop",queue="mails"} 0.0',
        'background_jobs_duration_bucket{le="2.5",namespace="shop",queue="mails"} 1.0',
        'background_jobs_duration_sum{namespace="shop",queue="mails"} 2.0',
        'background_jobs_queue_depth{namespace="shop",queue="mails"} 5.0',
        'background_jobs_event_loop_stalls_total{namespace="shop",queue="orders"} 1.0',
        'background_jobs_event_loop_stalls_total{namespace="shop",queue="mails"} 1.0',
    ):
        assert line in lines
    assert not [line for line in lines if line.startswith("background_jobs_queue_depth{") and "orders" in line]
    assert len([line for line in lines if line == "# TYPE background_jobs_duration histogram"]) == 1


def test_what_polls_have_seen_is_published_where_a_queue_tells_it() -> None:
    metrics = Metrics()
    metrics.of("shop", "mails")
    assert b"background_jobs_held" not in metrics.render()
    seen = [
        Witnessed(held=0, empty_for_seconds=42.5, oldest_age_seconds=0.0),
        Witnessed(held=3, empty_for_seconds=None, oldest_age_seconds=7.5),
    ]
    metrics.of("shop", "orders").witnessed = lambda: seen[0]
    labels = '{namespace="shop",queue="orders"}'
    text = metrics.render().decode()
    assert f"background_jobs_held{labels} 0.0\n" in text
    assert f"background_jobs_empty_polls_seconds{labels} 42.5\n" in text
    seen.pop(0)
    text = metrics.render().decode()
    assert f"background_jobs_held{labels} 3.0\n" in text
    assert f"background_jobs_empty_polls_seconds{labels} 0.0\n" in text
    assert f"background_jobs_received_age_seconds{labels} 7.5\n" in text
    assert 'queue="mails"' not in "".join(line for line in text.splitlines() if "background_jobs_held{" in line)


def test_a_drain_shows_for_how_long_it_goes_on() -> None:
    clock = Clock()
    metrics = Metrics(clock=clock)
    queue = metrics.of("shop", "orders")
    labels = '{namespace="shop",queue="orders"}'
    assert f"background_jobs_draining{labels} 0.0" in metrics.render().decode()
    assert f"background_jobs_drain_seconds{labels} 0.0" in metrics.render().decode()
    queue.start_draining()
    clock.now += 7
    assert f"background_jobs_draining{labels} 1.0" in metrics.render().decode()
    assert f"background_jobs_drain_seconds{labels} 7.0" in metrics.render().decode()


def fetch(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}") as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_endpoints_say_stuck_ready_and_the_metrics() -> None:
    state = {"stuck": False, "ready": False}
    with serving(
        "127.0.0.1",
        0,
        is_stuck=lambda: state["stuck"],
        is_ready=lambda: state["ready"],
        metrics=lambda: b"x 1\n",
        depths=lambda: b"[]",
    ) as port:
        assert fetch(port, "/healthz") == (200, "ok\n")
        assert fetch(port, "/readyz")[0] == 503
        state.update(stuck=True, ready=True)
        assert fetch(port, "/healthz")[0] == 503
        assert fetch(port, "/readyz?verbose")[0] == 200
        assert fetch(port, "/metrics") == (200, "x 1\n")
        assert fetch(port, "/depth") == (200, "[]")
        assert fetch(port, "/")[0] == 404
        with (
            pytest.raises(HealthServerError, match="HEADRACE_METRICS_ADDRESS"),
            serving("127.0.0.1", port, is_stuck=bool, is_ready=bool, metrics=bytes, depths=bytes),
        ):
            pass


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def test_an_address_of_ipv6_is_served_and_where_the_machine_has_none_the_setting_is_named() -> None:
    if not has_ipv6():
        with (
            pytest.raises(HealthServerError, match="HEADRACE_METRICS_ADDRESS"),
            serving("::1", 0, is_stuck=bool, is_ready=bool, metrics=bytes, depths=bytes),
        ):
            pass
        return
    for served, asked in (("::1", "[::1]"), ("::", "[::1]"), ("::", "127.0.0.1")):
        with serving(served, 0, is_stuck=bool, is_ready=bool, metrics=bytes, depths=bytes) as port:
            assert fetch(port, "/healthz", host=asked) == (200, "ok\n")


async def test_a_client_that_leaves_in_the_middle_is_no_news(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving("127.0.0.1", 0, is_stuck=bool, is_ready=bool, metrics=lambda: bytes(50_000_000), depths=bytes) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            client.recv(1)
        await eventually(lambda: "not answered" in caplog.text, what="noticed")
    assert [record.levelname for record in caplog.records if "not answered" in record.message] == ["DEBUG"]
    assert capfd.readouterr().err == ""


def test_a_loop_that_does_not_turn_for_long_is_stuck() -> None:
    clock = Clock()
    pulse = Pulse(clock=clock)
    clock.now += STUCK_AFTER_SECONDS
    assert not pulse.is_stuck
    clock.now += 1
    assert pulse.is_stuck
    pulse.turn()
    assert not pulse.is_stuck


class Stall:
    """A loop whose clock the test moves, and what is said of it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.counted = 0
        self.pulse = Pulse(clock=self.clock, on_stall=self._count)

    def _count(self) -> None:
        self.counted += 1

    def wait(self, seconds: float) -> None:
        """The loop stands; the watching thread looks twice a second."""
        for _ in range(int(seconds * 2)):
            self.clock.now += 0.5
            self.pulse.look()


def test_a_standing_loop_is_counted_once_and_both_its_ends_are_said(caplog: pytest.LogCaptureFixture) -> None:
    stall = Stall()
    stall.wait(STALL_SECONDS)
    assert (stall.counted, caplog.messages) == (0, [])
    stall.wait(10)
    assert stall.counted == 1
    stall.pulse.turn()
    said, ended = caplog.messages
    assert said.startswith("event loop has not turned for 2.5 s, no job gets on: ")
    assert ended == "event loop turns again, it stood for 12.0 s"
    stall.wait(1)
    stall.pulse.turn()
    assert stall.counted == 1


def test_a_loop_that_stands_again_and_again_is_counted_each_time_and_said_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stall = Stall()
    for _ in range(25):
        stall.wait(3)
        stall.pulse.turn()
    assert stall.counted == 25
    said = [message for message in caplog.messages if "has not turned" in message]
    assert len(said) == 2
    assert "(19 more times since this was last said)" in said[1]


def test_a_process_that_was_stopped_is_not_blamed_on_a_line_of_code(caplog: pytest.LogCaptureFixture) -> None:
    stall = Stall()
    stall.clock.now += 60
    stall.pulse.look()  # Before the loop comes to its turn.
    assert caplog.messages == []
    stall.pulse.turn()
    assert stall.counted == 1
    assert "the process was stopped, or something held the interpreter" in caplog.messages[0]


async def test_the_complaint_names_the_line_that_blocks(caplog: pytest.LogCaptureFixture) -> None:
    complained = threading.Event()
    pulse = Pulse(on_stall=complained.set)
    beating = asyncio.create_task(pulse.run())
    await asyncio.sleep(0)
    assert complained.wait(30)
    await asyncio.sleep(0)
    beating.cancel()
    await asyncio.wait([beating])
    said = caplog.messages[0]
    assert f"{__file__}:" in said
    assert "in test_the_complaint_names_the_line_that_blocks" in said


def test_a_depth_is_told_with_its_age_while_it_is_fresh() -> None:
    clock = Clock()
    metrics = Metrics(clock=clock)
    metrics.of("shop", "orders").observe_depth(Depth(ready=3, paused=True, age_seconds=4.0, totals=Totals(arrived=9)))
    clock.now += 2
    (told,) = json.loads(metrics.render_depths())
    assert (told["namespace"], told["queue"], told["ready"], told["paused"]) == ("shop", "orders", 3, True)
    assert (told["age_seconds"], told["arrived"]) == (6.0, 9)
    clock.now += 60
    assert metrics.render_depths() == b"[]"
