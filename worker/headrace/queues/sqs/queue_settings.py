"""What a queue object knows of its queue: the settings on its tags, its visibility timeout, its dead-letter queue."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from headrace.queues.base import QueueSettings
from headrace.queues.clock import lease_clock
from headrace.queues.errors import QueueAccessError, QueueError, QueueNotFoundError
from headrace.queues.sqs.errors import SqsError, SqsUnavailableError
from headrace.queues.sqs.tags import DEAD_LETTER_ENABLED, settings_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.queues.sqs.calls import Calls

log = logging.getLogger(__name__)

LOOK_SECONDS = 600.0
"""How often a worker looks at them: twelve calls an hour, within those that an idle worker may make."""


class KnownQueue:
    """Looks them up. Who may not is told once, and goes on with what stands in the URL, or at its default.

    Parameters
    ----------
    calls
        By which.
    look_seconds
        How often to look anew. Defaults to `LOOK_SECONDS`.
    """

    def __init__(self, calls: Calls, *, look_seconds: float = LOOK_SECONDS) -> None:
        self._calls = calls
        self._look_seconds = look_seconds
        self._next_look = float("-inf")
        self._untold: list[str] = []
        self._told: set[str] = set()
        self.settings = QueueSettings(max_retries=calls.address.options.max_retries)
        self.tags: Mapping[str, str] = {}
        """The queue's tags, as far as they could be read."""
        self.dead_letter_url = calls.address.dead_letter_queue_url
        self.knows_dead_letters = self.dead_letter_url is not None
        """Whether it is known where dead letters go, or that they go nowhere."""
        self.max_receive_count: int | None = None
        """After so many receives the service itself gives a message up; None where it doesn't, or that is unknown."""

    async def look_up(self) -> None:
        """Look.

        Raises
        ------
        QueueNotFoundError
            When there is no such queue.
        QueueUnavailableError
            When no answer came.
        """
        self._next_look = lease_clock() + self._look_seconds
        calls = self._calls
        settings = QueueSettings(max_retries=calls.address.options.max_retries)
        try:
            answer = await calls.call("GetQueueAttributes", AttributeNames=["VisibilityTimeout", "RedrivePolicy"])
        except QueueNotFoundError as error:
            raise named(error, calls) from None
        except QueueAccessError as error:
            calls.trouble = None
            # What was known before still holds.
            settings = replace(
                settings,
                visibility_timeout_seconds=self.settings.visibility_timeout_seconds,
                dead_letter_enabled=self.settings.dead_letter_enabled,
            )
            self._missing(f"{error}. Until then, a job that this worker can't bury stays where it is")
        else:
            attributes = answer.get("Attributes") or {}
            settings = replace(
                settings,
                visibility_timeout_seconds=float(attributes.get("VisibilityTimeout", 30)),
            )
            self._see_redrive(attributes.get("RedrivePolicy"))
            if self.dead_letter_url is None:
                settings = replace(settings, dead_letter_enabled=False)
        self.tags = await self._tags()
        self.settings = settings_in(self.tags, settings)
        if self.dead_letter_url is None and self.knows_dead_letters and self.tags.get(DEAD_LETTER_ENABLED) != "false":
            becomes = "stay where they are" if self.settings.dead_letter_enabled else "are dropped"
            self._missing(
                f"no dead-letter queue is known, dead jobs {becomes}: name it in the queue's redrive policy, or in the "
                "settings"
            )

    async def look_again(self) -> None:
        """Look, where it is time."""
        if lease_clock() >= self._next_look:
            await self.look_up()

    def look_soon(self) -> None:
        """What is known will not do: look with the next round of housekeeping."""
        self._next_look = min(self._next_look, lease_clock())

    def tell_worker(self) -> None:
        """Say what is missing, to one who works on the queue: a producer needs none of it."""
        for complaint in self._untold:
            log.warning("queue=%s: %s", self._calls.address.name, complaint)
        self._untold.clear()

    async def _tags(self) -> Mapping[str, str]:
        try:
            answer = await self._calls.call("ListQueueTags")
        except QueueAccessError as error:
            self._calls.trouble = None
            self._missing(f"{error}. Until then, the worker's own settings hold, not the JobQueue's")
        except SqsUnavailableError:
            raise
        except SqsError as error:
            # An endpoint that knows no tags.
            self._missing(f"the queue's tags can't be read, the worker's own settings hold: {error}")
        else:
            return answer.get("Tags") or {}
        return self.tags

    def _see_redrive(self, policy: str | None) -> None:
        self.knows_dead_letters = True
        told = _read(policy)
        count = told.get("maxReceiveCount")
        self.max_receive_count = int(count) if count is not None else None
        arn = told.get("deadLetterTargetArn")
        if self._calls.address.dead_letter_queue_url is None:
            self.dead_letter_url = None if arn is None else url_of(str(arn), self._calls.url)

    def _missing(self, complaint: str) -> None:
        if complaint not in self._told:
            self._told.add(complaint)
            self._untold.append(complaint)


def named(error: QueueError, calls: Calls) -> QueueNotFoundError:
    """What to do about a queue that is not there."""
    found = QueueNotFoundError(f"queue {calls.address.name}: {error}")
    calls.trouble = found
    return found


def url_of(arn: str, sibling_url: str) -> str:
    """The URL of a queue of the same region, by another's: ``arn:aws:sqs:eu-west-1:123456789012:orders-dead``."""
    *_, account, name = arn.split(":")
    parts = urlsplit(sibling_url)
    # Some endpoints put more before them.
    before = parts.path.rsplit("/", 2)[0]
    return f"{parts.scheme}://{parts.netloc}{before}/{account}/{name}"


def _read(policy: str | None) -> dict[str, Any]:
    if not policy:
        return {}
    try:
        told = json.loads(policy)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
