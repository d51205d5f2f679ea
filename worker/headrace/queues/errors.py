"""What goes wrong with queues.

Exceptions::

    QueueError
    ├── QueueUnavailableError     the backend can't be reached or timed out: try again later
    │   └── CountTooSlowError     counting took longer than it may: ask for less
    ├── QueueNotFoundError        no such queue: apply its JobQueue, or run ``headrace migrate``
    ├── QueueAccessError          the credentials are refused or lack rights: mend them
    ├── SchemaVersionError        the schema is newer or older than this code
    ├── PlaceTakenError           the place belongs to another owner
    ├── UnsupportedCapabilityError  the backend lacks what is asked for
    ├── PartlyEnqueuedError       some jobs of a call were not enqueued, where the backend can't do all or none
    └── LeaseLostError            the lease ran out; the job is, or will be, someone else's
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.queues.base import Enqueued


class QueueError(Exception):
    """Whatever goes wrong with a queue backend."""


class QueueUnavailableError(QueueError):
    """The backend can't be reached, or did not answer in time. Trying again later may help."""


class CountTooSlowError(QueueUnavailableError):
    """Counting took longer than it may, and was given up. The backend is as well as before."""


class QueueNotFoundError(QueueError):
    """The queue, or the schema it should live in, does not exist."""


class QueueAccessError(QueueError):
    """The credentials are refused, or lack a right the message names."""


class SchemaVersionError(QueueError):
    """The schema's version is not one that this code can work with."""


class PlaceTakenError(QueueError):
    """The place a queue should live in belongs to another owner; the message names it."""


class UnsupportedCapabilityError(QueueError):
    """What is asked for is something that this backend does not have. Nothing was done."""


class PartlyEnqueuedError(QueueError):
    """Some jobs of a call were not enqueued. Only of backends without atomic batches.

    Attributes
    ----------
    done
        What was enqueued, by its place in the call.
    failed
        Why the others were not, by their place in the call: enqueue these again.
    """

    def __init__(self, done: Mapping[int, Enqueued], failed: Mapping[int, str]) -> None:
        first = min(failed)
        super().__init__(
            f"{len(failed)} of {len(done) + len(failed)} jobs were not enqueued, the first at place {first}: "
            f"{failed[first]}"
        )
        self.done = done
        self.failed = failed


class LeaseLostError(QueueError):
    """The lease ran out before the job was settled; somebody else may be running it."""
