"""Which rights calls of the service need: IAM actions, by operation and by who calls. Pure.

After https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsqs.html and
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-api-permissions-reference.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

Role: TypeAlias = Literal["operator", "worker", "producer"]

ROLES: tuple[Role, ...] = get_args(Role)

_OTHER_THAN_ITS_NAME: Mapping[str, tuple[str, ...]] = {
    # A batch needs the right to the single call.
    "SendMessageBatch": ("sqs:SendMessage",),
    "DeleteMessageBatch": ("sqs:DeleteMessage",),
    "ChangeMessageVisibilityBatch": ("sqs:ChangeMessageVisibility",),
    # The task moves messages with the rights of whoever starts it.
    "StartMessageMoveTask": (
        "sqs:StartMessageMoveTask",
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
        "sqs:SendMessage",
    ),
    "CancelMessageMoveTask": (
        "sqs:CancelMessageMoveTask",
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
        "sqs:SendMessage",
    ),
}


def actions(operation: str) -> tuple[str, ...]:
    """The IAM actions that an operation of the service needs, its own first: ``("sqs:SendMessage",)``."""
    return _OTHER_THAN_ITS_NAME.get(operation, (f"sqs:{operation}",))


WORKER_OPERATIONS = (
    "ReceiveMessage",
    "DeleteMessageBatch",
    "ChangeMessageVisibilityBatch",
    # Retries and dead letters are sent.
    "SendMessageBatch",
    "GetQueueAttributes",
    "ListQueueTags",
)
"""What a worker calls on its queue; on the dead-letter queue, see `DEAD_LETTER_OPERATIONS`."""

PRODUCER_OPERATIONS = ("SendMessageBatch",)
"""What a producer calls on its queue."""

DEAD_LETTER_OPERATIONS = ("SendMessageBatch", "GetQueueAttributes")
"""What a worker calls on the dead-letter queue."""

OPERATOR_OPERATIONS = (
    "CreateQueue",
    "GetQueueUrl",
    "GetQueueAttributes",
    "SetQueueAttributes",
    "ListQueueTags",
    "TagQueue",
    "UntagQueue",
    "DeleteQueue",
)
"""What the operator calls on the queues that it makes, dead-letter queues among them."""

OPERATIONS: Mapping[Role, tuple[str, ...]] = {
    "operator": OPERATOR_OPERATIONS,
    "worker": WORKER_OPERATIONS,
    "producer": PRODUCER_OPERATIONS,
}
"""What each role calls on a queue."""


def least_actions(role: Role) -> tuple[str, ...]:
    """The fewest IAM actions on a queue with which a role can do all that it does, in the order of the alphabet."""
    return tuple(sorted({action for operation in OPERATIONS[role] for action in actions(operation)}))


def dead_letter_actions(role: Role) -> tuple[str, ...]:
    """As `least_actions`, on the dead-letter queue. A producer needs none."""
    match role:
        case "operator":
            return least_actions(role)
        case "worker":
            return tuple(sorted({action for operation in DEAD_LETTER_OPERATIONS for action in actions(operation)}))
        case "producer":
            return ()


def key_actions(role: Role) -> tuple[str, ...]:
    """The IAM actions on a customer managed KMS key of an encrypted queue.

    After https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
    """
    return () if role == "operator" else ("kms:Decrypt", "kms:GenerateDataKey")


_BY_LOWER_CASE = {
    action.lower(): action
    for operation in (
        *(operation for operations in OPERATIONS.values() for operation in operations),
        *_OTHER_THAN_ITS_NAME,
        "ListQueues",
        "ListDeadLetterSourceQueues",
        "ListMessageMoveTasks",
        "PurgeQueue",
    )
    for action in actions(operation)
} | {action.lower(): action for action in ("kms:Decrypt", "kms:GenerateDataKey", "kms:DescribeKey")}
# Some endpoints ask for an action of a batch's own name, which IAM has not.
_BY_LOWER_CASE |= {f"sqs:{operation}".lower(): its[0] for operation, its in _OTHER_THAN_ITS_NAME.items()}


def spelled(action: str) -> str:
    """An action as IAM spells it: the service's own messages write some in small letters."""
    return _BY_LOWER_CASE.get(action.lower(), action)
