"""Where the serving certificate is kept: one Secret, shared by the operator's replicas and over its restarts."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import ConflictError
from headrace_operator.metrics_api.certificates import ServingCertificate, renew

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from headrace_operator.core.model import ObjectKey
    from headrace_operator.metrics_api.ports import MetricsApiCluster


async def keep_certificate(
    cluster: MetricsApiCluster, key: ObjectKey, names: Sequence[str], now: datetime
) -> ServingCertificate:
    """The certificate in the Secret, made or renewed there first where that is due."""
    try:
        return await _read_or_renew(cluster, key, names, now)
    except ConflictError:
        # Another replica was quicker: what it wrote is as good as ours, and two must not differ.
        return await _read_or_renew(cluster, key, names, now)


async def _read_or_renew(
    cluster: MetricsApiCluster, key: ObjectKey, names: Sequence[str], now: datetime
) -> ServingCertificate:
    manifest = await cluster.secret(key)
    stored = _parse(manifest) if manifest is not None else None
    certificate = renew(stored, names, now)
    if certificate is stored:
        return certificate
    if manifest is None:
        await cluster.create_secret(_manifest(key, certificate))
    else:
        await cluster.replace_secret({**manifest, "data": _encode(certificate)})
    return certificate


def _manifest(key: ObjectKey, certificate: ServingCertificate) -> Mapping[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {
            "namespace": key.namespace,
            "name": key.name,
            "labels": {"app.kubernetes.io/name": "headrace", "app.kubernetes.io/managed-by": "headrace-operator"},
        },
        "data": _encode(certificate),
    }


def _encode(certificate: ServingCertificate) -> dict[str, str]:
    return {name: base64.b64encode(value).decode() for name, value in certificate.secret_data().items()}


def _parse(manifest: Mapping[str, Any]) -> ServingCertificate | None:
    try:
        data = {name: base64.b64decode(value) for name, value in (manifest.get("data") or {}).items()}
    except binascii.Error:
        return None
    return ServingCertificate.from_secret_data(data)
