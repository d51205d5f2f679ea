"""What time it is at the service, as received messages tell it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from headrace.queues.sqs.service_clock import ServiceClock

MOMENT = timedelta(seconds=30)


def test_before_any_message_it_is_the_time_here() -> None:
    assert abs(ServiceClock().now() - datetime.now(UTC)) < MOMENT


def test_it_is_what_messages_say_however_wrong_the_clock_here_is() -> None:
    clock = ServiceClock()
    there = datetime.now(UTC) + timedelta(hours=1)
    clock.learn(there.timestamp())
    assert abs(clock.now() - there) < MOMENT


def test_an_answer_that_was_long_on_its_way_does_not_put_it_back() -> None:
    clock = ServiceClock()
    there = datetime.now(UTC) + timedelta(hours=1)
    clock.learn(there.timestamp())
    clock.learn(there.timestamp() - 20)
    assert clock.now() >= there
