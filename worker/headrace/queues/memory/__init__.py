"""Queues in this process's memory: the reference for every backend, and a real queue for tests of handlers.

Nothing survives the process, and nothing is shared beyond it. All calls belong to one event loop.

``entries`` are what is kept; ``order`` knows where each stands, ``keys`` and ``room`` who has a key and whose turn it
is: these are pure. ``place`` is a queue, ``backend`` the place of all; ``queue`` and ``inspector`` are the ports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.queues.base import Owner, QueueSettings
from headrace.queues.memory.backend import MemoryBackend, process_backend
from headrace.queues.memory.entries import EndedJob
from headrace.queues.memory.inspector import MemoryInspector
from headrace.queues.memory.queue import MemoryQueue

if TYPE_CHECKING:
    from headrace.queues.base import Queue
    from headrace.queues.inspection import Inspector

__all__ = [
    "EndedJob",
    "MemoryBackend",
    "MemoryInspector",
    "MemoryQueue",
    "open_inspector",
    "open_queue",
    "process_backend",
]


def open_queue(url: str, queue: str, *, holder: str | None = None) -> Queue:  # noqa: ARG001 - all lead to one place
    """See `headrace.queues.from_url`. A queue that does not exist is made."""
    backend = process_backend()
    if queue not in backend.places:
        backend.register(queue, QueueSettings(), Owner(namespace="", name=queue, uid=""))
    return MemoryQueue(backend, queue, holder=holder)


def open_inspector(url: str) -> Inspector:  # noqa: ARG001 - as above
    """See `headrace.queues.inspector_from_url`."""
    return MemoryInspector(process_backend())
