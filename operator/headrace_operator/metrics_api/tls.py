"""The TLS context: our certificate shown, the client's demanded and verified."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace_operator.metrics_api.certificates import ServingCertificate
    from headrace_operator.metrics_api.request_header import RequestHeaderClients


def serving_context(serving: ServingCertificate, clients: RequestHeaderClients) -> ssl.SSLContext:
    """A server's context that no client without an accepted certificate gets past."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    # The authority that the API server publishes may itself be issued by one that it doesn't publish.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=clients.certificate_authorities)
    _load_certificate(context, serving)
    return context


def _load_certificate(context: ssl.SSLContext, serving: ServingCertificate) -> None:
    # The ssl module reads certificates from paths only. A file in memory never leaves the key on a disk, and needs no
    # writable one.
    descriptor = os.memfd_create("serving-certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(serving.certificate + serving.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
