"""Idempotency: the port in `base`, a store in Redis and one in memory. Imports nothing of the worker."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

from headrace.idempotency.base import DEFAULT_PREFIX, IdempotencyConfigurationError, key_prefix

if TYPE_CHECKING:
    from headrace.idempotency.base import IdempotencyStore
    from headrace.idempotency.failure_counts import RedisFailureCounts
    from headrace.idempotency.memory import Record

__all__ = ["failure_counts_in", "key_prefix", "store_from_url"]


def store_from_url(
    url: str,
    *,
    mode: str = "Standalone",
    sentinel_master: str | None = None,
    ca_certificates: str | None = None,
    prefix: str = DEFAULT_PREFIX,
) -> IdempotencyStore:
    """A store, not yet opened: ``async with store_from_url(…) as store``.

    Parameters
    ----------
    url
        ``redis://USER:PASSWORD@HOST:PORT/DATABASE``, ``rediss://…`` for TLS, or ``memory://`` for a store within this
        process. Sentinel and Cluster take several hosts, with commas between them; with Sentinel they are the
        Sentinels, the credentials are those of the servers behind them, and the Sentinels' own are the parameters
        ``?sentinel_username=…&sentinel_password=…``.
    mode
        ``Standalone`` (one server, or one address that leads to the primary), ``Sentinel`` or ``Cluster``.
    sentinel_master
        The name by which the Sentinels know the primary.
    ca_certificates
        PEM; trusted beside the authorities of the machine, by which servers are verified with ``rediss://``.
    prefix
        What the names of all keys begin with: `key_prefix` makes one for a queue.

    Raises
    ------
    IdempotencyConfigurationError
        When the parameters don't fit together; when the packages for Redis are not installed.
    """
    if url.strip() == "memory://":
        from headrace.idempotency.memory import MemoryIdempotencyStore  # noqa: PLC0415 - only who uses it pays for it

        return MemoryIdempotencyStore(prefix=prefix, records=_process_records())
    try:
        from headrace.idempotency.redis import RedisIdempotencyStore, RedisPlace  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise IdempotencyConfigurationError(
            "idempotency in Redis needs its client library: pip install 'headrace[redis]'"
        ) from error
    place = RedisPlace.from_url(url, mode=mode, sentinel_master=sentinel_master, ca_certificates=ca_certificates)
    return RedisIdempotencyStore(place, prefix=prefix)


def failure_counts_in(store: IdempotencyStore | None) -> RedisFailureCounts | None:
    """Counts of failed attempts beside the keys of a store; None of a store that can't be shared with others."""
    redis = sys.modules.get("headrace.idempotency.redis")
    if redis is None or not isinstance(store, redis.RedisIdempotencyStore):
        return None
    from headrace.idempotency.failure_counts import RedisFailureCounts  # noqa: PLC0415 - as above

    return RedisFailureCounts(store)


@cache
def _process_records() -> dict[str, Record]:
    return {}
