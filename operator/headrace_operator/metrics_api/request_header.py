"""Who may call: the aggregation layer, known by its client certificate.

The API server publishes the authority and the names of its proxy's certificates in one ConfigMap, for every extension
API server to check.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import ObjectKey, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping

AUTHENTICATION_CONFIG_MAP = ObjectKey("kube-system", "extension-apiserver-authentication")

_CLIENT_CA = "requestheader-client-ca-file"
_ALLOWED_NAMES = "requestheader-allowed-names"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHeaderClients:
    """The certificates that the aggregation layer may show."""

    certificate_authorities: str
    """PEM; one of these must have issued the certificate."""
    allowed_names: frozenset[str]
    """Common names; empty: any."""

    def admit(self, common_name: str) -> bool:
        """Whether the holder of a verified certificate with this name is the aggregation layer."""
        return not self.allowed_names or common_name in self.allowed_names


def parse_request_header_clients(data: Mapping[str, str] | None) -> RequestHeaderClients:
    """Read `AUTHENTICATION_CONFIG_MAP`.

    Raises
    ------
    TransientError
        When the API server publishes no authority (its aggregation layer is off), or names that can't be read.
    """
    authorities = (data or {}).get(_CLIENT_CA, "")
    if not authorities.strip():
        raise TransientError(
            "AggregationNotConfigured",
            f"ConfigMap {AUTHENTICATION_CONFIG_MAP} has no {_CLIENT_CA}: the API server's aggregation layer is off, "
            "so nobody could be let in to the external metrics; start it with --requestheader-client-ca-file, "
            "or scale in mode Direct",
        )
    return RequestHeaderClients(
        certificate_authorities=authorities, allowed_names=_parse_names((data or {}).get(_ALLOWED_NAMES, ""))
    )


def _parse_names(text: str) -> frozenset[str]:
    if not text.strip():
        return frozenset()
    try:
        names: Any = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        # Letting anybody in because the list of names is broken would be the wrong way round.
        raise TransientError(
            "AggregationNotConfigured",
            f"{_ALLOWED_NAMES} in ConfigMap {AUTHENTICATION_CONFIG_MAP} is no JSON list of names",
        )
    return frozenset(names)
