"""What the service and its clients say, in our words: every error is a `QueueError`, with the fix if there is one.

Exceptions::

    SqsError                          (QueueError)
    ├── SqsUnavailableError           (QueueUnavailableError)  no answer, or the service can't serve now
    │   ├── ThrottledError            too many calls: fewer, later
    │   ├── InFlightLimitError        120,000 messages of the queue are in flight
    │   └── QueueDeletedRecentlyError the name is taken for up to a minute more
    ├── SqsAccessError                (QueueAccessError)       a right is missing, or credentials are refused
    └── SqsQueueNotFoundError         (QueueNotFoundError)

No message repeats a secret. The service's own are kept to a line.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any, Literal, TypeAlias

from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker

from headrace.queues.errors import QueueAccessError, QueueError, QueueNotFoundError, QueueUnavailableError
from headrace.queues.sqs.place import QUEUE_DELETED_SECONDS
from headrace.queues.sqs.rights import actions, spelled

AccessKind: TypeAlias = Literal[
    "AccessDenied",
    "ClockSkewed",
    "WrongRegion",
    "CredentialsExpired",
    "CredentialsRefused",
    "CredentialsMissing",
    "KeyUnusable",
]


class SqsError(QueueError):
    """Whatever the service refuses.

    Attributes
    ----------
    code
        The service's own name of the error, without its namespace: ``QueueDoesNotExist``. Empty where no answer came.
    status
        That of the HTTP answer; None where none came.
    operation
        What was called; empty where it is unknown.
    """

    def __init__(self, message: str, *, code: str = "", status: int | None = None, operation: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.operation = operation


class SqsUnavailableError(SqsError, QueueUnavailableError):
    """The service can't be reached, did not answer in time, or can't serve now. Trying again later may help."""


class ThrottledError(SqsUnavailableError):
    """Too many calls. Fewer of them, later, will be answered."""


class InFlightLimitError(SqsUnavailableError):
    """As many messages of the queue are in flight as may be (120,000). Once some are settled, it goes on."""


class QueueDeletedRecentlyError(SqsUnavailableError):
    """A queue of that name was deleted less than a minute ago.

    Attributes
    ----------
    retry_after_seconds
        When the name is free at the latest.
    """

    retry_after_seconds = QUEUE_DELETED_SECONDS


class SqsAccessError(SqsError, QueueAccessError):
    """The credentials are refused, or lack a right; or the KMS key of an encrypted queue can't be used.

    Attributes
    ----------
    action
        The IAM action that is missing, such as ``sqs:SendMessage``; empty where it is about the credentials.
    kind
        What is to be mended.
    """

    action = ""
    kind: AccessKind = "CredentialsRefused"


class SqsQueueNotFoundError(SqsError, QueueNotFoundError):
    """There is no such queue in this region and account."""


_THROTTLED = frozenset(ThrottledRetryableChecker._THROTTLED_ERROR_CODES) | {  # noqa: SLF001 - botocore's own list
    "RequestThrottled.AccessDenied",
    "KmsThrottled",
    "KMS.ThrottlingException",
}
_TRANSIENT = frozenset(TransientRetryableChecker._TRANSIENT_ERROR_CODES) | {  # noqa: SLF001 - as above
    "InternalError",
    "InternalFailure",
    "ServiceUnavailable",
    "ServiceUnavailableException",
}
# Botocore asks for the names of the protocol before this one.
_OLD_NAMES = {"NonExistentQueue": "QueueDoesNotExist", "QueueAlreadyExists": "QueueNameExists"}
_NOT_FOUND = frozenset({"QueueDoesNotExist"})
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "KmsAccessDenied", "KMS.AccessDeniedException"})
_KEY_TROUBLE = {
    "KmsDisabled": "is disabled: enable it, or name another",
    "KmsInvalidState": "can't be used as it is now, and may wait to be deleted: cancel that, or name another",
    "KmsNotFound": "does not exist in this region: mend its name",
    "KmsInvalidKeyUsage": "is for something else: name a symmetric key for encryption",
    "KmsOptInRequired": "needs a subscription to KMS that this account has not: subscribe, or use keys of SQS",
}
"""What is wrong with the key of an encrypted queue, and what to do. See
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html#API_SendMessage_Errors"""
_OLDER_KEY_TROUBLE = {
    "KMS.DisabledException": "KmsDisabled",
    "KMS.InvalidStateException": "KmsInvalidState",
    "KMS.NotFoundException": "KmsNotFound",
    "KMS.InvalidKeyUsageException": "KmsInvalidKeyUsage",
    "KMS.OptInRequired": "KmsOptInRequired",
}
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_UNKNOWN_KEY = frozenset(
    {"InvalidClientTokenId", "InvalidAccessKeyId", "UnrecognizedClientException", "InvalidSecurity"}
)
_SIGNATURE = frozenset({"SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature"})
_NO_KEY = frozenset({"MissingAuthenticationToken", "MissingAuthenticationTokenException", "NoCredentials"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"})
_OTHER_ACCOUNT = frozenset({"InvalidAddress"})
_PERFORM = re.compile(r"perform:? ([A-Za-z0-9-]+:[A-Za-z]+)")
_SKEWED_MESSAGE = re.compile(r"(?i)signature (?:expired|not yet current)")
_SCOPE_MESSAGE = re.compile(r"(?i)credential should be scoped to a valid region")
_XML_CODE = re.compile(r"<Code>([A-Za-z0-9.]+)</Code>")
_XML_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_LONGEST_MESSAGE = 500


def plain_code(code: str) -> str:
    """An error's name without what stands around it, as in ``com.amazonaws.sqs#QueueDoesNotExist``."""
    plain = code.rpartition("#")[2].partition(":")[0].removeprefix("AWS.SimpleQueueService.")
    return _OLD_NAMES.get(plain, plain)


def plain(code: str, message: str) -> tuple[str, str]:
    """An error's plain name and its message, which may be XML, as in the protocol before this one."""
    if message.lstrip().startswith("<") and (named := _XML_CODE.search(message)):
        explained = _XML_MESSAGE.search(message)
        code, message = named[1], unescape(explained[1]) if explained else ""
    return plain_code(code), " ".join(message.split())[:_LONGEST_MESSAGE]


def is_clock_skewed(code: str, message: str) -> bool:
    """Whether an error is about the time of a request's signature."""
    code = plain_code(code)
    return code in _SKEWED or (code in _SIGNATURE and bool(_SKEWED_MESSAGE.search(message)))


def are_credentials_refused(code: str) -> bool:
    """Whether other credentials might do: those that were used have expired, or are unknown."""
    return plain_code(code) in _EXPIRED | _UNKNOWN_KEY


def translated(
    error_code: str,
    message: str,
    *,
    status: int | None = None,
    operation: str = "",
    skew_seconds: float | None = None,
) -> SqsError:
    """What an error of the service means.

    Parameters
    ----------
    error_code
        As it is named by the service, in whatever form.
    message
        What it says.
    status
        That of the HTTP answer.
    operation
        What was called.
    skew_seconds
        By how much the service's clock is ahead of ours, where it is known.
    """
    code, said = plain(error_code, message)
    if code.isdecimal():
        # An HTTP status alone: a proxy's page, or another service, whose words are not for whoever reads conditions.
        said = "what answered was not SQS"
    told: dict[str, Any] = {"code": code, "status": status, "operation": operation}
    during = f"{operation or 'a call'} of SQS"

    def access(kind: AccessKind, words: str, action: str = "") -> SqsAccessError:
        error = SqsAccessError(words, **told)
        error.kind, error.action = kind, action
        return error

    if code in _DENIED:
        action = _missing_action(code, said, operation)
        words = f"{during} is denied: allow {action or 'it'} to these credentials ({said})"
        return access("AccessDenied", words, action)
    if trouble := _KEY_TROUBLE.get(_OLDER_KEY_TROUBLE.get(code, code)):
        return access("KeyUnusable", f"{during} is refused, the KMS key of the queue {trouble} ({said})")
    if is_clock_skewed(code, said):
        off = f"{abs(skew_seconds):.0f} s {'behind' if skew_seconds > 0 else 'ahead'}" if skew_seconds else "wrong"
        return access("ClockSkewed", f"{during} is refused since the clock here is {off}: set it ({said})")
    if _SCOPE_MESSAGE.search(said):
        return access("WrongRegion", f"{during} was signed for another region: set region to the queue's own ({said})")
    if code in _EXPIRED:
        return access("CredentialsExpired", f"{during} is refused, the credentials have expired: renew them ({said})")
    if code in _UNKNOWN_KEY:
        return access(
            "CredentialsRefused",
            f"{during} is refused, the access key is unknown or its session token wrong: mend them ({said})",
        )
    if code in _SIGNATURE:
        # What follows is what should have been signed, a session token perhaps among it.
        said = said.partition(" The Canonical String")[0]
        return access(
            "CredentialsRefused",
            f"{during} is refused, its signature does not match: mend the secret access key ({said})",
        )
    if code in _NO_KEY:
        return access(
            "CredentialsMissing",
            f"{during} needs credentials: give access_key_id and secret_access_key, or a role to the pod ({said})",
        )
    if code in _OTHER_ACCOUNT:
        return access(
            "WrongRegion",
            f"{during} does not reach the queue: mend region, account and endpoint of its URL ({said})",
        )
    if code in _NOT_FOUND:
        return SqsQueueNotFoundError(
            f"no such queue in this region and account: apply its JobQueue, or mend the URL ({said})", **told
        )
    if code == "QueueDeletedRecently":
        return QueueDeletedRecentlyError(
            f"a queue of that name was deleted less than {QUEUE_DELETED_SECONDS:g} s ago: its name is free then",
            **told,
        )
    if code == "OverLimit":
        return InFlightLimitError(
            f"{during}: as many messages are in flight as a queue may have (120,000); fewer workers, or jobs that are "
            f"settled sooner, mend it ({said})",
            **told,
        )
    if code in _THROTTLED or status == 429:
        return ThrottledError(f"{during} is throttled: fewer calls, or later ({said})", **told)
    if code in _TRANSIENT or (status is not None and status >= 500):
        return SqsUnavailableError(f"SQS can't serve now ({code or status}): {said}", **told)
    return SqsError(f"{during} is refused ({code}): {said}", **told)


def unreachable(error: BaseException, *, operation: str = "") -> SqsUnavailableError:
    """What it means that no answer came."""
    said = " ".join(str(error).split())[:_LONGEST_MESSAGE] or type(error).__name__
    return SqsUnavailableError(f"SQS can't be reached: {said}", operation=operation)


def not_in_time(operation: str) -> SqsUnavailableError:
    """What it means that nobody has waited any longer."""
    return SqsUnavailableError(f"{operation} of SQS was not answered in time", operation=operation)


def _missing_action(code: str, message: str, operation: str) -> str:
    """The IAM action that a refusal is about: the service mostly says, else it is the operation's own."""
    if named := _PERFORM.search(message):
        return spelled(named[1])
    if operation.startswith("AssumeRole"):
        return f"sts:{operation}"
    if code.upper().startswith("KMS"):
        # With both, it was sent or received: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
        return "kms:Decrypt and kms:GenerateDataKey"
    return actions(operation)[0] if operation else ""
