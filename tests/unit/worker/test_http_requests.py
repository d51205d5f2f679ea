"""What is said of a job in headers, whatever it holds, and what Retry-After says."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime.handlers.http import MAX_RETRY_AFTER_SECONDS, request_headers, retry_after_seconds
from support.jobs import ENQUEUED_AT, job

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

# RFC 9110: visible characters, with spaces only between them.
SAFE_VALUE = re.compile(r"([!-~]([ -~]*[!-~])?)?")


def test_a_plain_job_is_said_plainly() -> None:
    assert request_headers(job()) == {
        "User-Agent": "headrace",
        "Content-Type": "application/json",
        "Headrace-Job-Id": "17",
        "Headrace-Job-Queue": "orders",
        "Headrace-Job-Name": "resize",
        "Headrace-Job-Attempt": "1",
        "Headrace-Job-Priority": "0",
        "Headrace-Job-Enqueued-At": "2026-01-02T03:04:05+00:00",
    }


def test_what_a_job_may_have_beside_that_is_said_where_it_has_it() -> None:
    keys = {"group": "customer 9", "deduplication_key": "k%", "fairness_key": "t%"}
    headers = request_headers(job(**keys, expires_at=ENQUEUED_AT, headers={"a": "é"}))
    assert headers["Headrace-Job-Group"] == "customer 9"
    assert headers["Headrace-Job-Deduplication-Key"] == "k%25"
    assert headers["Headrace-Job-Fairness-Key"] == "t%25"
    assert headers["Headrace-Job-Expires-At"] == "2026-01-02T03:04:05+00:00"
    assert headers["Headrace-Job-Headers"] == '{"a": "\\u00e9"}'


def test_trace_context_goes_where_it_is_looked_for() -> None:
    trace = {"traceparent": "00-1-2-01", "tracestate": "a=b", "baggage": "user=7"}
    assert request_headers(job(headers=trace)).items() >= trace.items()
    assert "baggage" not in request_headers(job(headers={"baggage": "a\r\nX-Admin: yes"}))


def test_a_job_without_a_content_type_is_bytes() -> None:
    assert request_headers(job(content_type=""))["Content-Type"] == "application/octet-stream"


@given(
    st.fixed_dictionaries(
        {
            "name": st.text(),
            "content_type": st.text(),
            "group": st.none() | st.text(),
            "deduplication_key": st.none() | st.text(),
            "queue": st.text(),
        }
    ),
    st.dictionaries(st.sampled_from(["traceparent", "tracestate", "baggage"]) | st.text(), st.text()),
)
def test_no_string_breaks_out_of_its_header_and_each_can_be_read_again(
    fields: dict[str, Any], own: dict[str, str]
) -> None:
    headers = request_headers(job(**fields, headers=own))
    assert all(re.fullmatch(r"[A-Za-z-]+", name) for name in headers)
    assert {name: value for name, value in headers.items() if not SAFE_VALUE.fullmatch(value)} == {}
    assert unquote(headers["Headrace-Job-Name"]) == fields["name"]
    assert unquote(headers["Headrace-Job-Queue"]) == fields["queue"]
    assert unquote(headers["Content-Type"]) == (fields["content_type"] or "application/octet-stream")
    for name in ("group", "deduplication_key"):
        said = headers.get(f"Headrace-Job-{name.title().replace('_', '-')}")
        assert (None if said is None else unquote(said)) == fields[name]
    assert json.loads(headers.get("Headrace-Job-Headers", "{}")) == own


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120.0),
        (" 0 ", 0.0),
        ("86401", MAX_RETRY_AFTER_SECONDS),
        ("9" * 400, MAX_RETRY_AFTER_SECONDS),
        ("Fri, 02 Jan 2026 03:05:05 GMT", 60.0),
        ("Friday, 02-Jan-26 03:05:05 GMT", 60.0),
        ("Fri Jan  2 03:05:05 2026", 60.0),
        ("Fri, 02 Jan 2026 03:04:04 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_SECONDS),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
        ("²", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOW) == seconds


@given(st.text() | st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")))
def test_whatever_retry_after_says_is_a_wait_or_nothing(value: str) -> None:
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or 0 <= seconds <= timedelta(days=1).total_seconds()
