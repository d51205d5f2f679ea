"""What ends a run, in one sentence."""

from __future__ import annotations


class DevError(Exception):
    """Something on this machine is in the way; the message says what, and what to do."""

    exit_status = 1


class InputError(DevError):
    """What was given can't be: files, options, an App."""

    exit_status = 2
