"""Queues: the ports in `base` and `inspection`, one folder per backend, and the table of backends.

The same room has the same name in every backend: ``queue``, ``inspector``, ``provisioner``, ``backlog``. A room that is
absent is a role that the backend lacks.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from headrace.queues.errors import QueueError, UnsupportedCapabilityError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.queues.base import Queue
    from headrace.queues.capabilities import Capabilities
    from headrace.queues.inspection import Inspector

DEFAULT_SCHEMA = "headrace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Where a kind of queue is found. Its module has `CAPABILITIES`, `open_queue` and `open_inspector`."""

    module: str
    example: str
    """How its URLs look, for messages."""
    needs: str | None = None
    """The package that must be installed, by the name that is imported."""
    extra: str | None = None
    """Which extra of ours installs it."""
    options: frozenset[str] = frozenset()
    """What `from_url` takes beside the URL, the queue and the holder."""
    inspector_options: frozenset[str] = frozenset()
    producer_options: frozenset[str] | None = None
    """What its synchronous producer takes beside the URL; None: it has none."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do. Needs none of its packages."""
        found: Capabilities = importlib.import_module(f"{self.module}.capabilities").CAPABILITIES
        return found


_POSTGRES = Backend(
    module="headrace.queues.postgres",
    example="postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
    needs="asyncpg",
    extra="postgres",
    options=frozenset({"schema", "ca_certificates", "listens", "direct_url", "patience_seconds", "patience_bytes"}),
    inspector_options=frozenset({"schema", "ca_certificates"}),
    producer_options=frozenset({"schema", "max_idle", "patience_seconds", "patience_bytes"}),
)

_SQS_PLACE = frozenset(
    {
        "access_key_id",
        "client",
        "dead_letter_queue_url",
        "endpoint_url",
        "region",
        "secret_access_key",
        "session_token",
    }
)

_SQS = Backend(
    module="headrace.queues.sqs",
    example="sqs://sqs.REGION.amazonaws.com/ACCOUNT/NAME",
    needs="aioboto3",
    extra="sqs",
    options=_SQS_PLACE
    | {"count_interval_seconds", "failure_counts", "max_number_of_messages", "max_retries", "wait_time_seconds"},
    inspector_options=_SQS_PLACE | {"queue"},
    producer_options=_SQS_PLACE | {"queue"},
)

BACKENDS: Mapping[str, Backend] = {
    "postgresql": _POSTGRES,
    "postgres": _POSTGRES,
    "sqs": _SQS,
    "sqs+http": _SQS,
    "memory": Backend(module="headrace.queues.memory", example="memory://"),
}
"""By the scheme of their URLs: the one table of them."""


def from_url(url: str, queue: str, *, holder: str | None = None, **options: Any) -> Queue:
    """A queue, not yet opened: ``async with from_url(…) as queue``.

    Parameters
    ----------
    url
        ``postgresql://…``; ``sqs://HOST/ACCOUNT/NAME`` (``sqs+http://…`` where the endpoint speaks plain HTTP), with
        options in its query; or ``memory://`` for a queue within this process.
    queue
        The queue's name: that of its JobQueue.
    holder
        What stands beside the leases of a worker, for people to read. Defaults to host name and process id.
    **options
        Those of the URL's backend; None is as if it were not given. Of Postgres: ``schema`` (defaults to
        ``headrace``), ``ca_certificates`` (PEM; given, the server is verified against it), ``listens`` (whether waiting
        for jobs is cut short by new ones, by LISTEN; defaults to looking now and then alone), ``direct_url`` (past a
        connection pooler, where the URL leads to one: for LISTEN; defaults to the URL), ``patience_seconds`` and
        ``patience_bytes`` (how long `Queue.enqueue` waits for a database that is away, and how much may wait: payloads,
        and 1 KiB a job; default to 0 s and 64 MiB). Of SQS: ``region`` (defaults to the host's, else the
        environment's), ``endpoint_url`` (defaults to the URL's own), ``access_key_id``, ``secret_access_key`` and
        ``session_token`` (default to what botocore finds), ``dead_letter_queue_url`` (defaults to that of the queue's
        redrive policy), ``client`` (``signed``, or ``boto``: everything by aioboto3; defaults to the former),
        ``wait_time_seconds`` (20), ``max_number_of_messages`` (10), ``max_retries`` (3; holds where the queue has no
        settings of ours), ``count_interval_seconds`` (60; 0: never) and ``failure_counts`` (where failed attempts are
        counted; defaults to the message itself).

    Raises
    ------
    QueueError
        When the URL names no backend, or one whose packages are not installed; when an option is not the backend's, or
        the queue has no name.
    """
    backend = backend_of(url)
    name: object = queue
    if not (isinstance(name, str) and name):
        raise QueueError(f"queue {queue!r}: must be the name of a JobQueue")
    opened: Queue = _module(backend).open_queue(url, queue, holder=holder, **_given(options, backend.options, backend))
    return opened


def inspector_from_url(url: str, **options: Any) -> Inspector:
    """What people ask of the queues in one place, not yet opened.

    Parameters
    ----------
    url
        As that of `from_url`.
    **options
        Those of the URL's backend, as in `from_url`. Of Postgres: ``schema`` and ``ca_certificates``. Of SQS: what
        says where the queue is, and as whom it is asked; and ``queue``, the name that it goes by (defaults to the
        URL's last part).

    Raises
    ------
    QueueError
        When the URL names no backend, or one whose packages are not installed; when an option is not the backend's.
    """
    backend = backend_of(url)
    opened: Inspector = _module(backend).open_inspector(url, **_given(options, backend.inspector_options, backend))
    return opened


def producer_from_url(url: str, **options: Any) -> Any:
    """What `headrace.sync.Producer` stands on; see there.

    Raises
    ------
    UnsupportedCapabilityError
        When the backend has no synchronous producer.
    QueueError
        When the URL names no backend, or one whose packages are not installed; when an option is not the backend's.
    """
    # libpq takes others beside URLs, such as host=db user=me.
    backend = backend_of(url) if "://" in url else _POSTGRES
    if backend.producer_options is None:
        raise UnsupportedCapabilityError(
            f"{backend.example} has no synchronous producer: its queues need an event loop"
        )
    given = _given(options, backend.producer_options, backend)
    try:
        module: Any = importlib.import_module(f"{backend.module}.sync")
    except ModuleNotFoundError:
        require_packages(backend)
        raise
    return module.open_producer(url, **given)


def backend_of(url: str, what: str = "the queue's URL") -> Backend:
    """The backend that a URL names.

    Raises
    ------
    QueueError
        When it names none. The URL is not repeated: it may hold a password.
    """
    examples = " or ".join(dict.fromkeys(backend.example for backend in BACKENDS.values()))
    given: object = url
    try:
        scheme = urlsplit(given).scheme if isinstance(given, str) else ""
    except ValueError:
        raise QueueError(f"{what} is malformed: write {examples}") from None
    if scheme not in BACKENDS:
        raise QueueError(f"no queue backend for {scheme or 'a URL without a scheme'}: write {examples}")
    return BACKENDS[scheme]


def require_packages(backend: Backend) -> None:
    """See that a backend can be imported.

    Raises
    ------
    QueueError
        When its packages are not installed.
    """
    if backend.needs is None:
        return
    try:
        importlib.import_module(backend.needs)
    except ModuleNotFoundError as error:
        raise QueueError(
            f"queues at {backend.example.partition(':')[0]}:// need {backend.needs}: "
            f"pip install 'headrace[{backend.extra}]'"
        ) from error


def _module(backend: Backend) -> Any:
    require_packages(backend)
    return importlib.import_module(backend.module)


def _given(options: Mapping[str, object], known: frozenset[str], backend: Backend) -> dict[str, object]:
    """The options that are given: None is none."""
    if unknown := sorted(options.keys() - known):
        takes = ", ".join(sorted(known)) or "no options"
        raise QueueError(
            f"{unknown[0]}: no option of {backend.example.partition(':')[0]}:// queues, which take {takes}"
        )
    return {name: value for name, value in options.items() if value is not None}
