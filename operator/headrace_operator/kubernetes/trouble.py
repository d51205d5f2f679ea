"""Trouble with the Kubernetes API that doesn't pass: it is in no object's condition, since it is none's fault."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from headrace_operator.core.model import ConflictError, PassingError
from headrace_operator.kubernetes.errors import ExpiredError

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace_operator.core.model import OperatorError

logger = logging.getLogger(__name__)

LASTING_SECONDS = 10.0
"""What passes within that is worth no line."""

QUIET_SECONDS = 60.0
"""A line every so often; and once nothing has failed for so long, trouble is over."""


class ApiTrouble:
    """Is told how every request ended, and warns once a minute while some fail.

    Parameters
    ----------
    seconds
        A monotonic clock.
    """

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._since: float | None = None
        self._newest_at = 0.0
        self._told_at = 0.0
        self._failures = 0

    def observe(self, error: OperatorError | None) -> None:
        """One request: what it failed with, or None.

        Conflicts and expired versions are how the API works, and a refusal has its condition.
        """
        if not isinstance(error, PassingError) or isinstance(error, ConflictError | ExpiredError):
            return
        now = self._seconds()
        if self._since is None or now - self._newest_at >= QUIET_SECONDS:
            self._since = now
            self._told_at = now + LASTING_SECONDS - QUIET_SECONDS
            self._failures = 0
        self._newest_at = now
        self._failures += 1
        if now - self._told_at >= QUIET_SECONDS:
            logger.warning(
                "The Kubernetes API fails: %d requests in the last %.0f s, the newest: %s: %s",
                self._failures,
                now - max(self._told_at, self._since),
                error.reason,
                error.message,
            )
            self._told_at, self._failures = now, 0
