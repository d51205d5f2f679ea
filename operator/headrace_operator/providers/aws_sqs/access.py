"""From the operator's view of where a queue is to that of the worker's code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.queues.sqs.place import Credentials, Place

if TYPE_CHECKING:
    from headrace_operator.providers.aws_sqs.place import SqsBackend


def client_place(backend: SqsBackend) -> Place:
    """What a client of the backend is opened with."""
    keys = backend.credentials
    return Place(
        region=backend.region,
        endpoint_url=backend.endpoint_url,
        credentials=None
        if keys is None
        else Credentials(
            access_key_id=keys.access_key_id,
            secret_access_key=keys.secret_access_key,
            session_token=keys.session_token,
        ),
    )
