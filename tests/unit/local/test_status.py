"""What is shown of a run."""

from __future__ import annotations

import io
import json
import os
import pty
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console
from rich.live import Live

from headrace_operator.core.model import QueueDepth
from headrace_operator.local.status import Rate, Status, pool_status, queue_status
from headrace_operator.local.views import JsonView, PlainView, Stream, TableView

if TYPE_CHECKING:
    from collections.abc import Callable

DSN = "postgresql://headrace:" + "x" * 60 + "@127.0.0.1:54321/postgres"


def condition(status: str, reason: str) -> dict[str, Any]:
    return {"conditions": [{"type": "Ready", "status": status, "reason": reason, "message": "so it is"}]}


def queue(status: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"namespace": "default", "name": "orders"}, "status": status}


def pool(status: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "shop", "name": "workers"},
        "spec": {"queueRef": {"name": "orders"}},
        "status": status,
    }


SCALED = {"desiredReplicas": 3, "scaling": {"reason": "Load", "message": "30 ready at 10 a worker: 3 workers"}}
STATUS = Status(
    queues=[queue_status(queue({}), QueueDepth(ready=30, in_flight=5, blocked=3, delayed=2, dead_lettered=1))],
    pools=[
        pool_status(
            pool({**SCALED, **condition("False", "CrashLoopBackOff")}), current=2, ready=1, jobs_per_second=4.26
        )
    ],
)


def test_a_problem_is_shown_and_a_start_is_none() -> None:
    assert queue_status(queue(condition("False", "BackendUnreachable")), None).problem == "BackendUnreachable: so it is"
    assert queue_status(queue(condition("True", "Ready")), None).problem is None
    starting = pool_status(pool(condition("False", "WorkersStarting")), current=1, ready=0, jobs_per_second=0)
    assert starting.problem is None


def test_an_unknown_depth_is_no_zero() -> None:
    assert queue_status(queue({}), None).line() == "queue orders: ready ?  in flight ?  blocked ?  delayed ?  dead ?"


def test_a_rate_is_that_of_the_last_seconds() -> None:
    rate = Rate()
    assert rate.per_second(100, 0) == 0
    assert rate.per_second(110, 1) == 10
    assert [rate.per_second(110, second) for second in (4, 6, 7)][-1] == 0


def test_plain_lines_are_written_when_something_changes(capsys: pytest.CaptureFixture[str]) -> None:
    view = PlainView(is_quiet=True)
    view.started(dsns={"default": DSN}, folder="/data", notes=["a note"])
    view.show(STATUS)
    view.show(STATUS)
    view.log("workers-1", "not heard")

    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "a note"
    assert f"  export HEADRACE_DSN={DSN}" in lines
    assert lines[3:] == [
        "queue orders: ready 30  in flight 5  blocked 3  delayed 2  dead 1",
        "pool shop/workers: 1 ready of 2, 3 desired  4.3 jobs/s  Load  CrashLoopBackOff: so it is",
    ]
    assert err == ""


def test_of_several_databases_each_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    PlainView(is_quiet=True).started(dsns={"default": DSN, "shop": f"{DSN}_2"}, folder="/data", notes=[])
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"  export HEADRACE_DSN={DSN}  # namespace default",
        f"  export HEADRACE_DSN={DSN}_2  # namespace shop",
    ]


def test_a_program_gets_an_object_a_line_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    view = JsonView(is_quiet=False)
    view.started(dsns={"default": DSN}, folder="/data", notes=["a note"])
    view.show(STATUS)
    view.say("something happened")
    view.log("workers-1", "hello")

    out, err = capsys.readouterr()
    started, status = (json.loads(line) for line in out.splitlines())
    assert started == {
        "type": "started",
        "dsn": DSN,
        "dsns": {"default": DSN},
        "data_dir": "/data",
        "notes": ["a note"],
    }
    assert status["type"] == "status"
    assert status["queues"][0] | {"ready": 30, "dead_lettered": 1} == status["queues"][0]
    assert status["pools"][0] | {"current": 2, "ready": 1, "desired": 3, "reason": "Load"} == status["pools"][0]
    assert err.splitlines() == ["something happened", "workers-1 | hello"]


def test_a_terminal_gets_a_table_and_a_dsn_that_can_be_copied() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=70, color_system=None)
    with Live(console=console, auto_refresh=False) as live:
        view = TableView(live, Stream(out), is_quiet=False)
        view.started(dsns={"default": DSN}, folder="/data", notes=[])
        view.show(STATUS)
        view.log("workers-1", "[not markup]")
        live.refresh()
    shown = out.getvalue()
    assert f"HEADRACE_DSN={DSN}" in shown
    assert "[not markup]" in shown
    assert "DEAD" in shown
    assert "30 ready at 10 a worker" in " ".join(shown.split())


@pytest.mark.parametrize("ends", [os.pipe, pty.openpty], ids=["pipe", "terminal"])
def test_what_nobody_reads_any_more_goes_nowhere(ends: Callable[[], tuple[int, int]]) -> None:
    reader, writer = ends()
    with os.fdopen(writer, "w") as out:
        stream = Stream(out)
        print("heard", file=stream, flush=True)
        assert os.read(reader, 100).strip() == b"heard"
        assert stream.is_read
        os.close(reader)
        for _ in range(2):
            print("not heard", file=stream, flush=True)
        assert not stream.is_read


def test_a_stream_that_was_closed_before_is_none_to_wait_for() -> None:
    stream = Stream(None)
    print("not heard", file=stream, flush=True)
    assert stream.is_read
    assert not stream.isatty()
