"""What users' own tests get: a queue in memory, a worker on it, and time that passes by itself."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from headrace import App, Context, DeadLetter, from_url, new_job
from headrace.testing import RunawayJobsError, UnknownJobNameError

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.testing import LocalQueue

pytest_plugins = ["headrace.testing.pytest", "pytester"]

PAGE = Path(__file__).parents[3] / "docs" / "testing.md"


@pytest.fixture
def app() -> App:
    app = App()
    attempts: list[int] = []

    @app.job("confirm")
    async def confirm(payload: dict[str, Any], context: Context) -> None:
        await context.enqueue([new_job("mail", payload, delay_seconds=3600)])

    @app.job("mail")
    def mail(payload: dict[str, Any]) -> None:
        assert payload["order"]

    @app.job("flaky")
    async def flaky(payload: Any, context: Context) -> None:
        attempts.append(context.attempt)
        if context.attempt < 3:
            raise ConnectionError("no answer")

    @app.job("broken")
    async def broken(payload: Any) -> None:
        raise ZeroDivisionError("nothing to divide by")

    @app.job("hopeless")
    async def hopeless(payload: Any) -> None:
        raise DeadLetter("there is no such order")

    @app.job("forever")
    async def forever(payload: Any, context: Context) -> None:
        await context.enqueue([new_job("forever")])

    @app.job("hanging")
    async def hanging(payload: Any) -> None:
        await asyncio.Event().wait()

    return app


async def test_jobs_run_to_their_end_with_those_they_enqueue_and_delays_pass_at_once(
    headrace_queue: LocalQueue, app: App
) -> None:
    await headrace_queue.enqueue([new_job("confirm", {"order": 17})])
    ran = await headrace_queue.run_until_empty(app)
    assert [ended.job.name for ended in ran.completed] == ["confirm", "mail"]
    assert json.loads(ran.completed[1].job.payload) == {"order": 17}
    assert (ran.dead, ran.failed) == ((), ())
    assert 3599 < ran.seconds <= 3600
    ran.raise_for_dead()


async def test_a_failed_attempt_is_retried_without_waiting(headrace_queue: LocalQueue, app: App) -> None:
    await headrace_queue.enqueue([new_job("flaky")])
    ran = await headrace_queue.run_until_empty(app)
    assert [ended.job.name for ended in ran.completed] == ["flaky"]
    assert [(failed.attempt, "no answer" in failed.failure.error) for _, failed in ran.failed] == [(1, True), (2, True)]
    assert ran.seconds > 2, "the backoff of two retries"


async def test_a_job_that_is_given_up_tells_why(headrace_queue: LocalQueue, app: App) -> None:
    await headrace_queue.enqueue([new_job("broken"), new_job("hopeless")])
    ran = await headrace_queue.run_until_empty(app)
    assert [(ended.job.name, ended.reason) for ended in ran.dead] == [
        ("broken", "RetriesExhausted"),
        ("hopeless", "there is no such order"),
    ]
    assert len(ran.failed) == 4
    with pytest.raises(
        AssertionError, match=r"(?s)'broken' was given up: RetriesExhausted.*Traceback.*ZeroDivisionError"
    ):
        ran.raise_for_dead()


async def test_a_handler_is_told_whether_what_it_enqueues_is_new(headrace_queue: LocalQueue) -> None:
    app, told = App(), []

    @app.job("order")
    async def order(payload: Any, context: Context) -> None:
        told.extend(await context.enqueue([new_job("mail", deduplication_key="17"), new_job("mail")]))

    @app.job("mail")
    async def mail(payload: Any) -> None: ...

    await headrace_queue.enqueue([new_job("order"), new_job("order")])
    ran = await headrace_queue.run_until_empty(app)
    assert [enqueued.is_new for enqueued in told] == [True, True, False, True]
    assert told[2].id == told[0].id
    assert {ended.job.id for ended in ran.completed if ended.job.name == "mail"} == {each.id for each in told}


@pytest.mark.parametrize("is_async", [True, False])
async def test_what_needs_a_database_says_so(headrace_queue: LocalQueue, is_async: bool) -> None:
    app = App()

    async def order(payload: Any, context: Context) -> None:
        await context.complete(object())

    def order_in_a_thread(payload: Any, context: Context) -> None:
        context.complete_sync(object())

    app.job("order")(order if is_async else order_in_a_thread)
    await headrace_queue.enqueue([new_job("order")])
    (dead,) = (await headrace_queue.run_until_empty(app)).dead
    assert dead.failures[-1].failure.error_type == "UnsupportedCapabilityError"
    assert "complete: this queue's backend lives in no database" in (dead.error or "")


async def test_ten_thousand_jobs_are_looked_at_once_each(headrace_queue: LocalQueue, app: App) -> None:
    looked = 0

    class Names(dict[str, Any]):
        def __contains__(self, name: object) -> bool:
            nonlocal looked
            looked += 1
            return super().__contains__(name)

    app._declarations = Names(app.jobs)
    await headrace_queue.enqueue([new_job("mail", {"order": 1})] * 10_000)
    ran = await headrace_queue.run_until_empty(app, concurrency=100, at_most_runs=20_000)
    assert len(ran.completed) == looked == 10_000


async def test_a_queue_of_the_tests_own_settings(headrace_queues: Callable[..., LocalQueue], app: App) -> None:
    queue = headrace_queues("mails", max_retries=0)
    await queue.enqueue([new_job("flaky")])
    assert [len(ended.failures) for ended in (await queue.run_until_empty(app)).dead] == [1]
    with pytest.raises(ValueError, match="where it is named first"):
        headrace_queues("mails", max_retries=1)


async def test_the_application_may_open_the_queue_itself(headrace_queues: Callable[..., LocalQueue], app: App) -> None:
    async with from_url("memory://", "orders") as queue:
        await queue.enqueue([new_job("confirm", {"order": 1})])
    ran = await headrace_queues("orders").run_until_empty(app)
    assert len(ran.completed) == 2


def test_code_that_is_not_asynchronous_does_the_same(headrace_queue: LocalQueue, app: App) -> None:
    headrace_queue.enqueue_sync([new_job("mail", {"order": 1})])
    assert len(headrace_queue.run_until_empty_sync(app).completed) == 1
    headrace_queue.enqueue_sync([new_job("mail", {"order": 1}, delay_seconds=60)])
    assert headrace_queue.run_due_sync(app).completed == ()
    headrace_queue.pass_time(60)
    assert len(headrace_queue.run_due_sync(app).completed) == 1, "what ended before is not told again"


async def test_nothing_runs_before_its_time_unless_time_is_let_pass(headrace_queue: LocalQueue, app: App) -> None:
    began = headrace_queue.now
    await headrace_queue.enqueue([new_job("confirm", {"order": 17})])
    assert [ended.job.name for ended in (await headrace_queue.run_due(app)).completed] == ["confirm"]
    headrace_queue.pass_time(3500)
    assert (await headrace_queue.run_due(app)).completed == ()
    headrace_queue.pass_time(100)
    assert [ended.job.name for ended in (await headrace_queue.run_due(app)).completed] == ["mail"]
    assert (headrace_queue.now - began).total_seconds() >= 3600


async def test_days_and_months_pass_and_no_lease_is_lost(headrace_queue: LocalQueue, app: App) -> None:
    day = 86400.0
    await headrace_queue.enqueue([new_job("mail", {"order": n}, delay_seconds=n * day) for n in range(1, 60)])
    ran = await headrace_queue.run_until_empty(app, concurrency=4)
    assert len(ran.completed) == 59
    assert ran.failed == ()
    assert {ended.job.attempt for ended in ran.completed} == {0}, "nothing was charged"


async def test_what_is_not_started_in_time_expires(headrace_queue: LocalQueue, app: App) -> None:
    job = new_job("mail", {"order": 1}, delay_seconds=60)
    await headrace_queue.enqueue([new_job("mail", {"order": 1}, expires_at=headrace_queue.now), job])
    ran = await headrace_queue.run_until_empty(app)
    assert [ended.reason for ended in ran.dead] == ["Expired"]
    assert len(ran.completed) == 1


async def test_a_name_that_nobody_declares_is_said_at_once(headrace_queue: LocalQueue, app: App) -> None:
    await headrace_queue.enqueue([new_job("confrim")])
    with pytest.raises(UnknownJobNameError, match="the App declares no job 'confrim': did you mean 'confirm'"):
        await headrace_queue.run_until_empty(app)


async def test_jobs_without_end_are_ended(headrace_queue: LocalQueue, app: App) -> None:
    await headrace_queue.enqueue([new_job("forever")])
    with pytest.raises(RunawayJobsError, match="still no end"):
        await headrace_queue.run_until_empty(app, at_most_runs=20)


async def test_a_job_that_hangs_times_out(headrace_queue: LocalQueue, app: App) -> None:
    await headrace_queue.enqueue([new_job("hanging")])
    ran = await headrace_queue.run_until_empty(app, job_timeout_seconds=0.05)
    assert {failed.failure.error for _, failed in ran.failed} == {"timed out after 0.05 s"}


async def test_an_empty_or_a_paused_queue_is_done_at_once(headrace_queues: Callable[..., LocalQueue], app: App) -> None:
    assert (await headrace_queues("empty").run_until_empty(app)).completed == ()
    paused = headrace_queues("paused", paused=True)
    await paused.enqueue([new_job("mail", {"order": 1})])
    assert (await paused.run_until_empty(app)).completed == ()
    assert (await paused.depth()).ready == 1


def test_the_pages_examples_are_a_project_whose_tests_pass(pytester: pytest.Pytester) -> None:
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert {name for name, _ in blocks} == {"shop.py", "conftest.py", "test_shop.py"}
    for name, code in blocks:
        (pytester.path / name).write_text(code)
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    done.assert_outcomes(passed=4)


def test_the_tests_of_others_pay_nothing_for_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import sys\ndef test_nothing_of_ours_is_loaded(): assert 'headrace' not in sys.modules")
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_the_workers_packages_are_what_it_needs_and_not_a_database_or_a_command_line() -> None:
    program = "import sys, headrace.testing.pytest; print(*{'asyncpg', 'click', 'yaml', 'aiohttp'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []
