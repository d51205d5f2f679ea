"""Whether the Secrets of a pool's Redis will do for workers that start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace_operator.core.model import OperatorError, PassingError
from headrace_operator.core.redis import check_redis_url
from headrace_operator.reconcile.objects import POOL_KIND
from headrace_operator.reconcile.secrets import SecretUser

if TYPE_CHECKING:
    from headrace_operator.core.spec import JobWorkerPool
    from headrace_operator.reconcile.secrets import Secrets


async def redis_failure(secrets: Secrets, pool: JobWorkerPool) -> OperatorError | None:
    """Why they won't do.

    Raises
    ------
    PassingError
        When they can't be read at present.
    """
    redis = pool.spec.idempotency.used_redis
    if redis is None:
        return None
    user, reference = SecretUser(POOL_KIND, pool.key), redis.secret_ref
    try:
        url = await secrets.read(user, reference.name, reference.key)
        check_redis_url(url.content, f"key {reference.key} of Secret {reference.name}")
        if redis.tls is not None:
            await secrets.read(user, redis.tls.ca_secret_ref.name, redis.tls.ca_secret_ref.key)
    except PassingError:
        raise
    except OperatorError as error:
        return error
    return None
