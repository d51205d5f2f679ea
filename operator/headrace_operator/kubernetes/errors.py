"""What the API server's refusals mean for reconciling. The one place that knows its status codes."""

from __future__ import annotations

import json
import re
from typing import Any

from headrace_operator.core.model import ConflictError, OperatorError, PassingError, RefusedError, TransientError

_WRONG_MANIFEST = re.compile(
    r"^failed to (?:create typed patch object|convert new object) \([^)]*\)[^:]*: "
    r"(?:unable to convert unstructured object to [^:]*: )?"
)


class ExpiredError(PassingError):
    """A watch's resourceVersion is too old: list anew."""


def error_from_answer(status: int, body: bytes, subject: str, *, retry_after: str | None = None) -> OperatorError:
    """The failure that an answer other than 2xx tells of.

    Parameters
    ----------
    subject
        What was asked for, as messages name it.
    retry_after
        The header of this name, in seconds.
    """
    seconds = (
        float(retry_after) if retry_after is not None and retry_after.isascii() and retry_after.isdigit() else None
    )
    return error_from_status(status, _message(body), subject, retry_after_seconds=seconds)


def error_from_status(
    status: int, message: str, subject: str, *, retry_after_seconds: float | None = None
) -> OperatorError:
    """The failure that a Status tells of."""
    # Server-side apply answers a manifest that doesn't fit its schema with 500.
    if status == 500 and _WRONG_MANIFEST.match(message):
        return RefusedError("Invalid", _WRONG_MANIFEST.sub("", message))
    match status:
        case 400 | 422:
            return RefusedError("Invalid", message)
        case 401:
            return TransientError("Unauthorized", f"the API server does not know the operator ({subject}): {message}")
        case 403:
            return TransientError("Forbidden", message)
        case 404:
            return TransientError("NotFound", message)
        case 409:
            return ConflictError("Conflict", message)
        case 410:
            return ExpiredError("Expired", message)
        case 429:
            return PassingError(
                "TooManyRequests",
                f"the API server asks for patience ({subject}): {message}",
                retry_after_seconds=retry_after_seconds,
            )
        case _:
            return PassingError(
                "ApiServerError",
                f"the API server answered {status} ({subject}): {message}",
                retry_after_seconds=retry_after_seconds,
            )


def error_from_failure(failure: Exception, subject: str) -> OperatorError:
    """The failure of a request that got no answer."""
    if isinstance(failure, TimeoutError):
        return PassingError("ApiServerTimeout", f"the API server did not answer in time ({subject})")
    return PassingError("ApiServerUnreachable", f"the API server can't be reached ({subject}): {failure}")


def _message(body: bytes) -> str:
    """The message of a Status; whatever else answered (a proxy, say) is quoted in short."""
    try:
        answer: Any = json.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("message"), str):
        return str(answer["message"])
    return body[:200].decode(errors="replace").strip()
