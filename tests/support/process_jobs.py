"""Functions for processes of their own: importable there by name."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headrace import Context, DeadLetter, Retry, Snooze, new_job

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any


@dataclass
class Note:
    """Where to note what."""

    path: str
    text: str = "done"


def decorated(function: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """As a library's decorator in a module of its own does."""

    @functools.wraps(function)
    async def decorated(payload: Any) -> None:
        await function(payload)

    return decorated


def note_process(payload: Note, context: Context) -> None:
    """Note this process and the job."""
    Path(payload.path).write_text(f"{os.getpid()} {context.job.id} {context.attempt} {payload.text}", "utf-8")


def spin(payload: str) -> None:
    """Keep a CPU busy for good, deaf to anything but a kill."""
    Path(payload).write_text(str(os.getpid()), "utf-8")
    while True:
        time.sleep(0)


def die(payload: Any) -> None:
    """End as native code that crashes does."""
    os.kill(os.getpid(), signal.SIGKILL)


def give_up(payload: Any) -> None:
    """Say that it is hopeless."""
    raise DeadLetter("no such picture")


def again(payload: float) -> None:
    """Ask for another attempt."""
    raise Retry("the shop is busy", after=payload)


def later(payload: float) -> None:
    """Say that it is too early."""
    raise Snooze(payload)


def fail(payload: Any) -> None:
    """Fail."""
    raise ZeroDivisionError("by design")


async def in_coroutine(payload: Note) -> None:
    """A coroutine in a process has an event loop of its own there."""
    await asyncio.to_thread(Path(payload.path).write_text, str(os.getpid()), "utf-8")


async def enqueue_from_afar(payload: Any, context: Context) -> None:
    """Ask for what a process can't do."""
    await context.enqueue([new_job("other")])
