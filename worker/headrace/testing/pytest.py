"""Fixtures for tests of an application's jobs: ``pytest_plugins = ["headrace.testing.pytest"]`` in a conftest.py.

``headrace_queue``
    A queue in memory, a `headrace.testing.LocalQueue`.
``headrace_queues``
    Several, by name: ``headrace_queues("mails", max_retries=0)``. Code that opens its queue itself, with
    ``from_url("memory://", "mails")``, has the same one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from headrace.queues.base import Owner, QueueSettings
from headrace.queues.memory import process_backend
from headrace.testing import LocalQueue, queue_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def headrace_queues() -> Iterator[Callable[..., LocalQueue]]:
    """Make queues in memory, or get those that are there; other tests see nothing of them."""
    process_backend.cache_clear()
    backend = process_backend()
    made: dict[str, LocalQueue] = {}

    def named(name: str, **settings: Any) -> LocalQueue:
        if name in made and settings:
            raise ValueError(f"queue {name!r} is there already: give its settings where it is named first")
        if name not in made:
            # The application may have opened it before the test names it.
            if name not in backend.places:
                backend.register(name, QueueSettings(), Owner(namespace="", name=name, uid=""))
            backend.place(name).settings = queue_settings(**settings)
            made[name] = LocalQueue(backend, name)
        return made[name]

    yield named
    process_backend.cache_clear()


@pytest.fixture
def headrace_queue(headrace_queues: Callable[..., LocalQueue]) -> LocalQueue:
    """A queue in memory, named ``default``."""
    return headrace_queues("default")
