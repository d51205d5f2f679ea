"""What a worker must not start with on a backend that lacks it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from headrace import App, RetryPolicy
from headrace.job import NewJob
from headrace.queues.capabilities import Capabilities, refuse_unsupported
from headrace.queues.errors import UnsupportedCapabilityError
from headrace.queues.memory.capabilities import CAPABILITIES as MEMORY
from headrace.runtime.refusals import refusals, refuse_to_start, remarks

BROKER = Capabilities(
    ordered=False,
    priorities=False,
    groups=False,
    fairness=False,
    expiry=False,
    max_enqueue_delay_seconds=60.0,
    max_retry_delay_seconds=900.0,
    deduplicates_unfinished=False,
    max_deduplication_window_seconds=300.0,
    max_hold_seconds=43200.0,
    attempts="deliveries",
    atomic_batches=False,
    fenced=False,
    cancellation=False,
    keeps_errors=False,
    pausing=False,
    skips_names=False,
    transactions=False,
)


def declared(**terms: Any) -> App:
    app = App()

    @app.job("resize", **terms)
    async def resize(payload: Any) -> None: ...

    return app


def test_an_app_that_asks_for_nothing_special_starts_anywhere() -> None:
    app = declared(timeout=60, retry=RetryPolicy(max_delay_seconds=900))
    for can in (BROKER, MEMORY):
        assert refusals(app.jobs.values(), can, job_timeout_seconds=1800, retry=RetryPolicy()) == []
        refuse_to_start(app.jobs.values(), can, job_timeout_seconds=1800, retry=RetryPolicy())


def test_a_timeout_that_no_lease_lasts_for_is_refused_by_the_jobs_name() -> None:
    (refusal,) = refusals(declared(timeout=86400).jobs.values(), BROKER)
    assert refusal.startswith("job 'resize': a timeout of 86400 s: this queue's backend lets a job be held for 43200 s")
    (refusal,) = refusals((), BROKER, job_timeout_seconds=43201)
    assert refusal.startswith("a timeout of 43201 s")
    assert refusals(declared(timeout=86400).jobs.values(), MEMORY) == []


@pytest.mark.parametrize(
    ("policy", "is_refused"),
    [
        (RetryPolicy(max_delay_seconds=901), True),
        (RetryPolicy(max_delay_seconds=901, max_retries=2), False),
        (RetryPolicy(initial_delay_seconds=901, max_delay_seconds=901, max_retries=1), True),
        (RetryPolicy(initial_delay_seconds=901, max_delay_seconds=901, max_retries=0), False),
    ],
)
def test_a_retry_that_would_wait_longer_than_the_backend_delays_is_refused(
    policy: RetryPolicy, is_refused: bool
) -> None:
    assert bool(refusals(declared(retry=policy).jobs.values(), BROKER)) == is_refused
    assert bool(refusals((), BROKER, retry=policy)) == is_refused
    assert not refusals((), MEMORY, retry=policy)


def test_how_long_a_new_job_can_wait_says_nothing_of_retries() -> None:
    policy = RetryPolicy(max_delay_seconds=900)
    assert policy.max_delay_seconds > BROKER.max_enqueue_delay_seconds
    assert refusals((), BROKER, retry=policy) == []
    at_once = replace(MEMORY, max_retry_delay_seconds=0)
    assert bool(refusals((), at_once, retry=policy))
    refuse_unsupported([NewJob(delay_seconds=86_400)], at_once)


def test_all_that_is_refused_is_said_at_once() -> None:
    app = declared(timeout=86400, retry=RetryPolicy(max_delay_seconds=901))
    with pytest.raises(
        UnsupportedCapabilityError, match=r"a timeout of 86400 s.*; job 'resize': retries after up to 901"
    ):
        refuse_to_start(app.jobs.values(), BROKER)


def test_a_limit_by_name_is_no_fault_but_said_where_names_cannot_be_left_out() -> None:
    app = declared(max_concurrent=2)
    assert refusals(app.jobs.values(), BROKER) == []
    (remark,) = remarks(app.jobs.values(), BROKER)
    assert remark.startswith("job 'resize': max_concurrent: this queue's backend can't leave out a name that is full")
    assert remarks(app.jobs.values(), MEMORY) == []
    assert remarks(declared().jobs.values(), BROKER) == []
