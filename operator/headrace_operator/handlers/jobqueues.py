"""JobQueues as kopf sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kopf

from headrace_operator.core.model import GROUP, VERSION
from headrace_operator.handlers.events import hand_on

if TYPE_CHECKING:
    from headrace_operator.composition import Operator


def register(registry: kopf.OperatorRegistry, operator: Operator) -> None:
    """Hand JobQueues to the operator."""

    @kopf.on.event(GROUP, VERSION, "jobqueues", registry=registry)
    async def jobqueue_changed(event: kopf.RawEvent, **_: Any) -> None:
        hand_on(event, operator)
