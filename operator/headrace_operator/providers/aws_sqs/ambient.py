"""Whether a JobQueue may have the operator use its own identity in AWS. Pure.

Whoever may make a JobQueue in some namespace would else reach every queue that the operator may reach, and could have
its signed requests sent to a server of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace_operator.core.model import RefusedError
from headrace_operator.providers.aws_sqs.naming import namespace_prefix

if TYPE_CHECKING:
    from headrace_operator.settings import AwsSettings

_REASON = "AmbientCredentialsRefused"
_WAY_OUT = "name a Secret with keys of your own in spec.awsSqs.credentials.secretRef"


def require_allowed(namespace: str, name: str | None, endpoint_url: str | None, settings: AwsSettings) -> None:
    """See that a queue without credentials of its own may be looked after.

    Parameters
    ----------
    name
        The queue's in SQS; None where it is one that exists, of which its tag says to whom it is open.
    endpoint_url
        As the operator sees it; None for the region's own address.

    Raises
    ------
    RefusedError
        ``AmbientCredentialsRefused``, with the setting that would allow it.
    """
    if not settings.allows_ambient(namespace):
        raise RefusedError(
            _REASON,
            f"the operator does not use its own AWS identity for namespace {namespace}: {_WAY_OUT}, or have the "
            "namespace added to the operator's setting HEADRACE_AWS_AMBIENT_NAMESPACES (chart: aws.ambientNamespaces)",
        )
    if endpoint_url is not None and endpoint_url not in settings.endpoint_urls:
        raise RefusedError(
            _REASON,
            f"the operator does not send requests with its own AWS identity to {endpoint_url}: {_WAY_OUT}, or have "
            "the endpoint added to the operator's setting HEADRACE_AWS_ENDPOINT_URLS (chart: aws.endpointUrls)",
        )
    start = namespace_prefix(settings.queue_prefix, namespace)
    if name is not None and not name.startswith(start):
        raise RefusedError(
            _REASON,
            f"spec.awsSqs.queueName must begin with {start} where the operator uses its own AWS identity (its setting "
            f"HEADRACE_AWS_QUEUE_PREFIX, and the namespace): give such a name, or {_WAY_OUT}",
        )
