"""The versions everything here is made of, and how versions compare."""

from __future__ import annotations

import re

from cluster.errors import ClusterError

KUBERNETES = "1.37.2"
COREDNS = "1.14.7"
HELM = "4.3.1"
KIND = "0.33.0"

# Kubernetes 1.37's modules ask for this language version.
OLDEST_GO = "1.26"
# kubectl speaks to API servers one minor version away.
OLDEST_KUBECTL = "1.36"
OLDEST_HELM = "3.18"
# The first kind whose kubeadm configuration fits Kubernetes 1.37.
OLDEST_KIND = "0.33"

_NUMBERS = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")

Version = tuple[int, int, int]


def parse(text: str) -> Version:
    """Return the first version number that stands in `text`, such as a tool's own account of itself."""
    found = _NUMBERS.search(text)
    if found is None:
        raise ClusterError(f"no version number in {text.strip()!r}")
    major, minor, patch = found.groups(default="0")
    return int(major), int(minor), int(patch)


def at_least(text: str, oldest: str) -> bool:
    """Whether the version in `text` is `oldest` or newer; a text without one is not."""
    try:
        return parse(text) >= parse(oldest)
    except ClusterError:
        return False
