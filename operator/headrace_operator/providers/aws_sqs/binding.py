"""What applications and workers connect with. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from headrace_operator.core.binding import QueueBinding
from headrace_operator.providers.aws_sqs.place import ACCESS_KEY_ID, SECRET_ACCESS_KEY, SESSION_TOKEN, credentials_of
from headrace_operator.providers.aws_sqs.spec import aws_sqs_of, region_of_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace_operator.core.provider import SecretKey
    from headrace_operator.core.spec import JobQueue

_SCHEMES = {"https": "sqs", "http": "sqs+http"}


def binding_of(queue: JobQueue, secrets: Mapping[SecretKey, bytes], status: Mapping[str, Any]) -> QueueBinding | None:
    """See `core.provider.Provider.binding`: the account in a queue's URL is known once there is a queue."""
    queue_url = status.get("queueUrl")
    if queue_url is None:
        return None
    sqs = aws_sqs_of(queue)
    credentials = credentials_of(queue, secrets)
    entries = {
        "uri": _uri(queue_url, sqs.known_region, sqs.known_endpoint),
        "queue-url": queue_url,
        "dead-letter-queue-url": status.get("deadLetterQueueUrl") or "",
        "region": sqs.known_region,
        "endpoint-url": sqs.known_endpoint or "",
    }
    if credentials is not None:
        entries |= {
            ACCESS_KEY_ID: credentials.access_key_id,
            SECRET_ACCESS_KEY: credentials.secret_access_key,
            SESSION_TOKEN: credentials.session_token or "",
        }
    return QueueBinding(type="sqs", entries=entries)


def _uri(queue_url: str, region: str, endpoint_url: str | None) -> str:
    """The queue's URL with our scheme, and what it does not tell by itself. No key stands in it."""
    scheme, _, rest = queue_url.partition("://")
    options = {}
    if region_of_url(queue_url) != region:
        options["region"] = region
    if endpoint_url is not None and not queue_url.startswith(f"{endpoint_url}/"):
        options["endpoint_url"] = endpoint_url
    return f"{_SCHEMES[scheme]}://{rest}" + (f"?{urlencode(options)}" if options else "")
