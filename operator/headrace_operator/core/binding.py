"""The Secret with which applications and workers connect, in the shape of the Service Binding specification."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace_operator.core.labels import queue_labels
from headrace_operator.core.model import BINDING_REVISION_ANNOTATION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace_operator.core.spec import JobQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBinding:
    """What it takes to connect. Never logged, never in a status: `repr` shows no entry."""

    type: str
    """The specification's well-known type, which is the Secret's, too."""
    entries: Mapping[str, str]
    """By their well-known names; empty ones are left out."""

    def __repr__(self) -> str:
        return f"QueueBinding({self.type}, …)"


def binding_secret(queue: JobQueue, binding: QueueBinding, revision: str) -> dict[str, Any]:
    """The binding Secret of a queue, to be applied.

    Parameters
    ----------
    revision
        Another one wherever the content is another.
    """
    entries = {"type": binding.type, "provider": "headrace", "queue": queue.metadata.name, **binding.entries}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": f"servicebinding.io/{binding.type}",
        "metadata": {
            "namespace": queue.metadata.namespace,
            "name": queue.binding_name,
            "labels": queue_labels(queue.metadata.name),
            "annotations": {BINDING_REVISION_ANNOTATION: revision},
            "ownerReferences": [queue.owner_reference],
        },
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in entries.items() if value},
    }
