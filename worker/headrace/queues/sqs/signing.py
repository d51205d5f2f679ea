"""Signature Version 4 for the one kind of request that is sent by hand: a POST of JSON. Pure.

After https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html; what comes out is,
byte for byte, what botocore's `SigV4Auth` makes of the same request.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from urllib.parse import SplitResult

CONTENT_TYPE = "application/x-amz-json-1.0"

_ALGORITHM = "AWS4-HMAC-SHA256"
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Keys(Protocol):
    """Credentials as botocore freezes them."""

    @property
    def access_key(self) -> str: ...  # noqa: D102 - botocore's name

    @property
    def secret_key(self) -> str: ...  # noqa: D102

    @property
    def token(self) -> str | None: ...  # noqa: D102


class Signer:
    """Makes the headers of requests to one endpoint.

    Parameters
    ----------
    endpoint_url
        Where requests go. Its path is signed, too.
    region
        The one that is signed for.
    service
        Its signing name.
    """

    def __init__(self, *, endpoint_url: str, region: str, service: str = "sqs") -> None:
        parts = urlsplit(endpoint_url)
        self.host = _host(parts)
        self._scope = f"{region}/{service}/aws4_request"
        self._region = region
        self._service = service
        self._beginning = f"POST\n{_path(parts.path)}\n\ncontent-type:{CONTENT_TYPE}\nhost:{self.host}\nx-amz-date:"
        self._key: tuple[str, str, bytes] = "", "", b""

    def headers(self, *, target: str, body: bytes, keys: Keys, timestamp: str) -> dict[str, str]:
        """All that a request says of itself.

        Parameters
        ----------
        target
            The operation, with its service: ``AmazonSQS.SendMessageBatch``.
        body
            What is sent.
        keys
            By whom.
        timestamp
            When, in UTC: ``20260102T030405Z``.

        Raises
        ------
        ValueError
            When the credentials hold a line break, which no header can.
        """
        date = timestamp[:8]
        token = keys.token
        headers = {
            "Host": self.host,
            "Content-Type": CONTENT_TYPE,
            "X-Amz-Target": target,
            "X-Amz-Date": timestamp,
        }
        if token:
            names = "content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
            said = f"x-amz-security-token:{' '.join(token.split())}\nx-amz-target:{target}"
            headers["X-Amz-Security-Token"] = token
        else:
            names = "content-type;host;x-amz-date;x-amz-target"
            said = f"x-amz-target:{target}"
        request = f"{self._beginning}{timestamp}\n{said}\n\n{names}\n{sha256(body).hexdigest()}"
        scope = f"{date}/{self._scope}"
        to_sign = f"{_ALGORITHM}\n{timestamp}\n{scope}\n{sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._signing_key(keys.secret_key, date), to_sign.encode(), "sha256").hex()
        headers["Authorization"] = (
            f"{_ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        if "\n" in keys.access_key or "\r" in keys.access_key or (token and ("\n" in token or "\r" in token)):
            raise ValueError("the access key's id or the session token holds a line break")
        return headers

    def _signing_key(self, secret_key: str, date: str) -> bytes:
        """A key lasts for a day: four rounds of HMAC, once."""
        of_secret, of_date, key = self._key
        if of_secret != secret_key or of_date != date:
            key = f"AWS4{secret_key}".encode()
            for part in (date, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = secret_key, date, key
        return key


def _host(parts: SplitResult) -> str:
    """As it stands in the header: the port only where it is not the scheme's own."""
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if parts.port is not None and parts.port != _DEFAULT_PORTS.get(parts.scheme):
        host = f"{host}:{parts.port}"
    return host


def _path(path: str) -> str:
    """The canonical form of a path: no empty parts, no dots, what is special once more percent-encoded."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del kept[-1:]
        elif part not in {"", "."}:
            kept.append(part)
    joined = f"/{'/'.join(kept)}"
    if kept and path.endswith("/"):
        joined += "/"
    return quote(joined, safe="/~")
