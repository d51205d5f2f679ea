"""The clock that leases are trusted by, on a machine that was suspended."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

DAY_SECONDS = 86_400
A_DAY_SUSPENDED = ("unshare", "--time", "--boottime", str(DAY_SECONDS))
"""As if the machine had been suspended for a day: its other clocks know nothing of it. Wants a right of root's."""


def can_be_suspended() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*A_DAY_SUSPENDED, "true"], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("module", ["headrace.runtime.lease", "headrace.runtime.idempotency_guard"])
def test_what_is_held_is_trusted_by_a_clock_that_goes_on_while_the_machine_is_suspended(module: str) -> None:
    if not can_be_suspended():
        pytest.skip("a namespace of clocks can't be made here")
    program = f"import time; from {module} import now; print(now() - time.monotonic())"
    done = subprocess.run([*A_DAY_SUSPENDED, sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert float(done.stdout) > DAY_SECONDS - 60
