"""Provisioning and removal: they take as long as they take, outside of the looks, and each look sees how far they are.

Of one administration (a database and its user, say) one is carried out at a time, over one connection: 32 queues of a
schema that wait for a migration's lock wait in line here, and nowhere else. Administrations don't wait for each other.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import OperatorError, RefusedError, TransientError
from headrace_operator.core.queue_status import Work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Mapping
    from datetime import datetime

    from headrace_operator.core.model import ObjectKey
    from headrace_operator.core.provider import AnyProvider, Place, Providers, Provisioned, QueueOwner, Removed
    from headrace_operator.reconcile.gate import Gate
    from headrace_operator.reconcile.ports import Clock

logger = logging.getLogger(__name__)

LONGEST_RETRY_SECONDS = 10.0
REFUSED_RETRY_SECONDS = 15.0
"""What the object itself must mend is tried again at once when it changes; a rival may go meanwhile."""

_SOONER = (0.75, 1.0)
"""Of the time until what failed is tried again."""

_LONGEST_DOUBT_SECONDS = 300.0
"""What can't be read, and is as wanted all the same, is made sure of after pauses that grow to this."""

_TOLD_STEP = timedelta(seconds=5)
"""A step is shown at once, and further ones so often at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOrder:
    """What is to be done about a queue's place. Another one is another order, and carried out anew."""

    provider: str
    place: Place
    owner: QueueOwner
    settings: Mapping[str, Any] | None
    """None: remove the queue."""


@dataclass(slots=True, kw_only=True)
class Errand:
    """An order, and what has become of it."""

    order: WorkOrder
    since: datetime
    """When it was given, or came to its step."""
    step: str | None = None
    ended_at: datetime | None = None
    failure: OperatorError | None = None
    provisioned: Provisioned | None = None
    removed: Removed | None = None
    """None, too, where there was no queue of this owner's."""
    is_told: bool = False
    """Whether an Event has said what it came to."""
    failures: int = 0
    """In a row."""
    doubts: int = 0
    """How many times in a row it was carried out since the queue could not be read."""
    failure_before: OperatorError | None = None
    """Why the attempt before this one has failed; it holds until this one has ended."""
    due_at: datetime | None = None
    """When the same order is to be carried out again."""

    @property
    def work(self) -> Work | None:
        """How far it is; None where it has ended."""
        return None if self.ended_at is not None else Work(step=self.step, since=self.since)


@dataclass(slots=True, kw_only=True)
class _Administration:
    """The errands of one administration."""

    provider: AnyProvider
    waiting: dict[ObjectKey, Errand] = field(default_factory=dict)
    current: ObjectKey | None = None
    task: asyncio.Task[None] | None = None
    """Carries out the current one."""


class LongWork:
    """Carries out orders, inside `running`.

    Parameters
    ----------
    wake
        Called with a queue whose errand has ended, or has come to a step that takes long.
    gate
        While it is closed no errand begins, and all are given up.
    """

    def __init__(self, providers: Providers, clock: Clock, wake: Callable[[ObjectKey], None], gate: Gate) -> None:
        self._providers = providers
        self._clock = clock
        self._wake = wake
        self._gate = gate
        gate.watch(self._gate_changed)
        self._errands: dict[ObjectKey, Errand] = {}
        self._administrations: dict[Hashable, _Administration] = {}
        self._runners: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Leaving the block cancels what is under way."""
        try:
            yield
        finally:
            runners = list(self._runners)
            for runner in runners:
                runner.cancel()
            await asyncio.gather(*runners, return_exceptions=True)

    def is_due(self, key: ObjectKey, order: WorkOrder) -> bool:
        """Whether `ask` would begin anew."""
        errand = self._errands.get(key)
        if errand is None:
            return True
        if errand.ended_at is None:
            # What is under way comes to its end first; what still waits is exchanged for what is wanted now.
            return errand.order != order and not self._is_current(key)
        return errand.order != order or (errand.due_at is not None and self._clock.now() >= errand.due_at)

    def ask(self, key: ObjectKey, order: WorkOrder) -> Errand:
        """Have the order carried out, unless it was, or another one of this queue is under way; returns what is known.

        One that has ended well is repeated after minutes, and one that failed after seconds, by asking again.
        """
        if not self.is_due(key, order):
            return self._errands[key]
        before = self._errands.get(key)
        self._drop(key)
        errand = Errand(order=order, since=self._clock.now())
        if before is not None and before.order == order:
            errand.failures, errand.failure_before = before.failures, before.failure
            errand.doubts = before.doubts + 1
        self._errands[key] = errand
        name = _name(order)
        administration = self._administrations.get(name)
        if administration is None:
            administration = _Administration(provider=self._providers[order.provider])
            self._administrations[name] = administration
            runner = asyncio.create_task(self._run(name, administration), name="provisioning")
            self._runners.add(runner)
            runner.add_done_callback(self._runners.discard)
        administration.waiting[key] = errand
        return errand

    def known(self, key: ObjectKey) -> Errand | None:
        """What is known of the queue's newest order."""
        return self._errands.get(key)

    def due_seconds(self, key: ObjectKey) -> float | None:
        """In how long to make sure of the queue again: at the same time as of all others of its administration."""
        errand = self._errands.get(key)
        if errand is None or errand.due_at is None:
            return None
        return max((errand.due_at - self._clock.now()).total_seconds(), 0.0)

    def doubt(self, key: ObjectKey) -> None:
        """Let what has ended well be carried out again soon: the queue can't be read, and may be gone."""
        errand = self._errands.get(key)
        if errand is not None and errand.ended_at is not None and errand.due_at is not None:
            pause = timedelta(seconds=min(2.0 ** min(errand.doubts, 10), _LONGEST_DOUBT_SECONDS))
            errand.due_at = min(errand.due_at, errand.ended_at + pause)

    def trust(self, key: ObjectKey) -> None:
        """The queue can be read."""
        errand = self._errands.get(key)
        if errand is not None:
            errand.doubts = 0

    def forget(self, key: ObjectKey) -> None:
        """The queue is gone, or given up: what is under way for it is cancelled."""
        administration = self._drop(key)
        if administration is not None and administration.current == key and administration.task is not None:
            administration.task.cancel()

    def _gate_changed(self) -> None:
        if self._gate.is_open:
            return
        # Another process does it now; what is wanted is asked for anew when it is our turn again.
        self._errands.clear()
        for administration in self._administrations.values():
            administration.waiting.clear()
            if administration.task is not None:
                administration.task.cancel()

    def _drop(self, key: ObjectKey) -> _Administration | None:
        """Forget the queue's errand, unless it is under way; returns where that is."""
        errand = self._errands.pop(key, None)
        administration = None if errand is None else self._administrations.get(_name(errand.order))
        if administration is not None:
            administration.waiting.pop(key, None)
        return administration

    def _is_current(self, key: ObjectKey) -> bool:
        administration = self._administrations.get(_name(self._errands[key].order))
        return administration is not None and administration.current == key

    async def _run(self, name: Hashable, administration: _Administration) -> None:
        """One errand after another, while there are any; connections are kept for as long."""
        try:
            while administration.waiting:
                try:
                    async with administration.provider.open_provisioner() as provisioner:
                        while administration.waiting:
                            await self._carry_out_next(administration, provisioner)
                except Exception as error:  # noqa: BLE001 - whatever one backend does, the others go on
                    self._fail_all(administration, _known(error))
        finally:
            del self._administrations[name]

    async def _carry_out_next(self, administration: _Administration, provisioner: Any) -> None:
        await self._gate.passage()
        if not administration.waiting:
            return
        key = next(iter(administration.waiting))
        errand = administration.waiting.pop(key)
        administration.current = key
        administration.task = asyncio.create_task(self._carry_out(key, errand, provisioner), name=f"provision-{key}")
        try:
            await asyncio.wait([administration.task])
        except asyncio.CancelledError:
            administration.task.cancel()
            await asyncio.gather(administration.task, return_exceptions=True)
            raise
        finally:
            administration.current, administration.task = None, None
        if errand.ended_at is None:
            # Given up, and then nobody knows of it any more; or a library has cancelled us from within.
            self._end(errand, TransientError("ProvisioningFailed", "it was cut off"))
        if isinstance(errand.failure, TransientError) and errand.failure.is_of_all:
            # It is so for all that wait here: each of them would only wait for the same.
            self._fail_all(administration, errand.failure)
        if self._errands.get(key) is errand:
            self._wake(key)

    async def _carry_out(self, key: ObjectKey, errand: Errand, provisioner: Any) -> None:
        order = errand.order

        def progress(step: str) -> None:
            now = self._clock.now()
            is_first = errand.step is None
            if is_first or now - errand.since >= _TOLD_STEP:
                errand.step, errand.since = step, now
                self._wake(key)

        try:
            if order.settings is None:
                errand.removed = await provisioner.remove(order.place, order.owner, progress)
            else:
                errand.provisioned = await provisioner.provision(order.place, order.owner, order.settings, progress)
        except Exception as error:  # noqa: BLE001 - as above
            self._end(errand, _known(error))
        else:
            self._end(errand, None)

    def _fail_all(self, administration: _Administration, failure: OperatorError) -> None:
        waiting, administration.waiting = administration.waiting, {}
        for key, errand in waiting.items():
            self._end(errand, failure)
            self._wake(key)

    def _end(self, errand: Errand, failure: OperatorError | None) -> None:
        now = self._clock.now()
        errand.ended_at, errand.failure = now, failure
        if failure is None:
            errand.failures = 0
            period_seconds = self._providers[errand.order.provider].resync_seconds
            errand.due_at = now + timedelta(
                seconds=_resync_seconds(now, errand.order.place.administration, period_seconds)
            )
            return
        errand.failures += 1
        # A hundred databases that went away together are not tried together for ever.
        sooner = random.uniform(*_SOONER)  # noqa: S311
        seconds = min(2.0 ** min(errand.failures - 1, 10), LONGEST_RETRY_SECONDS) * sooner
        if isinstance(failure, RefusedError):
            seconds = REFUSED_RETRY_SECONDS
        elif isinstance(failure, TransientError) and failure.retry_after_seconds is not None:
            seconds = failure.retry_after_seconds
        errand.due_at = now + timedelta(seconds=seconds)


def _name(order: WorkOrder) -> Hashable:
    return order.provider, order.place.administration


def _resync_seconds(now: datetime, administration: Hashable, period_seconds: float) -> float:
    """All queues of an administration at a time, so that they share a connection; administrations at different ones."""
    # A hash is too large a number to be added to a time.
    phase = (now.timestamp() + hash(administration) % int(period_seconds)) % period_seconds
    until_next = period_seconds - phase
    return until_next if until_next >= period_seconds / 2 else until_next + period_seconds


def _known(error: Exception) -> OperatorError:
    if isinstance(error, OperatorError):
        return error
    if isinstance(error, TimeoutError):
        return TransientError("BackendUnreachable", "the backend did not answer in time")
    logger.error("Provisioning failed unexpectedly", exc_info=error)
    return TransientError("ProvisioningFailed", f"an unexpected error of the operator's: {type(error).__name__}")
