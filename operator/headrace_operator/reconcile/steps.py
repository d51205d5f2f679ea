"""The steps of a look: what one of them fails with is kept, and keeps no other from being taken."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from headrace_operator.core.model import ConflictError, OperatorError, PassingError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType

    from headrace_operator.core.model import ObjectKey
    from headrace_operator.reconcile.ports import Clock

PATIENCE = timedelta(seconds=30)
"""A PassingError that a step has met for so long, look after look, is told like any other failure."""


class Step(StrEnum):
    """What a look at a pool does, apart from all else that it does."""

    QUEUE = "queue"
    """Find the queue."""
    WORKERS = "workers"
    """Bring about what workers run: the Deployment's pod template."""
    NUMBER = "number"
    """Bring about how many there are."""
    AUTOSCALER = "autoscaler"
    """Keep, or take away, the HorizontalPodAutoscaler."""


class Steps:
    """The steps of one look.

    Parameters
    ----------
    failing
        Since when which steps have met PassingErrors, from look to look; kept up to date.
    """

    def __init__(self, failing: dict[Step, datetime], now: datetime) -> None:
        self._failing = failing
        self._now = now
        self._failures: dict[Step, OperatorError] = {}

    def taking(self, step: Step) -> AbstractContextManager[None, bool]:
        """What goes wrong inside the block ends the block alone; but a conflict ends the look, which begins anew."""
        return _Taking(self, step)

    def end(self, step: Step, failure: OperatorError | None) -> None:
        """The step was taken, and this is what became of it."""
        if failure is not None:
            self._failures[step] = failure
        if isinstance(failure, PassingError):
            self._failing.setdefault(step, self._now)
        else:
            self._failing.pop(step, None)

    def told(self, step: Step) -> OperatorError | None:
        """What conditions should say of the step: a PassingError only where it does not pass."""
        failure = self._failures.get(step)
        if isinstance(failure, PassingError) and self._now - self._failing[step] < PATIENCE:
            return None
        return failure

    def raise_first(self) -> None:
        """Fail as the first step that has failed, for the sake of who repeats looks."""
        for failure in self._failures.values():
            raise failure


class _Taking:
    """One step, inside a `with` block."""

    def __init__(self, steps: Steps, step: Step) -> None:
        self._steps = steps
        self._step = step

    def __enter__(self) -> None:
        """Nothing is done before the step."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, ConflictError) or not isinstance(error, OperatorError | None):
            return False
        self._steps.end(self._step, error)
        return True


class StepsByPool:
    """Begins the steps of looks, and remembers between them which steps go on failing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failing: dict[ObjectKey, dict[Step, datetime]] = {}

    def begin(self, pool: ObjectKey) -> Steps:
        """The steps of a new look."""
        return Steps(self._failing.setdefault(pool, {}), self._clock.now())

    def forget(self, pool: ObjectKey) -> None:
        """The pool is gone."""
        self._failing.pop(pool, None)
