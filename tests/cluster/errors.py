from __future__ import annotations


class ClusterError(Exception):
    """What stopped the harness: one sentence that says what is wrong and what mends it."""
