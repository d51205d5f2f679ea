from __future__ import annotations

import pytest

from contract.queue.needs import Part, missing


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with a word in the log, what the backend says that it doesn't have."""
    suite = getattr(item, "cls", None)
    if isinstance(item, pytest.Function) and isinstance(suite, type) and issubclass(suite, Part):
        offer = suite.offer()  # type: ignore[attr-defined]
        if lacks := missing(suite, item.originalname, offer):
            pytest.skip(f"{offer.name} has no {', no '.join(lacks)}")
