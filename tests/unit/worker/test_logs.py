from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import pytest

from headrace import Job
from headrace.logs import JobFields, JsonFormatter, TextFormatter, configure, described, set_job

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def job(number: int, **headers: str) -> Job:
    return Job(
        id=str(number),
        queue="orders",
        name="resize",
        payload=b"null",
        content_type="application/json",
        headers=headers,
        priority=0,
        group=None,
        deduplication_key=None,
        attempt=2,
        enqueued_at=NOW,
        run_at=NOW,
        expires_at=None,
    )


class Lines:
    """What a logger writes, in one of the formats."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self._stream = io.StringIO()
        handler = logging.StreamHandler(self._stream)
        handler.addFilter(JobFields())
        handler.setFormatter(formatter)
        self.log = logging.getLogger(f"shop.jobs.{type(formatter).__name__}")
        self.log.handlers = [handler]
        self.log.propagate = False
        self.log.setLevel(logging.INFO)

    @property
    def last(self) -> str:
        return self._stream.getvalue().splitlines()[-1]


@pytest.fixture
def text() -> Lines:
    return Lines(TextFormatter())


@pytest.fixture
def as_json() -> Lines:
    return Lines(JsonFormatter())


async def running(job: Job, log: logging.Logger, message: str, *arguments: object) -> None:
    set_job(job)
    await asyncio.to_thread(log.info, message, *arguments)


async def test_a_handlers_own_line_carries_its_job_from_a_thread_as_well(text: Lines, as_json: Lines) -> None:
    await asyncio.create_task(running(job(7), text.log, "picture %d is large", 17))
    assert text.last.endswith("INFO picture 17 is large job=7 queue=orders name=resize attempt=2")
    await asyncio.create_task(running(job(7), as_json.log, "picture %d is large", 17))
    line = json.loads(as_json.last)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is UTC
    assert line == {
        "level": "info",
        "logger": "shop.jobs.JsonFormatter",
        "message": "picture 17 is large",
        "job": "7",
        "queue": "orders",
        "name": "resize",
        "attempt": 2,
    }


async def test_jobs_that_run_at_once_keep_their_lines_apart(text: Lines) -> None:
    async def twice(number: int) -> list[str]:
        set_job(job(number))
        lines = []
        for _ in range(2):
            text.log.info("here")
            lines.append(text.last)
            await asyncio.sleep(0)
        return lines

    one, two = await asyncio.gather(asyncio.create_task(twice(1)), asyncio.create_task(twice(2)))
    assert all("job=1 " in line for line in one)
    assert all("job=2 " in line for line in two)
    text.log.info("outside")
    assert text.last.endswith("INFO outside")


def test_a_line_about_a_job_names_it_once_whatever_runs(text: Lines, as_json: Lines) -> None:
    text.log.warning("job failed %s seconds=%.1f: boom", described(job(7)), 0.5)
    assert text.last.endswith("WARNING job failed job=7 queue=orders name=resize attempt=2 seconds=0.5: boom")
    as_json.log.warning("job failed %s seconds=%.1f: boom", described(job(7)), 0.5)
    assert json.loads(as_json.last)["job"] == "7"


@pytest.mark.parametrize(
    ("traceparent", "found"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", True),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", False),
        ("none of it", False),
    ],
)
def test_the_trace_that_came_with_a_job_is_in_its_lines(
    text: Lines, as_json: Lines, traceparent: str, found: bool
) -> None:
    text.log.info("job completed %s", described(job(7, traceparent=traceparent)))
    assert text.last.endswith(f" trace_id={TRACE}") is found
    as_json.log.info("job completed %s", described(job(7, traceparent=traceparent)))
    assert json.loads(as_json.last).get("trace_id") == (TRACE if found else None)


def test_a_record_is_one_line_whatever_is_in_it(text: Lines, as_json: Lines) -> None:
    for lines in (text, as_json):
        lines.log.error("first\r\nsecond", exc_info=ValueError("two\nlines"))
    assert re.match(r"\S+Z ERROR first\\nsecond\\nValueError: two\\nlines$", text.last)
    line = json.loads(as_json.last)
    assert line["message"] == "first\r\nsecond"
    assert line["exception"].endswith("ValueError: two\nlines")


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_everything_goes_to_standard_error_in_the_format_asked_for(
    untouched_logging: None, log_format: Literal["text", "json"], capsys: pytest.CaptureFixture[str]
) -> None:
    configure("INFO", log_format)
    logging.getLogger("shop").debug("no")
    logging.getLogger("shop").info("yes")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("{") is (log_format == "json")
    assert "yes" in line


def test_libraries_that_show_tokens_and_payloads_at_debug_are_not_asked_to(
    untouched_logging: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("DEBUG")
    for name in ("botocore.auth", "botocore.endpoint", "aiobotocore.httpsession", "boto3.session"):
        logging.getLogger(name).debug("x-amz-security-token: s3cret-word")
    logging.getLogger("shop").debug("no secret")
    assert "no secret" in (shown := capsys.readouterr().err)
    assert "s3cret-word" not in shown
