"""IAM policies with the fewest rights that the operator, workers and producers need. Pure.

After https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsqs.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace.queues.sqs.rights import dead_letter_actions, key_actions, least_actions
from headrace.queues.sqs.spec import DEAD_LETTER_SUFFIX, SqsSpecError

if TYPE_CHECKING:
    from headrace.queues.sqs.rights import Role

_REGION = re.compile(r"[a-z]{2,}(?:-[a-z0-9]+)+")
_ACCOUNT = re.compile(r"\d{12}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_KEY_ARN = re.compile(r"arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:key/[A-Za-z0-9-]+")
_PARTITIONS = {"cn": "aws-cn", "us-gov": "aws-us-gov", "us-iso": "aws-iso", "us-isob": "aws-iso-b", "eusc": "aws-eusc"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyScope:
    """Which queues a policy is about.

    Raises
    ------
    SqsSpecError
        When a part of it can't be, with the option's name.
    """

    region: str
    account: str
    """Twelve digits."""
    partition: str | None = None
    """None: the region's."""
    queues: tuple[str, ...] = ()
    """By their names; the dead-letter queue beside each is meant, too."""
    prefix: str | None = None
    """All queues whose names begin so."""
    keys: tuple[str, ...] = ()
    """ARNs of customer managed KMS keys that queues are encrypted with."""

    def __post_init__(self) -> None:
        if not _REGION.fullmatch(self.region):
            raise SqsSpecError("region", f"{self.region!r}: give the name of a region, such as eu-central-1")
        if not _ACCOUNT.fullmatch(self.account):
            raise SqsSpecError("account", f"{self.account!r}: give the twelve digits of an account")
        if not self.queues and self.prefix is None:
            raise SqsSpecError("queue", "say which queues: by their names, or what their names begin with (--prefix)")
        for option, names in (("queue", self.queues), ("prefix", () if self.prefix is None else (self.prefix,))):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise SqsSpecError(option, f"{name!r}: give 1 to 80 of the characters A-Z, a-z, 0-9, - and _")
        for key in self.keys:
            if not _KEY_ARN.fullmatch(key):
                raise SqsSpecError("kms_key", f"{key!r}: give the key's ARN, arn:aws:kms:REGION:ACCOUNT:key/ID")

    @property
    def _arns(self) -> str:
        return f"arn:{self.partition or partition_of(self.region)}:sqs:{self.region}:{self.account}:"

    @property
    def queue_arns(self) -> list[str]:
        """The queues, dead-letter queues not among them unless their names begin alike."""
        return self._named("")

    @property
    def dead_letter_queue_arns(self) -> list[str]:
        """The dead-letter queues beside them."""
        return self._named(DEAD_LETTER_SUFFIX)

    def _named(self, suffix: str) -> list[str]:
        names = [name + suffix for name in self.queues] + ([] if self.prefix is None else [f"{self.prefix}*{suffix}"])
        return [self._arns + name for name in names]


def partition_of(region: str) -> str:
    """The partition that a region is in: ``aws`` but for China, governments and such."""
    for beginning in sorted(_PARTITIONS, key=len, reverse=True):
        if region.startswith(f"{beginning}-"):
            return _PARTITIONS[beginning]
    return "aws"


def iam_policy(role: Role, scope: PolicyScope) -> dict[str, Any]:
    """The policy document for whoever is the operator, a worker or a producer.

    Parameters
    ----------
    role
        Who it is for.
    scope
        Which queues it is about.

    Returns
    -------
    dict
        To be written as JSON.
    """
    on_queue, on_dead_letters = list(least_actions(role)), list(dead_letter_actions(role))
    statements = []
    if on_queue == on_dead_letters:
        # A name's beginning holds for both.
        arns = list(
            dict.fromkeys([*scope.queue_arns, *(arn for arn in scope.dead_letter_queue_arns if "*" not in arn)])
        )
        statements.append(_allow("Queues", on_queue, arns))
    else:
        statements.append(_allow("Queues", on_queue, scope.queue_arns))
        if on_dead_letters:
            statements.append(_allow("DeadLetterQueues", on_dead_letters, scope.dead_letter_queue_arns))
    if scope.keys and (of_keys := list(key_actions(role))):
        domain = "amazonaws.com.cn" if partition_of(scope.region) == "aws-cn" else "amazonaws.com"
        by_sqs = {"StringEquals": {"kms:ViaService": f"sqs.{scope.region}.{domain}"}}
        statements.append(_allow("Keys", of_keys, list(scope.keys)) | {"Condition": by_sqs})
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(sid: str, actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resources}
