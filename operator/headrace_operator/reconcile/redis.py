"""Whether the Secrets of a pool's Redis will do for workers that start."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from headrace_operator.core.model import ObjectKey, OperatorError, PassingError
from headrace_operator.core.redis import check_redis_url
from headrace_operator.core.spec import Redis
from headrace_operator.reconcile.secrets import read_secret

if TYPE_CHECKING:
    from headrace_operator.core.spec import JobWorkerPool
    from headrace_operator.reconcile.ports import Clock, Cluster

REDIS_STEP = timedelta(seconds=5)
"""A Secret is read so often at most: what breaks shows within twice this."""


class _Seen(NamedTuple):
    """What the last look at the Secrets of a pool's Redis has shown."""

    redis: Redis | None
    at: datetime
    failure: OperatorError | None


class RedisSecrets:
    """Reads the Secrets of pools' Redis, every few seconds."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self._seen: dict[ObjectKey, _Seen] = {}

    async def failure(self, pool: JobWorkerPool) -> OperatorError | None:
        """Why they won't do; looked at every few seconds, whatever the pool is scaled by."""
        now = self._clock.now()
        seen = self._seen.get(pool.key)
        if seen is not None and seen.redis == pool.spec.idempotency.used_redis and now - seen.at < REDIS_STEP:
            return seen.failure
        failure = None
        try:
            await self._look(pool)
        except PassingError:
            raise
        except OperatorError as error:
            failure = error
        self._seen[pool.key] = _Seen(pool.spec.idempotency.used_redis, now, failure)
        return failure

    def forget(self, pool: ObjectKey) -> None:
        """The pool is gone."""
        self._seen.pop(pool, None)

    async def _look(self, pool: JobWorkerPool) -> None:
        redis = pool.spec.idempotency.used_redis
        if redis is None:
            return
        namespace, reference = pool.metadata.namespace, redis.secret_ref
        url = await read_secret(self._cluster, namespace, reference.name, reference.key)
        check_redis_url(url, f"key {reference.key} of Secret {reference.name}")
        if redis.tls is not None:
            await read_secret(self._cluster, namespace, redis.tls.ca_secret_ref.name, redis.tls.ca_secret_ref.key)
