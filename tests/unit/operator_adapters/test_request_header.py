from __future__ import annotations

import pytest

from headrace_operator.core.model import TransientError
from headrace_operator.metrics_api.request_header import parse_request_header_clients

AUTHORITY = "-----BEGIN CERTIFICATE-----\n…"


def test_only_the_names_on_the_list_are_admitted() -> None:
    clients = parse_request_header_clients(
        {"requestheader-client-ca-file": AUTHORITY, "requestheader-allowed-names": '["front-proxy-client"]'}
    )
    assert clients.certificate_authorities == AUTHORITY
    assert clients.admit("front-proxy-client")
    assert not clients.admit("admin")
    assert not clients.admit("")


@pytest.mark.parametrize("names", [{}, {"requestheader-allowed-names": "[]"}, {"requestheader-allowed-names": ""}])
def test_without_a_list_any_name_of_the_authority_is_admitted(names: dict[str, str]) -> None:
    clients = parse_request_header_clients({"requestheader-client-ca-file": AUTHORITY, **names})
    assert clients.admit("anybody")


@pytest.mark.parametrize("data", [None, {}, {"client-ca-file": AUTHORITY}, {"requestheader-client-ca-file": " "}])
def test_without_an_authority_nobody_is_let_in_and_the_message_says_how_to_mend_it(data: dict[str, str] | None) -> None:
    with pytest.raises(TransientError, match="--requestheader-client-ca-file") as refused:
        parse_request_header_clients(data)
    assert refused.value.reason == "AggregationNotConfigured"


@pytest.mark.parametrize("names", ["front-proxy-client", '{"a": 1}', "[1]", '"a"'])
def test_a_broken_list_lets_nobody_in_rather_than_anybody(names: str) -> None:
    with pytest.raises(TransientError, match="no JSON list"):
        parse_request_header_clients({"requestheader-client-ca-file": AUTHORITY, "requestheader-allowed-names": names})
