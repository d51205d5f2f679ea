"""JSON documents in attributes: what they mean, whatever their order and spelling. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from headrace.queues.sqs.spec import SqsSpecError

_ACCOUNT = re.compile(r"\d{12}")
_ROOT = re.compile(r"arn:[a-z-]+:iam::(\d{12}):root")
# In these an element alone is the same as a list of it, and a list has no order.
_SETS = frozenset({"Action", "NotAction", "Resource", "NotResource"})


def parse_policy(text: str) -> dict[str, Any]:
    """A queue policy.

    Raises
    ------
    SqsSpecError
        When it is none that SQS could take.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise SqsSpecError("policy", f"is no JSON ({error}): give a policy document, in JSON") from None
    except RecursionError:
        raise SqsSpecError("policy", "is nested too deep: give a policy document") from None
    if not isinstance(document, dict):
        raise SqsSpecError("policy", "is no JSON object: give a policy document, with Version and Statement")
    statements = _as_list(document.get("Statement"))
    if not statements:
        raise SqsSpecError("policy", "has no Statement: give one, or leave the policy out")
    for number, statement in enumerate(statements, start=1):
        if not isinstance(statement, dict):
            raise SqsSpecError("policy", f"statement {number} is no JSON object")
        if statement.get("Effect") not in ("Allow", "Deny"):
            raise SqsSpecError("policy", f"statement {number} has no Effect: give Allow or Deny")
        for one, other in (("Principal", "NotPrincipal"), ("Action", "NotAction")):
            if one not in statement and other not in statement:
                raise SqsSpecError("policy", f"statement {number} has no {one}")
    return document


def names_a_service(policy: str) -> bool:
    """Whether a policy lets one of AWS's own services in, such as S3 or SNS."""
    return any(
        isinstance(statement, dict)
        and isinstance(statement.get("Principal"), dict)
        and "Service" in statement["Principal"]
        for statement in _as_list(parse_policy(policy).get("Statement"))
    )


def canonical_policy(text: str) -> Any:
    """What a policy means: equal where order, spelling and the ways to name an account alone differ."""
    document = _loaded(text)
    if not isinstance(document, dict):
        return _frozen(document)
    parts = {name: _frozen(value) for name, value in document.items() if name != "Statement"}
    statements = frozenset(_statement(one) for one in _as_list(document.get("Statement")))
    return frozenset((parts | {"Statement": statements}).items())


def canonical_document(text: str) -> Any:
    """What a document means: the order of its keys and lists, and whether a number is text, say nothing."""
    return _frozen(_loaded(text))


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Whatever it is, it is not what is wanted.
        return text


def _statement(statement: Any) -> Any:
    if not isinstance(statement, dict):
        return _frozen(statement)
    return frozenset((name, _element(name, value)) for name, value in statement.items())


def _element(name: str, value: Any) -> Any:
    if name in ("Action", "NotAction"):
        return frozenset(str(one).lower() for one in _as_list(value))
    if name in _SETS:
        return frozenset(_frozen(one) for one in _as_list(value))
    if name in ("Principal", "NotPrincipal"):
        whom = {"AWS": "*"} if value == "*" else value
        if not isinstance(whom, dict):
            return _frozen(whom)
        return frozenset((kind, frozenset(_account(one) for one in _as_list(who))) for kind, who in whom.items())
    if name == "Condition" and isinstance(value, dict):
        return frozenset(
            (
                operator,
                frozenset((key.lower(), frozenset(_text(one) for one in _as_list(of))) for key, of in keys.items()),
            )
            if isinstance(keys, dict)
            else (operator, _frozen(keys))
            for operator, keys in value.items()
        )
    return _frozen(value)


def _account(whom: Any) -> Any:
    """An account is named by its number, or as its root."""
    if isinstance(whom, str) and (found := _ROOT.fullmatch(whom)):
        return found[1]
    return whom if isinstance(whom, str) and _ACCOUNT.fullmatch(whom) else _frozen(whom)


def _text(value: Any) -> str:
    """A condition's values are compared as text: true is "true"."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return frozenset((key, _frozen(of)) for key, of in value.items())
    if isinstance(value, list):
        return frozenset(_frozen(one) for one in value)
    return value if isinstance(value, bool) or value is None else str(value)
