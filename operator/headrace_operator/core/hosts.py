"""What names of hosts mean elsewhere."""

from __future__ import annotations


def seen_from_elsewhere(host: str, namespace: str) -> str:
    """The name of a host with the short name of a Service qualified, which means what it means in `namespace`.

    The operator stands in another namespace, where `postgres` would be another Service, or none.
    """
    is_short_name = host and host != "localhost" and not set(host) & set(".[/%:")
    return f"{host}.{namespace}.svc" if is_short_name else host
