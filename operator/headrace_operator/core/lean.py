"""What is kept of manifests: thousands of them are held, and the API server sends each with all that it knows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOT_READ = ("managedFields",)
_NOT_READ_ANNOTATIONS = ("kubectl.kubernetes.io/last-applied-configuration",)

_SHARED_LENGTH = 64
"""Longer strings are messages, and hardly ever the same."""


def lean(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest without who has written which field, and what was applied last, which together are most of it."""
    metadata = {name: value for name, value in manifest["metadata"].items() if name not in _NOT_READ}
    if metadata.get("annotations"):
        annotations = metadata["annotations"].items()
        metadata["annotations"] = {name: value for name, value in annotations if name not in _NOT_READ_ANNOTATIONS}
    return shared({**manifest, "metadata": metadata})


def shared(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The same, in which words that many manifests have (names of fields, above all) are held once for all of them."""
    return {sys.intern(name): _shared(value) for name, value in manifest.items()}


def _shared(value: Any) -> Any:
    if isinstance(value, dict):
        return shared(value)
    if isinstance(value, list):
        return [_shared(each) for each in value]
    # Whatever is more than a string (an enumeration, in tests) can't be held in common.
    return sys.intern(value) if type(value) is str and len(value) <= _SHARED_LENGTH else value
