"""`headrace worker`, which notes in the records what its jobs can't: that a key's finish has been recorded, and that a
job's process has been killed.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headrace import Context
    from headrace.idempotency.base import Hold, IdempotencyStore
    from headrace.job import Job
    from headrace.runtime.handlers import Handler
    from headrace.runtime.outcome import Outcome


class NotingStore:
    """A store, and a line in the records for each finish that it has taken."""

    def __init__(self, inner: IdempotencyStore) -> None:
        self._inner: Any = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> Self:
        """See the port."""
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        """See the port."""
        await self._inner.__aexit__(*error)

    async def finish(self, holds: Sequence[Hold], *, ttl_seconds: float) -> list[bool]:
        """See the port. A process that is killed before it has noted an answer leaves no note: Redis is asked, too."""
        from soak.app import note  # noqa: PLC0415 - the app's records are those of the process

        recorded: list[bool] = await self._inner.finish(holds, ttl_seconds=ttl_seconds)
        for hold, is_recorded in zip(holds, recorded, strict=True):
            if is_recorded:
                note(finished=hold.key, token=hold.token)
        return recorded


class NotingHandler:
    """A handler, and a line in the records for each job that was stopped in a process: it can't say so itself."""

    def __init__(self, inner: Handler) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def run(self, job: Job, context: Callable[[], Context]) -> Outcome:
        """See `Handler`."""
        from soak.app import IN_PROCESS, note  # noqa: PLC0415 - as above

        try:
            return await self._inner.run(job, context)
        except asyncio.CancelledError:
            if job.name == IN_PROCESS:
                note(stopped=job.id, process=os.getpid())
            raise


def main() -> None:
    """The command, with the store in between."""
    # Only here: the processes of jobs import this module, too, and need nothing of it.
    from headrace import composition  # noqa: PLC0415
    from headrace.cli import main as command  # noqa: PLC0415

    replaced: Any = composition
    store_from_url, handler_of = replaced.store_from_url, replaced.handler_of
    replaced.store_from_url = lambda *place, **more: NotingStore(store_from_url(*place, **more))
    replaced.handler_of = lambda settings: NotingHandler(handler_of(settings))
    command(prog_name="headrace")


if __name__ == "__main__":
    main()
