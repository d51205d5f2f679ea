"""IAM policies for the command line, as JSON. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from headrace.queues.sqs.policies import PolicyScope, iam_policy
from headrace.queues.sqs.rights import Role
from headrace.queues.sqs.spec import SqsSpecError
from headrace_operator.core.model import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence


def policy_json(
    role: Role,
    *,
    region: str,
    account: str,
    partition: str | None = None,
    queues: Sequence[str] = (),
    prefix: str | None = None,
    keys: Sequence[str] = (),
) -> str:
    """The policy document with the fewest rights that a role needs.

    Raises
    ------
    RefusedError
        ``InvalidOption``, with the option and the fix.
    """
    try:
        scope = PolicyScope(
            region=region,
            account=account,
            partition=partition,
            queues=tuple(queues),
            prefix=prefix,
            keys=tuple(keys),
        )
    except SqsSpecError as error:
        raise RefusedError("InvalidOption", f"--{error.field.replace('_', '-')}: {error.problem}") from None
    return json.dumps(iam_policy(role, scope), indent=2)
