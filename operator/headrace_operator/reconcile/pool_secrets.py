"""The Secrets that workers need beside their queues': whether they will do, and which they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace_operator.core.redis import check_redis_url
from headrace_operator.reconcile.objects import POOL_KIND
from headrace_operator.reconcile.secrets import SecretUser

if TYPE_CHECKING:
    from headrace_operator.core.spec import JobWorkerPool
    from headrace_operator.reconcile.secrets import Secrets


async def secret_revisions(secrets: Secrets, pool: JobWorkerPool) -> dict[str, str]:
    """By what a Secret is for, its version: no digest of what it holds, which would tell a guess from the truth.

    Raises
    ------
    OperatorError
        ``SecretNotFound``, ``SecretKeyMissing`` or ``InvalidConnection``; or when they can't be read at present.
    """
    user, revisions = SecretUser(POOL_KIND, pool.key), {}
    if (redis := pool.spec.idempotency.used_redis) is not None:
        reference = redis.secret_ref
        url = await secrets.read(user, reference.name, reference.key)
        check_redis_url(url.content, f"key {reference.key} of Secret {reference.name}")
        revisions["redis"] = url.version
        if redis.tls is not None:
            ca = await secrets.read(user, redis.tls.ca_secret_ref.name, redis.tls.ca_secret_ref.key)
            revisions["redis-ca"] = ca.version
    if (http := pool.spec.handler.http) is not None and http.ca_secret_ref is not None:
        revisions["handler-ca"] = (await secrets.read(user, http.ca_secret_ref.name, http.ca_secret_ref.key)).version
    return revisions
