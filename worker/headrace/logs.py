"""How the worker logs: text for people, JSON for machines, and in both the job that a line is about.

Whatever a handler logs while its job runs carries the job, too: the worker notes the job in a context variable, which
tasks and the worker's threads inherit.
"""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from headrace import trace_context

if TYPE_CHECKING:
    from headrace.job import Job

LogFormat = Literal["text", "json"]

_current_job: ContextVar[Job | None] = ContextVar("headrace_job", default=None)

set_job = _current_job.set
"""Note the job that the current task runs, for all its log lines."""


class Described:
    """A job within the text of a log line, worked out only where the line is written."""

    __slots__ = ("job",)

    def __init__(self, job: Job) -> None:
        self.job = job

    def __str__(self) -> str:
        job = self.job
        return f"job={job.id} queue={job.queue} name={job.name} attempt={job.attempt}"


def described(job: Job) -> Described:
    """The job, for a log line's text."""
    return Described(job)


class JobFields(logging.Filter):
    """Gives each record ``job_fields``: the job that the line is about, by name; empty where there is none.

    The worker's own handler has it; put it on a logging handler of your own.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass."""
        job = _named_job(record) or _current_job.get()
        fields: dict[str, str | int] = {}
        if job is not None:
            fields = {"job": job.id, "queue": job.queue, "name": job.name, "attempt": job.attempt}
        if trace := trace_context.trace_id(job.headers if job is not None else {}):
            fields["trace_id"] = trace
        record.job_fields = fields
        return True


def _named_job(record: logging.LogRecord) -> Job | None:
    arguments = record.args if isinstance(record.args, tuple) else ()
    return next((argument.job for argument in arguments if isinstance(argument, Described)), None)


class TextFormatter(logging.Formatter):
    """One line a record, whatever is in it: time, level, message, and the job as ``key=value``, once."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - logging's
        """UTC, to the millisecond."""
        return _time(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        """The line without what an exception adds."""
        named = ("job", "queue", "name", "attempt") if _named_job(record) else ()
        fields = {name: value for name, value in _fields(record).items() if name not in named}
        return " ".join((super().formatMessage(record), *(f"{name}={value}" for name, value in fields.items())))

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return super().format(record).replace("\r", "").replace("\n", "\\n")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, str | int] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, str | int]:
    fields: dict[str, str | int] = getattr(record, "job_fields", {})
    return fields


_TALKATIVE = ("aiobotocore", "boto3", "botocore")
"""Libraries that at DEBUG show their requests whole, payloads and session tokens among it."""


def configure(level: str | int, log_format: LogFormat = "text") -> None:
    """Log to standard error."""
    handler = logging.StreamHandler()
    handler.addFilter(JobFields())
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))


def configuration() -> tuple[int, LogFormat] | None:
    """What `configure` was told, for another process to be told the same; None where nobody called it."""
    formats: dict[type, LogFormat] = {JsonFormatter: "json", TextFormatter: "text"}
    root = logging.getLogger()
    found = (formats.get(type(handler.formatter)) for handler in root.handlers)
    return next(((root.level, log_format) for log_format in found if log_format is not None), None)
