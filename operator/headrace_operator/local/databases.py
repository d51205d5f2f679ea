"""Which database a JobQueue gets: that of its Secret where it is given, else the embedded one. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from headrace_operator.core.model import ObjectKey, TransientError
from headrace_operator.local.errors import InputError
from headrace_operator.providers.postgres.place import read_dsn
from headrace_operator.reconcile.objects import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headrace_operator.local.manifests import Manifests

_FURTHER = ("adminConnection", "directConnection")


def embedded_queues(manifests: Manifests) -> list[dict[str, Any]]:
    """The JobQueues whose connection's Secret is not among the manifests.

    Raises
    ------
    InputError
        Where a queue has some of its Secrets and not the others, or a Secret lacks its key.
    """
    embedded = []
    for queue in manifests.queues:
        postgres = queue["spec"]["postgres"]
        if _secret(queue, postgres["connection"]["secretRef"]) not in manifests.secrets:
            embedded.append(queue)
            continue
        references = [postgres[name]["secretRef"] for name in ("connection", *_FURTHER) if name in postgres]
        if "tls" in postgres:
            references.append(postgres["tls"]["caSecretRef"])
        for reference in references:
            if not manifests.secrets.get(_secret(queue, reference), {}).get(reference["key"]):
                raise InputError(
                    f"JobQueue {key_of(queue).name}: no Secret {reference['name']} with the key {reference['key']} is "
                    "among the manifests: give it, too, or leave out all Secrets for an embedded PostgreSQL"
                )
    return embedded


def give_embedded(manifests: Manifests, queues: list[dict[str, Any]], dsns: Mapping[str, str]) -> list[str]:
    """Let these queues live in the embedded server, by the DSNs of their namespaces' databases.

    Returns what of them has no meaning there, a sentence each.
    """
    notes = []
    for queue in queues:
        postgres = queue["spec"]["postgres"]
        reference = postgres["connection"]["secretRef"]
        dsn = dsns[key_of(queue).namespace]
        manifests.secrets.setdefault(_secret(queue, reference), {})[reference["key"]] = dsn.encode()
        removed = [f"postgres.{name}" for name in (*_FURTHER, "tls") if postgres.pop(name, None) is not None]
        if removed:
            told = ", ".join(removed)
            notes.append(f"JobQueue {key_of(queue).name}: without meaning here and ignored: {told}")
    return notes


def require_known_hosts(manifests: Manifests, is_known: Callable[[str], bool]) -> None:
    """See that given DSNs lead somewhere: a Service's name means something only inside of the cluster.

    Raises
    ------
    InputError
        Where one doesn't, or where a Secret holds no DSN.
    """
    for queue in manifests.queues:
        reference = queue["spec"]["postgres"]["connection"]["secretRef"]
        secret = manifests.secrets.get(_secret(queue, reference), {}).get(reference["key"])
        if secret is None:
            continue
        name = key_of(queue).name
        try:
            dsn = read_dsn(secret, f"key {reference['key']} of Secret {reference['name']}")
        except TransientError as error:
            raise InputError(f"JobQueue {name}: {error.message}") from None
        hosts = _hosts(dsn)
        if hosts and not any(_is_address(host) or is_known(host) for host in hosts):
            raise InputError(
                f"JobQueue {name}: the DSN in Secret {reference['name']} leads to the host {', '.join(hosts)}, which "
                "this machine does not know: give a DSN that leads there from here, or leave the Secret out for an "
                "embedded PostgreSQL"
            )


def _hosts(dsn: str) -> list[str]:
    parts = urlsplit(dsn)
    places = parts.netloc.rpartition("@")[2] or dict(parse_qsl(parts.query)).get("host", "")
    return [urlsplit(f"//{place}").hostname or "" for place in places.split(",") if not place.startswith("/")]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _secret(queue: Mapping[str, Any], reference: Mapping[str, str]) -> ObjectKey:
    return ObjectKey(key_of(queue).namespace, reference["name"])
