"""What a watch must survive that no API server sends on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from headrace_operator.core.model import ObjectKey
from headrace_operator.kubernetes.informer import Informer

POOL = ObjectKey("shop", "mails")


def pod(name: str, phase: str, version: int = 1) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": name, "resourceVersion": str(version)}, "phase": phase}


class Listing:
    """An API with some pods, of which a watch tells what it is given."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        self.pods = pods
        self.lists = 0
        self.failure: Exception | None = None
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def request(self, _method: str, _path: str, *, query: Mapping[str, str]) -> dict[str, Any]:  # noqa: ARG002
        self.lists += 1
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return {"items": list(self.pods), "metadata": {"resourceVersion": "1"}}

    async def watch(self, _path: str, _query: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
        while True:
            yield await self.events.get()


def convert(manifest: dict[str, Any]) -> str:
    if manifest["phase"] == "Strange":
        raise KeyError("nobody has thought of that")
    return str(manifest["phase"])


async def seen(api: Listing, wanted: list[str]) -> None:
    watched = Informer(
        api,  # type: ignore[arg-type]
        "/api/v1/pods",
        group=lambda _: POOL,
        convert=convert,
        on_change=lambda _: None,
    )
    task = asyncio.create_task(watched.run())
    try:
        async with asyncio.timeout(10):
            while list(watched.members(POOL)) != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        task.cancel()


async def test_an_object_that_can_not_be_read_hides_no_other() -> None:
    await seen(Listing(pod("one", "Strange"), pod("two", "Running")), ["Running"])


async def test_one_that_has_become_so_is_none() -> None:
    api = Listing(pod("one", "Running"), pod("two", "Running"))
    api.events.put_nowait({"type": "MODIFIED", "object": pod("one", "Strange", 2)})
    api.events.put_nowait({"type": "MODIFIED", "object": pod("two", "Failed", 3)})
    await seen(api, ["Failed"])


async def test_a_fault_of_ours_does_not_end_the_watch() -> None:
    api = Listing(pod("one", "Running"))
    api.failure = ValueError("no JSON")
    await seen(api, ["Running"])
    assert api.lists == 2
