"""What a worker is told, as values. No `repr` shows a secret."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from headrace.queues import DEFAULT_SCHEMA
from headrace.queues.sqs.place import PLACE_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.queues.base import QueueSettings


class SettingsError(ValueError):
    """What is wrong with the settings, one problem a line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class SqsBinding:
    """How a queue in SQS is reached and received from, beside its URL."""

    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Those of `headrace.queues.from_url` that were given."""

    @property
    def place(self) -> dict[str, Any]:
        """Those of them that say where it is, and who asks."""
        return {name: value for name, value in self.options.items() if name in PLACE_OPTIONS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """How to reach a queue."""

    dsn: str = field(repr=False)
    queue: str
    schema: str = DEFAULT_SCHEMA
    ca_certificates: str | None = field(default=None, repr=False)
    direct_dsn: str | None = field(default=None, repr=False)
    """Past a connection pooler, for what must be prompt, and to be told of new jobs."""
    sqs: SqsBinding | None = None
    """Given where the queue is one in SQS: what else there is of a database is not looked at then."""

    @property
    def inspector_options(self) -> dict[str, Any]:
        """What `headrace.queues.inspector_from_url` takes beside the URL: what was given, so that it can be refused."""
        if self.sqs is not None:
            return self.sqs.place | {"queue": self.queue}
        given = {} if self.schema == DEFAULT_SCHEMA else {"schema": self.schema}
        return given if self.ca_certificates is None else given | {"ca_certificates": self.ca_certificates}

    @property
    def queue_options(self) -> dict[str, Any]:
        """What `headrace.queues.from_url` takes beside the URL and the queue, likewise."""
        if self.sqs is not None:
            return dict(self.sqs.options)
        direct = {} if self.direct_dsn is None else {"direct_url": self.direct_dsn}
        return self.inspector_options | direct


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonHandlerSettings:
    """Jobs are functions of an `App`."""

    app: str
    """``module:attribute``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpHandlerSettings:
    """Jobs are requests."""

    url: str = field(repr=False)
    ca_certificates: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecHandlerSettings:
    """Jobs are runs of a program."""

    command: tuple[str, ...]


HandlerSettings = PythonHandlerSettings | HttpHandlerSettings | ExecHandlerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """How long a failed job waits for its next attempt."""

    initial_delay_seconds: float = 1.0
    multiplier: float = 2.0
    max_delay_seconds: float = 600.0
    jitter: float = 0.2
    """The part of the delay that chance decides, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencySettings:
    """No run of a job after one that is recorded as finished."""

    ttl_days: float = 7.0
    on_unavailable: Literal["Retry", "Proceed"] = "Retry"
    """What to do with a job while the store can't be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """Where idempotency keeps its records."""

    url: str = field(repr=False)
    mode: Literal["Standalone", "Sentinel", "Cluster"] = "Standalone"
    sentinel_master: str | None = None
    ca_certificates: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueWorkerSettings:
    """What a worker does with the jobs of one queue."""

    binding: Binding
    handler: HandlerSettings
    max_concurrent_jobs: int = 10
    poll_interval_seconds: float = 5.0
    """How often an idle worker looks for jobs, at most."""
    listens: bool = True
    """Whether it is told of new jobs beside that (``Mode: MessageQueue``)."""
    job_timeout_seconds: float = 1800.0
    retry: RetrySettings = field(default_factory=RetrySettings)
    idempotency: IdempotencySettings | None = None
    """None: off."""
    expected_max_retries: int | None = None
    expected_visibility_timeout_seconds: float | None = None

    def disagreements(self, own: QueueSettings) -> list[str]:
        """Where the worker was told of something that is the queue's own to say, and the queue says otherwise."""
        told = (
            ("MaxRetries", self.expected_max_retries, own.max_retries, "spec.maxRetries", "--max-retries"),
            (
                "VisibilityTimeoutSeconds",
                self.expected_visibility_timeout_seconds,
                own.visibility_timeout_seconds,
                "spec.visibilityTimeoutSeconds",
                "--visibility-timeout",
            ),
        )
        by_hand = "" if self.binding.sqs else f", or `headrace migrate --queue {self.binding.queue} {{}}`"
        return [
            f"{name} is {expected:g} in the settings and {actual:g} in the queue, and the queue's holds: leave it out "
            f"here, and set {field} of its JobQueue{by_hand.format(option)}"
            for name, expected, actual, field, option in told
            if expected is not None and expected != actual
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Everything a worker is told."""

    queues: tuple[QueueWorkerSettings, ...]
    """At least one, each of a name of its own."""
    redis: RedisSettings | None = None
    """Given where a queue's idempotency is on."""
    shared_slots: int | None = None
    """How many jobs run at a time in all queues, those named first coming first. None: each queue has its own."""
    namespace: str = ""
    worker_name: str = ""
    drain_timeout_seconds: float = 300.0
    metrics_host: str = "0.0.0.0"  # noqa: S104 - the cluster scrapes it
    metrics_port: int = 8080
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = "text"
    stuck_after_seconds: float = 30.0
    """When ``/healthz`` fails: the event loop has not turned for so long."""
