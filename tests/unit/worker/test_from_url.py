from __future__ import annotations

import sys
from typing import Any

import pytest

from headrace import QueueError, from_url, new_job
from headrace.queues import inspector_from_url
from headrace.queues.memory import MemoryQueue
from headrace.queues.postgres import PostgresQueue
from support.verbs import complete


async def test_memory_is_one_queue_within_the_process() -> None:
    async with from_url("memory://", "letters") as one, from_url("memory://", "letters") as two:
        assert isinstance(one, MemoryQueue)
        (enqueued,) = await one.enqueue([new_job("send")])
        (delivery,) = await two.receive(1)
        assert delivery.job.id == enqueued.id
        await complete(two, [delivery])


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_postgres_has_two_schemes(scheme: str) -> None:
    assert isinstance(from_url(f"{scheme}://me@db/jobs", "orders"), PostgresQueue)


@pytest.mark.parametrize("url", ["mysql://me:secret@db", "me:secret@db", "", "postgresql://[me:secret"])
def test_an_unknown_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(QueueError, match="postgresql://") as caught:
        from_url(url, "orders")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", [None, 5, b"postgresql://me:secret@db"])
def test_what_is_no_url_is_refused(url: Any) -> None:
    with pytest.raises(QueueError, match="no queue backend for a URL without a scheme"):
        from_url(url, "orders")


@pytest.mark.parametrize("queue", [None, "", 5])
@pytest.mark.parametrize("url", ["memory://", "postgresql://me@db/jobs"])
def test_what_is_no_name_is_refused(url: str, queue: Any) -> None:
    with pytest.raises(QueueError, match="must be the name of a JobQueue"):
        from_url(url, queue)


def test_an_option_that_is_none_is_not_given() -> None:
    nothing = dict.fromkeys(("schema", "ca_certificates", "listens", "direct_url", "patience_seconds"))
    assert isinstance(from_url("postgresql://me@db/jobs", "orders", holder=None, **nothing), PostgresQueue)
    inspector_from_url("postgresql://me@db/jobs", schema=None, ca_certificates=None)


@pytest.mark.parametrize("direct_url", ["mysql://me:secret@db", "me:secret@db", "postgresql://[me:secret"])
def test_a_direct_url_that_leads_to_no_postgres_is_refused_without_repeating_it(direct_url: str) -> None:
    with pytest.raises(QueueError, match=r"the direct URL .* postgresql://") as caught:
        from_url("postgresql://me@pooler/jobs", "orders", listens=True, direct_url=direct_url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("bound", [{"patience_seconds": -1.0}, {"patience_bytes": 0}])
def test_patience_has_bounds(bound: dict[str, Any]) -> None:
    with pytest.raises(QueueError, match="patience_seconds: must be 0 or more"):
        from_url("postgresql://me@db/jobs", "orders", **bound)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # None is how Python itself marks a module that can't be imported.
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(QueueError, match=r"pip install 'headrace\[postgres\]'"):
        from_url("postgresql://me@db/jobs", "orders")
