"""Where a Redis is, from its URL. No message here repeats any part of the URL that may hold a password."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from headrace.idempotency.base import IdempotencyConfigurationError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_FORM = "write redis://USER:PASSWORD@HOST:PORT/DATABASE, or rediss:// for TLS"
_SENTINEL_PARAMETERS = ("sentinel_username", "sentinel_password")


class RedisMode(StrEnum):
    """What stands at the address."""

    STANDALONE = "Standalone"
    SENTINEL = "Sentinel"
    CLUSTER = "Cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisPlace:
    """How to reach a Redis. `repr` shows no secret."""

    mode: RedisMode
    addresses: tuple[tuple[str, int], ...]
    """Host and port: of the server, of the Sentinels, or of some of a Cluster's nodes."""
    database: int = 0
    has_tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_master: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    ca_certificates: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """For messages."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.addresses)
        match self.mode:
            case RedisMode.STANDALONE:
                return f"Redis at {hosts}"
            case RedisMode.SENTINEL:
                return f"Redis {self.sentinel_master} (Sentinels at {hosts})"
            case RedisMode.CLUSTER:
                return f"Redis Cluster at {hosts}"

    @classmethod
    def from_url(
        cls, url: str, *, mode: str, sentinel_master: str | None = None, ca_certificates: str | None = None
    ) -> RedisPlace:
        """Read and check what `headrace.idempotency.store_from_url` was given.

        Raises
        ------
        IdempotencyConfigurationError
            With the fix.
        """
        try:
            known_mode = RedisMode(mode)
        except ValueError:
            raise IdempotencyConfigurationError(
                f"mode {mode!r} is none of Redis: use Standalone, Sentinel or Cluster"
            ) from None
        try:
            parts = urlsplit(url.strip())
            addresses = _addresses(parts, 26379 if known_mode is RedisMode.SENTINEL else 6379)
        except ValueError:
            # The cause would show the URL.
            raise IdempotencyConfigurationError(f"the URL of Redis can't be read: {_FORM}") from None
        if parts.scheme not in ("redis", "rediss"):
            raise IdempotencyConfigurationError(f"the URL of Redis has no scheme redis or rediss: {_FORM}")
        if not all(host for host, _ in addresses):
            raise IdempotencyConfigurationError(f"the URL of Redis lacks a host: {_FORM}")
        if parts.fragment:
            raise IdempotencyConfigurationError(
                f"the URL of Redis has a part after #: {_FORM}, with %23 for # in a password"
            )
        if len(addresses) > 1 and known_mode is RedisMode.STANDALONE:
            raise IdempotencyConfigurationError(
                "the URL of Redis names several hosts, and mode Standalone has one: name one, or set the mode to "
                "Sentinel or Cluster"
            )
        if (known_mode is RedisMode.SENTINEL) != bool(sentinel_master):
            raise IdempotencyConfigurationError(
                "mode Sentinel needs the name of the primary that the Sentinels watch: set the sentinel master"
                if known_mode is RedisMode.SENTINEL
                else f"a sentinel master is named, and the mode is {known_mode}: remove it, or set the mode to Sentinel"
            )
        if ca_certificates and parts.scheme != "rediss":
            raise IdempotencyConfigurationError(
                "CA certificates are given, and the URL of Redis asks for no TLS: begin it with rediss://"
            )
        _check_certificates(ca_certificates)
        own = _own_parameters(parts, known_mode)
        return cls(
            mode=known_mode,
            addresses=addresses,
            database=_database(parts, known_mode),
            has_tls=parts.scheme == "rediss",
            username=unquote(parts.username or "") or None,
            password=unquote(parts.password or "") or None,
            sentinel_master=sentinel_master,
            sentinel_username=own.get("sentinel_username"),
            sentinel_password=own.get("sentinel_password"),
            ca_certificates=ca_certificates or None,
        )


def _addresses(parts: SplitResult, default_port: int) -> tuple[tuple[str, int], ...]:
    places = parts.netloc.rpartition("@")[2].split(",")
    # The brackets of IPv6 are understood by urlsplit alone.
    each = [urlsplit(f"//{place.strip()}") for place in places]
    return tuple((address.hostname or "", address.port or default_port) for address in each)


def _database(parts: SplitResult, mode: RedisMode) -> int:
    text = parts.path.strip("/") or "0"
    if not (text.isascii() and text.isdecimal()):
        raise IdempotencyConfigurationError(f"the database in the URL of Redis must be a number such as 0: {_FORM}")
    if mode is RedisMode.CLUSTER and int(text):
        raise IdempotencyConfigurationError("a Redis Cluster has database 0 alone: remove the number from the URL")
    return int(text)


def _own_parameters(parts: SplitResult, mode: RedisMode) -> dict[str, str]:
    parameters = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    known = _SENTINEL_PARAMETERS if mode is RedisMode.SENTINEL else ()
    if not set(parameters) <= set(known):
        # Their names may hold what was meant as a password with a question mark.
        raise IdempotencyConfigurationError(
            "the URL of Redis has a parameter that means nothing here: "
            + ("use sentinel_username and sentinel_password only" if known else "remove what follows the ?")
            + ", and write %3F for ? in a password"
        )
    return parameters


def _check_certificates(ca_certificates: str | None) -> None:
    if not ca_certificates:
        return
    try:
        ssl.create_default_context(cadata=ca_certificates)
    except (ssl.SSLError, ValueError):
        raise IdempotencyConfigurationError(
            "the CA certificates for Redis are no PEM: they must begin with -----BEGIN CERTIFICATE-----"
        ) from None
