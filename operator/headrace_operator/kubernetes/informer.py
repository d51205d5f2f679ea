"""A small informer: objects of one kind, listed and watched, kept in memory by the pool that they belong to."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from headrace_operator.core.model import ObjectKey, OperatorError
from headrace_operator.kubernetes.errors import ExpiredError, error_from_status
from headrace_operator.reconcile.work_queue import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from headrace_operator.kubernetes.api import KubernetesApi, Manifest

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

_PAGE_SIZE = "500"
_REST_SECONDS = 0.2
"""Between two watches, so that a server that ends each at once isn't hammered."""


class Informer(Generic[Item]):
    """Keeps the newest state of the objects at a path.

    Parameters
    ----------
    path, label_selector
        Which objects.
    group
        The group that an object belongs to; None for objects of no interest.
    convert
        What to keep of an object; its whole would cost memory.
    on_change
        Called with a group of which something has come, changed or gone.
    """

    def __init__(
        self,
        api: KubernetesApi,
        path: str,
        *,
        group: Callable[[Manifest], ObjectKey | None],
        convert: Callable[[Manifest], Item],
        on_change: Callable[[ObjectKey], None],
        label_selector: str = "",
    ) -> None:
        self.synced = asyncio.Event()
        """Set once the objects are known."""
        self._api = api
        self._path = path
        self._selector = {"labelSelector": label_selector} if label_selector else {}
        self._group = group
        self._convert = convert
        self._on_change = on_change
        self._groups: dict[ObjectKey, dict[ObjectKey, Item]] = {}
        self._group_of: dict[ObjectKey, ObjectKey] = {}

    def members(self, group: ObjectKey) -> Sequence[Item]:
        """What belongs to a group."""
        return list(self._groups.get(group, {}).values())

    def everything(self) -> Iterator[tuple[ObjectKey, Item]]:
        """All that belongs to any group, with its group."""
        return ((group, item) for group, members in list(self._groups.items()) for item in members.values())

    async def run(self) -> None:
        """List and watch, for ever; what fails is tried again."""
        backoff, failures = Backoff(), 0
        while True:
            try:
                version = await self._list()
                self.synced.set()
                failures = 0
                while True:
                    version = await self._watch(version)
                    await asyncio.sleep(_REST_SECONDS)
            except ExpiredError:
                logger.debug("Watching %s: too old, listing anew", self._path)
            except OperatorError as error:
                logger.warning("Watching %s: %s", self._path, error.message)
            except Exception:
                # An answer that nobody has thought of must not end the watch: what it showed last would stand for ever.
                logger.exception("Watching %s", self._path)
            failures += 1
            await asyncio.sleep(backoff.delay_seconds(failures))

    async def _list(self) -> str:
        """Learn all objects; returns the version to watch from."""
        unseen = set(self._group_of)
        query = {**self._selector, "limit": _PAGE_SIZE}
        while True:
            page = await self._api.request("GET", self._path, query=query)
            for manifest in page["items"]:
                self._put(manifest)
                unseen.discard(_key(manifest))
            if not page["metadata"].get("continue"):
                break
            query["continue"] = page["metadata"]["continue"]
        for key in unseen:
            self._remove(key)
        version: str = page["metadata"]["resourceVersion"]
        return version

    async def _watch(self, version: str) -> str:
        """Follow changes until the server ends the watch; returns the version to go on from."""
        async for event in self._api.watch(self._path, {**self._selector, "resourceVersion": version}):
            manifest = event["object"]
            match event["type"]:
                case "ADDED" | "MODIFIED":
                    self._put(manifest)
                case "DELETED":
                    self._remove(_key(manifest))
                case "ERROR":
                    raise error_from_status(manifest["code"], manifest["message"], f"watching {self._path}")
                case _:
                    pass  # a bookmark: nothing but a newer version
            version = manifest["metadata"]["resourceVersion"]
        return version

    def _put(self, manifest: Manifest) -> None:
        key = _key(manifest)
        try:
            group = self._group(manifest)
            item = None if group is None else self._convert(manifest)
        except Exception:
            # An object that nobody has thought of must not hide all others.
            logger.exception("%s: %s can't be read", self._path, key)
            group = item = None
        if self._group_of.get(key) != group:
            self._remove(key)
        if group is None or item is None:
            return
        members = self._groups.setdefault(group, {})
        if key not in members or members[key] != item:
            members[key] = item
            self._group_of[key] = group
            self._on_change(group)

    def _remove(self, key: ObjectKey) -> None:
        group = self._group_of.pop(key, None)
        if group is None:
            return
        del self._groups[group][key]
        if not self._groups[group]:
            del self._groups[group]
        self._on_change(group)


def _key(manifest: Manifest) -> ObjectKey:
    metadata: dict[str, Any] = manifest["metadata"]
    return ObjectKey(metadata["namespace"], metadata["name"])
