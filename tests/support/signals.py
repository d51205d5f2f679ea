"""How programs that start servers end: with none of them left behind."""

from __future__ import annotations

import signal
from typing import NoReturn


def end_orderly_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does. A second one changes nothing: a group gets its own, and make's."""

    def end(number: int, _frame: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
