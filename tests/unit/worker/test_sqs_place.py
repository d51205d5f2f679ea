"""Where a URL leads, and what is refused of it."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.queues.errors import QueueError, UnsupportedCapabilityError
from headrace.queues.sqs.place import Credentials, SqsOptions, parse_url, queue_url_to_sqs

ORDERS = "sqs://sqs.eu-central-1.amazonaws.com/123456789012/orders"


@pytest.fixture(autouse=True)
def no_region_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)


def test_a_queue_of_the_service_is_reached_as_botocore_finds_it() -> None:
    address = parse_url(ORDERS)
    assert address.queue_url == "https://sqs.eu-central-1.amazonaws.com/123456789012/orders"
    assert (address.account, address.name) == ("123456789012", "orders")
    assert (address.place.region, address.place.endpoint_url) == ("eu-central-1", None)
    assert address.place.credentials is None
    assert address.options == SqsOptions()


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("sqs.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("sqs.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("sqs-fips.us-east-2.amazonaws.com", "us-east-2"),
        ("sqs.eu-west-1.api.aws", "eu-west-1"),
        ("eu-west-1.queue.amazonaws.com", "eu-west-1"),
        ("queue.amazonaws.com", "us-east-1"),
        ("vpce-0a1b-4e5f.sqs.us-east-1.vpce.amazonaws.com", "us-east-1"),
        ("vpce-0a1b-4e5f-us-east-1a.sqs.us-east-1.vpce.amazonaws.com", "us-east-1"),
    ],
)
def test_a_host_of_the_service_tells_the_region(host: str, region: str) -> None:
    place = parse_url(f"sqs://{host}/123456789012/orders").place
    assert place.region == region
    is_standard = host.startswith("sqs.") and "api.aws" not in host
    assert place.endpoint_url == (None if is_standard else f"https://{host}")


def test_another_endpoint_needs_a_region(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "sqs+http://127.0.0.1:9324/000000000000/orders"
    with pytest.raises(QueueError, match=r"region: the host 127\.0\.0\.1 tells none; give the option region, or set"):
        parse_url(url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert parse_url(url).place.region == "eu-west-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert parse_url(url).place.region == "eu-west-2"
    assert parse_url(f"{url}?region=eu-west-3").place.region == "eu-west-3"
    assert parse_url(f"{url}?region=eu-west-3", region="us-east-1").place.region == "us-east-1"
    assert parse_url(url).place.endpoint_url == "http://127.0.0.1:9324"
    assert parse_url(url).queue_url == "http://127.0.0.1:9324/000000000000/orders"


def test_a_keyword_wins_over_the_query_and_none_is_not_given() -> None:
    address = parse_url(
        f"{ORDERS}?wait_time_seconds=5&max_number_of_messages=3&client=boto&count_interval_seconds=0",
        wait_time_seconds=7,
        client=None,
        endpoint_url="https://sqs.internal/",
        dead_letter_queue_url="https://sqs.internal/1/dead",
    )
    assert address.options == SqsOptions(
        client="boto", wait_time_seconds=7, max_number_of_messages=3, count_interval_seconds=0
    )
    assert address.place.endpoint_url == "https://sqs.internal"
    assert address.dead_letter_queue_url == "https://sqs.internal/1/dead"


def test_credentials_are_options_and_never_shown() -> None:
    address = parse_url(ORDERS, access_key_id="AKIA", secret_access_key="geheim", session_token="auch")
    assert address.place.credentials == Credentials(
        access_key_id="AKIA", secret_access_key="geheim", session_token="auch"
    )
    assert "geheim" not in repr(address)
    assert "auch" not in repr(address)


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ({"access_key_id": "AKIA"}, "secret_access_key: is missing beside access_key_id"),
        ({"secret_access_key": "geheim"}, "access_key_id: is missing"),
        ({"session_token": "geheim"}, "access_key_id: is missing"),
        ({"access_key_id": ""}, "access_key_id: must be a text"),
    ],
)
def test_half_of_the_credentials_are_refused(given: dict[str, Any], refusal: str) -> None:
    with pytest.raises(QueueError, match=refusal) as caught:
        parse_url(ORDERS, **given)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("name", ["access_key_id", "secret_access_key", "session_token"])
def test_no_url_holds_a_secret(name: str) -> None:
    with pytest.raises(QueueError, match=f"{name}: must not stand in a URL") as caught:
        parse_url(f"{ORDERS}?{name}=geheim")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        None,
        5,
        "",
        "https://sqs.eu-central-1.amazonaws.com/123456789012/orders",
        "sqs:///123456789012/orders",
        "sqs://host:port/123456789012/orders",
        "sqs://[::1/123456789012/orders",
    ],
)
def test_what_leads_nowhere_is_refused(url: Any) -> None:
    with pytest.raises(QueueError, match="no queue's of SQS: write sqs://"):
        parse_url(url)


def test_a_password_in_a_url_is_refused_without_repeating_it() -> None:
    with pytest.raises(QueueError, match="holds a user or a password") as caught:
        parse_url("sqs://AKIA:geheim@sqs.eu-central-1.amazonaws.com/123456789012/orders")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "x" * 81, "orders.x", "größe"])
def test_a_name_that_no_queue_can_have_is_refused(name: str) -> None:
    with pytest.raises(QueueError, match="must end with a queue's name, 1 to 80 of the characters"):
        parse_url(f"sqs://sqs.eu-central-1.amazonaws.com/123456789012/{name}")


def test_a_fifo_queue_is_refused() -> None:
    with pytest.raises(UnsupportedCapabilityError, match=r"orders\.fifo: FIFO queues can't be used"):
        parse_url(f"{ORDERS}.fifo")


def test_a_url_without_an_account_is_refused() -> None:
    with pytest.raises(QueueError, match="names no account"):
        parse_url("sqs://sqs.eu-central-1.amazonaws.com/orders")


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ({"wait_time_seconds": 21}, "wait_time_seconds '21': must be a whole number from 0 to 20"),
        ({"wait_time_seconds": -1}, "from 0 to 20"),
        ({"wait_time_seconds": True}, "from 0 to 20"),
        ({"wait_time_seconds": 1.5}, "from 0 to 20"),
        ({"max_number_of_messages": 11}, "max_number_of_messages '11': must be a whole number from 1 to 10"),
        ({"max_number_of_messages": "viele"}, "from 1 to 10"),
        ({"max_retries": 1001}, "max_retries '1001': must be a whole number from 0 to 1000"),
        ({"count_interval_seconds": 1}, "count_interval_seconds '1': must be a number of seconds, at least 2, or 0"),
        ({"count_interval_seconds": float("nan")}, "at least 2"),
        ({"client": "curl"}, "client 'curl': must be signed or boto"),
        ({"region": "Frankfurt"}, "region 'Frankfurt': must be the name of a region"),
        ({"endpoint_url": "sqs.internal"}, "endpoint_url: must be a URL that begins with https://"),
        ({"endpoint_url": "https://me:geheim@sqs.internal"}, "without a password"),
        ({"endpoint_url": "https://sqs.internal/?a=b"}, "or a query"),
        ({"dead_letter_queue_url": 5}, "dead_letter_queue_url: must be a URL"),
        ({"visibility": 5}, "visibility: no option of sqs:// queues, which take access_key_id"),
    ],
)
def test_an_option_out_of_bounds_is_refused_with_its_name_and_its_bounds(given: dict[str, Any], refusal: str) -> None:
    with pytest.raises(QueueError, match=refusal) as caught:
        parse_url(ORDERS, **given)
    assert "geheim" not in str(caught.value)


def test_a_queues_own_url_becomes_ours_and_back() -> None:
    for queue_url in ("https://sqs.eu-central-1.amazonaws.com/1/orders", "http://127.0.0.1:9324/1/orders"):
        assert parse_url(queue_url_to_sqs(queue_url), region="eu-central-1").queue_url == queue_url
    with pytest.raises(QueueError, match="must begin with"):
        queue_url_to_sqs("ftp://x/1/orders")
