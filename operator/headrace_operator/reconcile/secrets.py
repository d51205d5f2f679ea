"""Secrets that specs refer to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace_operator.core.model import ObjectKey, TransientError

if TYPE_CHECKING:
    from headrace_operator.reconcile.ports import Cluster


async def read_secret(cluster: Cluster, namespace: str, name: str, key: str) -> bytes:
    """What stands under a Secret's key.

    Raises
    ------
    TransientError
        ``SecretNotFound`` or ``SecretKeyMissing``: what is missing may come.
    """
    secret = await cluster.secret(ObjectKey(namespace, name))
    if secret is None:
        raise TransientError(
            "SecretNotFound", f"namespace {namespace} has no Secret {name}: create it, or name another one"
        )
    if not secret.get(key):
        raise TransientError(
            "SecretKeyMissing",
            f"Secret {name} has no key {key} with a value: add it, or name another key",
        )
    return secret[key]
