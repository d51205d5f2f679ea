"""Conditions in the shape of ``metav1.Condition``; lists are computed, and written, whole."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from headrace_operator.core.model import OperatorError

READY = "Ready"
PROVISIONED = "Provisioned"
SYNCED = "Synced"
DEGRADED = "Degraded"
AVAILABLE = "Available"
SCALING_ACTIVE = "ScalingActive"
SCALING_LIMITED = "ScalingLimited"
SCALED_TO_ZERO = "ScaledToZero"
PAUSED = "Paused"
UPDATED = "Updated"

_LONGEST_MESSAGE = 4096
"""The API server refuses a status with a longer one than 32 KiB, and what a backend says may be of any length."""

OF_READINGS = (SCALING_ACTIVE, SCALING_LIMITED)
"""What depends on how queues stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What one condition should say."""

    type: str
    status: bool
    reason: str
    """One CamelCase word, for machines."""
    message: str
    """For people; with the fix where there is one."""

    @classmethod
    def failed(cls, type_: str, failure: OperatorError) -> Condition:
        """The condition is False because of this failure."""
        return cls(type=type_, status=False, reason=failure.reason, message=failure.message)


def merge(
    previous: Sequence[Mapping[str, Any]], changes: Iterable[Condition], *, generation: int, now: datetime
) -> list[dict[str, Any]]:
    """The whole list anew: `changes` over `previous`, in an order that stays.

    `lastTransitionTime` moves only where the status flips; conditions that `changes` does not speak of are kept.
    """
    before = {condition["type"]: condition for condition in previous}
    after = {name: dict(condition) for name, condition in before.items()}
    for change in changes:
        status = str(change.status)
        old = before.get(change.type, {})
        after[change.type] = {
            "type": change.type,
            "status": status,
            "reason": change.reason,
            "message": change.message[:_LONGEST_MESSAGE],
            "observedGeneration": generation,
            "lastTransitionTime": old["lastTransitionTime"] if old.get("status") == status else timestamp(now),
        }
    return list(after.values())


def find(conditions: Iterable[Mapping[str, Any]], type_: str) -> Mapping[str, Any] | None:
    """The condition of this type, if there is one."""
    return next((condition for condition in conditions if condition.get("type") == type_), None)


def is_true(conditions: Iterable[Mapping[str, Any]], type_: str) -> bool:
    """Whether the condition is there and True."""
    condition = find(conditions, type_)
    return condition is not None and condition.get("status") == "True"


def timestamp(moment: datetime) -> str:
    """As the API server writes it: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
