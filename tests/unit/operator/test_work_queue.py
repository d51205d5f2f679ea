"""When an object is looked at. Time is the loop's own, and jumps."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from headrace_operator.core.model import AwaitedError, PassingError, RefusedError
from headrace_operator.reconcile.work_queue import Backoff, WorkQueue, WorkQueueOptions
from support.jumping_loop import run_jumping

Look = Callable[[str], Awaitable[float | None]]


class Journal:
    """Notes what was looked at, when, and how it ended."""

    def __init__(self) -> None:
        self.looks: list[tuple[str, float]] = []
        self.errors: list[tuple[str, Exception]] = []

    def times(self, key: str) -> list[float]:
        return [round(time, 3) for looked, time in self.looks if looked == key]

    def start(self, key: str) -> None:
        self.looks.append((key, asyncio.get_running_loop().time()))

    def observe(self, key: str, _seconds: float, error: Exception | None) -> None:
        if error is not None:
            self.errors.append((key, error))


@pytest.fixture
def journal() -> Journal:
    return Journal()


def told(
    journal: Journal,
    look: Look,
    story: Callable[[WorkQueue[str]], Coroutine[Any, Any, None]],
    **options: Any,
) -> None:
    """Run a story with a queue whose looks are noted."""

    async def noted(key: str) -> float | None:
        journal.start(key)
        return await look(key)

    async def whole() -> None:
        # A key's share is what stands before its slash.
        queue = WorkQueue(
            noted,
            journal.observe,
            WorkQueueOptions(**{"spread": 0.0, **options}),
            share_of=lambda key: key.partition("/")[0],
        )
        async with queue.running():
            await story(queue)

    run_jumping(whole())


async def quick(_: str) -> float | None:
    return None


def test_a_key_added_twice_is_looked_at_once(journal: Journal) -> None:
    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        queue.add("a")
        await asyncio.sleep(1)

    told(journal, quick, story)
    assert journal.times("a") == [0]


def test_a_key_added_while_it_is_looked_at_is_looked_at_again_and_never_twice_at_a_time(journal: Journal) -> None:
    active = Counter[str]()

    async def slow(key: str) -> float | None:
        active[key] += 1
        assert active[key] == 1
        await asyncio.sleep(1)
        active[key] -= 1
        return None

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(0.5)
        queue.add("a")
        queue.add("a")
        await asyncio.sleep(5)

    told(journal, slow, story)
    assert journal.times("a") == [0, 1]
    assert not journal.errors


def test_a_look_whose_time_comes_while_its_key_is_looked_at_waits_for_the_end_of_that(journal: Journal) -> None:
    active = Counter[str]()

    async def slow(key: str) -> float | None:
        active[key] += 1
        assert active[key] == 1
        await asyncio.sleep(10)
        active[key] -= 1
        return None

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(1)
        queue.add_within("a", 5)
        await asyncio.sleep(60)

    told(journal, slow, story)
    assert journal.times("a") == [0, 10]
    assert not journal.errors


def test_a_look_says_when_it_wants_to_be_repeated(journal: Journal) -> None:
    async def every_five_seconds(_: str) -> float | None:
        return 5.0

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(16)

    told(journal, every_five_seconds, story)
    assert journal.times("a") == [0, 5, 10, 15]


def test_an_early_look_puts_off_the_scheduled_one(journal: Journal) -> None:
    async def every_five_seconds(_: str) -> float | None:
        return 5.0

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(3)
        queue.add("a")
        await asyncio.sleep(9)

    told(journal, every_five_seconds, story)
    assert journal.times("a") == [0, 3, 8]


def test_failures_back_off_up_to_five_seconds_and_a_success_forgets_them(journal: Journal) -> None:
    async def fails_six_times(key: str) -> float | None:
        if len(journal.times(key)) <= 6:
            raise RuntimeError("no")
        return 60.0 if len(journal.times(key)) == 7 else None

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(100)

    told(journal, fails_six_times, story)
    waits = [later - sooner for sooner, later in zip(journal.times("a"), journal.times("a")[1:], strict=False)]
    assert waits == [0.5, 1, 2, 4, 5, 5, 60]
    assert len(journal.errors) == 6


def test_what_heals_by_a_change_alone_is_tried_every_five_minutes_in_the_end_and_at_once_when_it_changes(
    journal: Journal,
) -> None:
    async def refuses(_: str) -> float | None:
        raise RefusedError("NameTaken", "give it another name")

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(1500)
        waits = [later - sooner for sooner, later in zip(journal.times("a"), journal.times("a")[1:], strict=False)]
        assert waits[-4:] == [256, 300, 300, 300]
        queue.add("a")
        await asyncio.sleep(1)
        assert journal.times("a")[-1] == 1500.5

    told(journal, refuses, story)


def test_what_asks_for_a_look_when_it_has_healed_is_left_alone_from_the_first(journal: Journal) -> None:
    async def waits(_: str) -> float | None:
        raise AwaitedError("QueueNotReady", "the queue is not ready")

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(100)
        queue.add("a")
        await asyncio.sleep(10)

    told(journal, waits, story)
    assert journal.times("a") == [0, 30, 90, 100.5]


def test_who_asks_to_be_left_alone_for_a_while_is(journal: Journal) -> None:
    async def asks_for_patience(_: str) -> float | None:
        raise PassingError("TooManyRequests", "later", retry_after_seconds=20)

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(50)

    told(journal, asks_for_patience, story)
    assert journal.times("a") == [0, 20, 40]


def test_those_who_failed_together_do_not_come_together_again(journal: Journal) -> None:
    async def fails(_: str) -> float | None:
        raise RuntimeError("no")

    async def story(queue: WorkQueue[str]) -> None:
        for number in range(20):
            queue.add(str(number))
        await asyncio.sleep(0.7)

    told(journal, fails, story, spread=0.1)
    again = {time for _, time in journal.looks if time > 0}
    assert len(again) > 10
    assert all(0.45 <= time <= 0.55 for time in again)


def test_a_look_may_ask_for_another_though_it_fails(journal: Journal) -> None:
    queues: list[WorkQueue[str]] = []

    async def refuses(key: str) -> float | None:
        if len(journal.times(key)) == 3:
            queues[0].add_within(key, 1.5)
        raise RefusedError("NameTaken", "give it another name")

    async def story(queue: WorkQueue[str]) -> None:
        queues.append(queue)
        queue.add("a")
        queue.add_within("a", 50)
        await asyncio.sleep(6)

    told(journal, refuses, story)
    assert journal.times("a") == [0, 0.5, 1.5, 3]


def test_a_look_asked_for_within_a_time_comes_once(journal: Journal) -> None:
    async def story(queue: WorkQueue[str]) -> None:
        queue.add_within("a", 30)
        await asyncio.sleep(10)
        queue.add_within("a", 30)
        await asyncio.sleep(100)

    told(journal, quick, story)
    assert journal.times("a") == [30]


def test_backoff_does_not_overflow() -> None:
    assert Backoff().delay_seconds(10_000) == 5.0


def test_a_change_brings_a_failing_key_forward_but_no_closer_than_the_shortest_backoff(journal: Journal) -> None:
    async def fails(_: str) -> float | None:
        raise RuntimeError("no")

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(8)
        before = len(journal.times("a"))
        assert before == 5
        queue.add("a")
        queue.add("a")
        await asyncio.sleep(0.6)
        assert journal.times("a")[before:] == [8.5]

    told(journal, fails, story)


def test_a_key_that_writes_what_wakes_it_does_not_spin_while_it_fails(journal: Journal) -> None:
    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(10)

    queues: list[WorkQueue[str]] = []

    async def fails_and_wakes(_: str) -> float | None:
        queues[0].add("a")
        raise RuntimeError("no")

    async def with_queue(queue: WorkQueue[str]) -> None:
        queues.append(queue)
        await story(queue)

    told(journal, fails_and_wakes, with_queue)
    assert len(journal.times("a")) <= 21


def test_one_key_that_fails_or_hangs_does_not_stop_the_others(journal: Journal) -> None:
    async def look(key: str) -> float | None:
        if key == "fails":
            raise RuntimeError("no")
        if key == "hangs":
            await asyncio.Event().wait()
        return 1.0

    async def story(queue: WorkQueue[str]) -> None:
        for key in ("fails", "hangs", "sound"):
            queue.add(key)
        await asyncio.sleep(10.5)

    told(journal, look, story, concurrency=2)
    assert len(journal.times("sound")) == 11


def test_a_look_that_hangs_is_given_up_and_tried_again(journal: Journal) -> None:
    async def hangs(_: str) -> float | None:
        await asyncio.Event().wait()
        return None

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(62)

    told(journal, hangs, story, timeout_seconds=30.0)
    assert journal.times("a") == [0, 30.5, 61.5]
    assert {type(error) for _, error in journal.errors} == {TimeoutError}


def test_first_come_first_served_by_a_bounded_number(journal: Journal) -> None:
    async def slow(_: str) -> float | None:
        await asyncio.sleep(1)
        return None

    async def story(queue: WorkQueue[str]) -> None:
        for key in "abcdef":
            queue.add(key)
        await asyncio.sleep(10)

    told(journal, slow, story, concurrency=2)
    assert journal.looks == [("a", 0), ("b", 0), ("c", 1), ("d", 1), ("e", 2), ("f", 2)]


def test_no_share_has_more_than_its_bound_and_others_do_not_wait_behind_it(journal: Journal) -> None:
    async def look(key: str) -> float | None:
        if key.startswith("slow/"):
            await asyncio.sleep(10)
        return None

    async def story(queue: WorkQueue[str]) -> None:
        for number in range(6):
            queue.add(f"slow/{number}")
        queue.add("quick/1")
        await asyncio.sleep(35)

    told(journal, look, story, concurrency=3, concurrency_per_share=2)
    assert journal.times("quick/1") == [0]
    assert [time for key, time in journal.looks if key.startswith("slow/")] == [0, 0, 10, 10, 20, 20]


def test_shares_take_turns(journal: Journal) -> None:
    async def slow(_: str) -> float | None:
        await asyncio.sleep(1)
        return None

    async def story(queue: WorkQueue[str]) -> None:
        for key in ("a/1", "a/2", "a/3", "b/1", "b/2"):
            queue.add(key)
        await asyncio.sleep(10)

    told(journal, slow, story, concurrency=1)
    assert [key for key, _ in journal.looks] == ["a/1", "b/1", "a/2", "b/2", "a/3"]


def test_what_is_urgent_comes_before_those_of_its_share_that_wait_and_before_no_others_turn(journal: Journal) -> None:
    async def slow(_: str) -> float | None:
        await asyncio.sleep(1)
        return None

    async def story(queue: WorkQueue[str]) -> None:
        for key in ("a/1", "a/2", "a/3", "b/1", "b/2"):
            queue.add(key)
        queue.add("a/3", is_urgent=True)
        queue.add("b/3", is_urgent=True)
        await asyncio.sleep(10)

    told(journal, slow, story, concurrency=1)
    assert [key for key, _ in journal.looks] == ["a/3", "b/3", "a/1", "b/1", "a/2", "b/2"]


def test_looks_that_are_given_up_are_begun_anew(journal: Journal) -> None:
    async def slow(_: str) -> float | None:
        await asyncio.sleep(1)
        return None

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(0.5)
        queue.give_up_looks()
        await asyncio.sleep(10)

    told(journal, slow, story)
    assert journal.times("a") == [0, 0.5]
    assert not journal.errors


def test_a_look_that_is_given_up_before_it_began_is_begun_anew(journal: Journal) -> None:
    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        # After the queue has made the look's task, and before the loop has turned to it.
        asyncio.get_running_loop().call_soon(queue.give_up_looks)
        await asyncio.sleep(10)

    told(journal, quick, story)
    assert journal.times("a") == [0]


def test_a_look_that_something_else_cancels_is_still_owed(journal: Journal) -> None:
    async def cancelled_once(key: str) -> float | None:
        if len(journal.times(key)) == 1:
            raise asyncio.CancelledError
        return None

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(5)

    told(journal, cancelled_once, story)
    assert journal.times("a") == [0, 0]


def test_a_busy_key_does_not_starve_the_others(journal: Journal) -> None:
    async def again_at_once(key: str) -> float | None:
        await asyncio.sleep(1)
        return 0.0 if key == "busy" else None

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("busy")
        await asyncio.sleep(2.5)
        queue.add("other")
        await asyncio.sleep(5)

    told(journal, again_at_once, story, concurrency=1)
    assert journal.times("other") == [3]


def test_leaving_cancels_what_is_under_way(journal: Journal) -> None:
    cancelled: list[str] = []

    async def hangs(key: str) -> float | None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(key)
            raise
        return None

    async def story(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(1)

    told(journal, hangs, story)
    assert cancelled == ["a"]


def test_it_is_stuck_when_keys_wait_and_no_look_ends(journal: Journal) -> None:
    async def hangs(_: str) -> float | None:
        await asyncio.Event().wait()
        return None

    async def story(queue: WorkQueue[str]) -> None:
        await asyncio.sleep(100)
        assert queue.stuck_seconds() == 0
        queue.add("a")
        await asyncio.sleep(10)
        assert queue.stuck_seconds() == 0
        queue.add("b")
        await asyncio.sleep(20)
        assert queue.stuck_seconds() == pytest.approx(20)

    told(journal, hangs, story, concurrency=1, timeout_seconds=1000.0)
