"""From kopf's events to the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    import kopf

    from headrace_operator.composition import Operator


def hand_on(event: kopf.RawEvent, operator: Operator) -> None:
    """Show the object to the operator."""
    manifest = cast("Mapping[str, Any]", event["object"])
    if event["type"] == "DELETED":
        operator.show_gone(manifest)
    else:
        operator.show(manifest)
