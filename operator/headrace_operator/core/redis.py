"""The Redis that a pool's idempotency keeps its keys in."""

from __future__ import annotations

from headrace_operator.core.model import AwaitedError


def check_redis_url(secret: bytes, where: str) -> None:
    """See whether a Secret's key may hold the URL of a Redis; all the rest of it is the worker's to judge.

    Parameters
    ----------
    where
        Names the Secret and its key in messages.

    Raises
    ------
    AwaitedError
        ``InvalidConnection``; the Secret may be mended at any time.
    """
    if not secret.strip().startswith((b"redis://", b"rediss://")):
        raise AwaitedError(
            "InvalidConnection",
            f"{where} holds no URL of a Redis: it must look like redis://user:password@host:6379/0, or rediss://…",
        )
