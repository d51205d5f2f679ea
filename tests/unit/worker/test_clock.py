"""The clock that leases are trusted by, on a machine that was suspended."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

DAY_SECONDS = 86_400
A_DAY_SUSPENDED = ("unshare", "--time", "--boottime", str(DAY_SECONDS))
"""As if the machine had been suspended for a day: its other clocks know nothing of it. Wants a right of root's."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a namespace of clocks")
@pytest.mark.parametrize("module", ["headrace.runtime.lease", "headrace.runtime.idempotency_guard"])
def test_what_is_held_is_trusted_by_a_clock_that_goes_on_while_the_machine_is_suspended(module: str) -> None:
    program = f"import time; from {module} import now; print(now() - time.monotonic())"
    done = subprocess.run([*A_DAY_SUSPENDED, sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert float(done.stdout) > DAY_SECONDS - 60
