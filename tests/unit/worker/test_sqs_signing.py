"""Requests signed by hand are, byte for byte, signed as botocore's own signer does it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import EndpointVariantError
from botocore.loaders import create_loader
from botocore.regions import EndpointResolver
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.queues.sqs.signing import CONTENT_TYPE, Signer

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
"""On a busy machine, an example may take long."""

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
KEYS = ReadOnlyCredentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None)
TARGET = "AmazonSQS.SendMessageBatch"


def service_endpoints() -> list[tuple[str, str]]:
    """Every endpoint of SQS that botocore knows, of all partitions, FIPS and dual stack too, with its region."""
    resolver = EndpointResolver(create_loader().load_data("endpoints"))
    found = []
    for partition in resolver.get_available_partitions():
        for region in resolver.get_available_endpoints("sqs", partition):
            for fips in (False, True):
                for dual_stack in (False, True):
                    try:
                        endpoint = resolver.construct_endpoint(
                            "sqs", region, partition, use_dualstack_endpoint=dual_stack, use_fips_endpoint=fips
                        )
                    except EndpointVariantError:
                        continue
                    found.append((f"https://{endpoint['hostname']}", region))
    return found


ENDPOINTS = service_endpoints()

printable = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
hosts = st.sampled_from(
    [
        "vpce-0a1b2c3d-4e5f6a7b.sqs.us-east-1.vpce.amazonaws.com",
        "vpce-0a1b2c3d-4e5f6a7b-us-gov-west-1a.sqs.us-gov-west-1.vpce.amazonaws.com",
        "SQS.Example.Internal",
        "127.0.0.1",
        "[::1]",
        "[2001:DB8::a]",
    ]
)
ports = st.sampled_from(["", ":443", ":80", ":9324"])
paths = st.lists(st.text(st.sampled_from("aZ0-_.~%+ :@=&;,$!*'()äß漢"), max_size=6), max_size=4).map(
    lambda parts: "".join(f"/{part}" for part in parts)
)
endpoints = st.sampled_from(ENDPOINTS) | st.builds(
    lambda scheme, host, port, path: (f"{scheme}://{host}{port}{path}", "us-east-1"),
    st.sampled_from(["http", "https"]),
    hosts,
    ports,
    paths,
)
keys = st.builds(
    ReadOnlyCredentials,
    st.text(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"), min_size=16, max_size=20),
    st.text(printable | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    st.none() | st.text(printable, min_size=1, max_size=400).filter(str.strip),
)


def as_botocore_signs(endpoint_url: str, region: str, body: bytes, by: ReadOnlyCredentials, at: datetime) -> Any:
    url = endpoint_url if urlsplit(endpoint_url).path else f"{endpoint_url}/"
    request = AWSRequest(
        method="POST", url=url, data=body, headers={"Content-Type": CONTENT_TYPE, "X-Amz-Target": TARGET}
    )
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=at.replace(tzinfo=None)):
        botocore.auth.SigV4Auth(by, "sqs", region).add_auth(request)
    return request.headers


@unhurried
@given(
    endpoint=endpoints,
    body=st.binary(max_size=300),
    by=keys,
    ahead=st.timedeltas(timedelta(days=-400), timedelta(days=400)),
)
@example(endpoint=ENDPOINTS[0], body=b"", by=KEYS, ahead=timedelta())
def test_every_request_is_signed_as_botocore_signs_it(
    endpoint: tuple[str, str], body: bytes, by: ReadOnlyCredentials, ahead: timedelta
) -> None:
    endpoint_url, region = endpoint
    at = NOW + ahead
    theirs = as_botocore_signs(endpoint_url, region, body, by, at)
    signer = Signer(endpoint_url=endpoint_url, region=region)
    ours = signer.headers(target=TARGET, body=body, keys=by, timestamp=f"{at:%Y%m%dT%H%M%SZ}")
    assert ours.pop("Host") == signer.host
    assert {name.lower(): value for name, value in ours.items()} == {
        name.lower(): value for name, value in theirs.items()
    }


@pytest.mark.parametrize("partition", ["amazonaws.com", "amazonaws.com.cn", "us-gov", "fips", "api.aws"])
def test_the_endpoints_that_are_compared_are_of_every_kind(partition: str) -> None:
    assert any(partition in endpoint for endpoint, _ in ENDPOINTS)


def test_a_key_for_signing_is_another_on_another_day_and_for_another_secret() -> None:
    signer = Signer(endpoint_url="https://sqs.eu-central-1.amazonaws.com", region="eu-central-1")
    others = KEYS._replace(secret_key="another")
    for by, at in [(KEYS, NOW), (KEYS, NOW + timedelta(days=1)), (others, NOW + timedelta(days=1)), (KEYS, NOW)]:
        ours = signer.headers(target=TARGET, body=b"{}", keys=by, timestamp=f"{at:%Y%m%dT%H%M%SZ}")
        theirs = as_botocore_signs("https://sqs.eu-central-1.amazonaws.com", "eu-central-1", b"{}", by, at)
        assert ours["Authorization"] == theirs["Authorization"]
