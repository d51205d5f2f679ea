"""The HTTP face: who may ask, what can be asked, what is answered."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from headrace_operator.core.external_metrics import EXTERNAL_METRICS
from headrace_operator.metrics_api import documents
from headrace_operator.metrics_api.selectors import InvalidSelectorError, parse_selector

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler

    from headrace_operator.metrics_api.documents import Document
    from headrace_operator.metrics_api.ports import MetricsSource

logger = logging.getLogger(__name__)

_ROOT = f"/apis/{documents.GROUP_VERSION}"


class _RequestRefusedError(Exception):
    """A request that is answered with a Status."""

    def __init__(self, code: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def application(source: MetricsSource, admit: Callable[[str], bool]) -> web.Application:
    """The API.

    Parameters
    ----------
    source
        Where values come from.
    admit
        Whether the holder of a (verified) client certificate with this common name may ask.
    """

    async def external_metric(request: web.Request) -> web.Response:
        return web.json_response(
            _values(
                source,
                request.match_info["metric"],
                request.match_info["namespace"],
                request.query.get("labelSelector", ""),
            )
        )

    @web.middleware
    async def answer_with_status(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if admit(_common_name(request)):
                return await handler(request)
            return _status(HTTPStatus.FORBIDDEN, "the client certificate is not one of the aggregation layer's")
        except _RequestRefusedError as refused:
            return _status(refused.code, refused.message)
        except web.HTTPError as error:
            return _status(HTTPStatus(error.status), f"{request.method} {request.path}: {error.reason}")
        except Exception:
            logger.exception("A request for external metrics failed.", extra={"path": request.path})
            return _status(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; the operator's log has the details")

    app = web.Application(middlewares=[answer_with_status])
    app.router.add_get(
        "/apis", _constant({"kind": "APIGroupList", "apiVersion": "v1", "groups": [documents.api_group()]})
    )
    app.router.add_get(f"/apis/{documents.GROUP}", _constant(documents.api_group()))
    app.router.add_get(_ROOT, _constant(documents.api_resource_list()))
    app.router.add_get("/openapi/v2", _constant(documents.openapi_v2()))
    app.router.add_get("/openapi/v3", _constant(documents.openapi_v3()))
    app.router.add_get(f"{_ROOT}/namespaces/{{namespace}}/{{metric}}", external_metric)
    return app


def _values(source: MetricsSource, metric: str, namespace: str, selector_text: str) -> Document:
    if metric not in EXTERNAL_METRICS:
        raise _RequestRefusedError(
            HTTPStatus.NOT_FOUND, f"there is no metric {metric!r}: there are {', '.join(EXTERNAL_METRICS)}"
        )
    try:
        selector = parse_selector(selector_text)
    except InvalidSelectorError as error:
        raise _RequestRefusedError(HTTPStatus.BAD_REQUEST, f"labelSelector: {error}") from None
    values = [value for value in source.values(metric, namespace) if selector.matches(value.labels)]
    if not values:
        # Never an empty list or a zero: an autoscaler must hold still where nothing is known.
        matching = f" that matches {selector_text!r}" if selector_text else ""
        raise _RequestRefusedError(
            HTTPStatus.NOT_FOUND, f"there is no fresh value of {metric} in namespace {namespace!r}{matching}"
        )
    return documents.external_metric_value_list(metric, values)


def _constant(document: Document) -> Handler:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.json_response(document)

    return answer


def _status(code: HTTPStatus, message: str) -> web.Response:
    return web.json_response(documents.failure(code, message), status=code)


def _common_name(request: web.Request) -> str:
    """The common name in the client certificate, which the handshake has verified."""
    assert request.transport is not None
    certificate = request.transport.get_extra_info("peercert")
    return next(
        (value for pairs in certificate["subject"] for name, value in pairs if name == "commonName"),
        "",
    )
