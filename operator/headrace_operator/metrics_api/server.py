"""The server of the external metrics API, with all that keeps it trusted: certificates, clients, the APIService."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import TYPE_CHECKING

from aiohttp import web

from headrace_operator.core.model import OperatorError, TransientError
from headrace_operator.metrics_api.api_service import claim_api_service
from headrace_operator.metrics_api.request_header import AUTHENTICATION_CONFIG_MAP, parse_request_header_clients
from headrace_operator.metrics_api.routes import application
from headrace_operator.metrics_api.secret import keep_certificate
from headrace_operator.metrics_api.tls import serving_context

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from headrace_operator.core.model import ObjectKey
    from headrace_operator.metrics_api.api_service import ApiServiceState
    from headrace_operator.metrics_api.certificates import ServingCertificate
    from headrace_operator.metrics_api.ports import MetricsApiCluster, MetricsSource
    from headrace_operator.metrics_api.request_header import RequestHeaderClients
    from headrace_operator.reconcile.ports import Clock

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 60.0
"""How often certificates, clients and the APIService are looked after; a rotated authority is known within it."""

_SHUTDOWN_SECONDS = 5.0
"""How long requests under way may take when the server stops; each is answered from memory."""


class ExternalMetricsServer:
    """Serves the external metrics inside an `async with` block.

    Entering raises `OperatorError` where the API can't be served: the cluster can't be asked, or says no.

    Parameters
    ----------
    address
        Where to listen, `host:port`; port 0 picks a free one.
    service
        The Service in front, which the certificate names and the APIService must point at.
    secret
        Where the certificate is kept.
    """

    def __init__(
        self,
        cluster: MetricsApiCluster,
        source: MetricsSource,
        clock: Clock,
        *,
        address: str,
        service: ObjectKey,
        secret: ObjectKey,
        refresh_seconds: float = REFRESH_SECONDS,
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._address = address
        self._service = service
        self._secret = secret
        self._names = (
            f"{service.name}.{service.namespace}.svc",
            f"{service.name}.{service.namespace}.svc.cluster.local",
            "localhost",
        )
        self._refresh_seconds = refresh_seconds
        self._runner = web.AppRunner(
            application(source, self._admit), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        self._socket: socket.socket | None = None
        self._site: web.SockSite | None = None
        self._trusted: tuple[ServingCertificate, RequestHeaderClients] | None = None
        self._api_service: ApiServiceState | None = None
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._socket is not None, "the server is not started"
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def api_service(self) -> ApiServiceState:
        """Whether the cluster's questions come here, as of the last look."""
        assert self._api_service is not None, "the server is not started"
        return self._api_service

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            self._socket = _listen(self._address)
            await self.refresh()
        except BaseException:
            await self._close()
            raise
        self._refreshing = asyncio.create_task(self._refresh_for_ever(), name="external-metrics-refresh")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refreshing
        await self._close()

    async def refresh(self) -> None:
        """Look after the certificate, the clients and the APIService once, and serve by what was found."""
        clients = parse_request_header_clients(await self._cluster.config_map(AUTHENTICATION_CONFIG_MAP))
        serving = await keep_certificate(self._cluster, self._secret, self._names, self._clock.now())
        # The API server must trust a new authority before it meets it.
        state = await claim_api_service(self._cluster, self._service, serving.authorities)
        if state != self._api_service:
            logger.log(logging.INFO if state.ours else logging.WARNING, "%s", state.message)
        self._api_service = state
        if (serving, clients) != self._trusted:
            await self._serve(serving, clients)
            self._trusted = (serving, clients)

    async def _refresh_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_seconds)
            try:
                await self.refresh()
            except OperatorError as error:
                logger.warning("The external metrics are served as before: %s", error.message)
            except Exception:
                logger.exception("The external metrics are served as before.")

    async def _serve(self, serving: ServingCertificate, clients: RequestHeaderClients) -> None:
        """Accept connections by a new context. Those that exist go on; none is refused in between."""
        try:
            context = serving_context(serving, clients)
        except ssl.SSLError as error:
            raise TransientError(
                "AggregationNotConfigured",
                f"the certificate authorities in ConfigMap {AUTHENTICATION_CONFIG_MAP} can't be read: {error.reason}",
            ) from None
        assert self._socket is not None
        # A server closes its socket when it stops: each gets a duplicate, so that the port is never given up.
        site = web.SockSite(self._runner, self._socket.dup(), ssl_context=context)
        await site.start()
        if self._site is not None:
            await self._site.stop()
        self._site = site

    def _admit(self, common_name: str) -> bool:
        assert self._trusted is not None
        _, clients = self._trusted
        return clients.admit(common_name)

    async def _close(self) -> None:
        await self._runner.cleanup()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        return socket.create_server(
            (host.strip("[]"), int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
        )
    except (OSError, ValueError) as error:
        raise TransientError("AddressUnavailable", f"can't listen on {address!r}: {error}") from None
