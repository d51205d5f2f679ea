"""The exec handler: what a program gets, what its end means, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from headrace.runtime.handlers import HandlerError
from headrace.runtime.handlers.exec import ExecHandler
from headrace.runtime.outcome import COMPLETED, REJECTED, Failed, GivenUp
from support.jobs import ENQUEUED_AT, job
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from headrace.runtime.outcome import Outcome

    Program = Callable[..., ExecHandler]


@pytest.fixture
async def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Program]:
    """Make handlers of shell scripts; the scripts find the test's directory in $T."""
    monkeypatch.setenv("T", str(tmp_path))
    handlers: list[ExecHandler] = []

    def make(script: str) -> ExecHandler:
        handlers.append(ExecHandler(["/bin/sh", "-c", script]))
        return handlers[-1]

    yield make
    for handler in handlers:
        await handler.close()
    await eventually(lambda: children() <= EARLIER, what="no child left, not even a dead one")


def children() -> set[str]:
    pid = os.getpid()
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


EARLIER = children()


@pytest.fixture(autouse=True)
def earlier() -> None:
    """Servers that other tests share are children too."""
    EARLIER.update(children())


async def run(handler: ExecHandler, **fields: Any) -> Outcome:
    return await handler.run(job(**fields), lambda: pytest.fail("a program has no use for a context"))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def noted_pid(file: Path) -> int:
    await eventually(lambda: file.exists() and file.read_text().endswith("\n"), what=f"{file.name} noted")
    return int(file.read_text())  # noqa: ASYNC240 - a line of a local file


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_048_576])
async def test_the_payload_is_all_of_standard_input(program: Program, tmp_path: Path, size: int) -> None:
    payload = os.urandom(size)
    assert await run(program('cat > "$T/got"'), payload=payload) is COMPLETED
    assert (tmp_path / "got").read_bytes() == payload


@pytest.mark.parametrize("size", [2, 1_048_576])
@pytest.mark.parametrize("script", ["true", "exec 0<&-; sleep 0.1"], ids=["ends at once", "closes it"])
async def test_a_program_need_not_read_its_payload(program: Program, size: int, script: str) -> None:
    assert await run(program(script), payload=b"x" * size) is COMPLETED


async def test_the_job_is_in_the_environment_without_our_connections(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("POSTGRES__CONNECTIONSTRING", "POSTGRES__DIRECTCONNECTIONSTRING", "REDIS__CONNECTIONSTRING"):
        monkeypatch.setenv(f"BACKGROUND_JOBS__{name}", "hunter2")
    monkeypatch.setenv("HEADRACE_DSN", "hunter2")
    monkeypatch.setenv("HEADRACE_JOB_GROUP", "of another job")
    monkeypatch.setenv("SERVICE_BINDING_ROOT", "/bindings")
    handler = program('env -0 > "$T/environment"')
    described = {"headers": {"traceparent": "00-é\n"}, "priority": 7, "attempt": 2, "name": "größe"}
    assert await run(handler, **described, deduplication_key="k", fairness_key="t", expires_at=ENQUEUED_AT) is COMPLETED
    lines = (tmp_path / "environment").read_text().split("\0")
    environment = dict(line.split("=", 1) for line in lines if line)
    assert environment.pop("HEADRACE_JOB_RUN")
    assert {name: value for name, value in environment.items() if name.startswith("HEADRACE_JOB_")} == {
        "HEADRACE_JOB_ID": "17",
        "HEADRACE_JOB_QUEUE": "orders",
        "HEADRACE_JOB_NAME": "größe",
        "HEADRACE_JOB_ATTEMPT": "2",
        "HEADRACE_JOB_PRIORITY": "7",
        "HEADRACE_JOB_CONTENT_TYPE": "application/json",
        "HEADRACE_JOB_ENQUEUED_AT": "2026-01-02T03:04:05+00:00",
        "HEADRACE_JOB_EXPIRES_AT": "2026-01-02T03:04:05+00:00",
        "HEADRACE_JOB_DEDUPLICATION_KEY": "k",
        "HEADRACE_JOB_FAIRNESS_KEY": "t",
        "HEADRACE_JOB_HEADERS": '{"traceparent": "00-\\u00e9\\n"}',
    }
    assert environment["SERVICE_BINDING_ROOT"] == "/bindings"
    assert "hunter2" not in "".join(lines)


async def test_a_program_inherits_no_open_file_and_python_does_not_ignore_signals_for_it(
    program: Program, tmp_path: Path
) -> None:
    with (tmp_path / "ours").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        # ls itself opens the directory that it lists.
        script = 'ls /proc/self/fd > "$T/open"; grep SigIgn: /proc/self/status > "$T/ignored"'
        assert await run(program(script)) is COMPLETED
    assert (tmp_path / "open").read_text().split() == ["0", "1", "2", "3"]
    ignored = int((tmp_path / "ignored").read_text().split()[1], 16)
    assert [number for number in (signal.SIGPIPE, signal.SIGXFSZ) if ignored >> number - 1 & 1] == []


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("exit 0", COMPLETED),
        ("echo all is well >&2", COMPLETED),
        ("exit 3", Failed("exit status 3")),
        ("echo disk on fire >&2; exit 1", Failed("exit status 1: disk on fire")),
        ("kill -KILL $$", Failed("signal 9")),
        ("echo no such picture >&2; exit 100", GivenUp(REJECTED, error="exit status 100: no such picture")),
    ],
)
async def test_the_exit_status_decides_and_standard_error_is_kept(
    program: Program, script: str, outcome: Outcome
) -> None:
    assert await run(program(script)) == outcome


async def test_of_much_standard_error_all_is_passed_on_and_the_end_is_kept(
    program: Program, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", os.fdopen(os.dup(2), "w"))
    outcome = await run(program("seq 100000 >&2; exit 1"))
    assert isinstance(outcome, Failed)
    assert len(outcome.error) <= 4100
    assert outcome.error.endswith("99999\n100000")
    assert capfdbinary.readouterr().err.split() == [str(number).encode() for number in range(1, 100_001)]
    sys.stderr.close()


async def test_a_program_that_is_not_there_is_said_at_the_start_or_fails_its_job(tmp_path: Path) -> None:
    with pytest.raises(HandlerError, match="there is no program '/no/such/program' here"):
        ExecHandler(["/no/such/program"])
    file = tmp_path / "render"
    file.write_text("#!/no/such/interpreter\n")
    file.chmod(0o755)
    handler = ExecHandler([str(file)])
    before = open_files()
    outcome = await run(handler)
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("the program can't be started: ")
    assert open_files() == before
    await handler.close()


async def test_cancelled_it_is_asked_to_end_with_its_whole_group(program: Program, tmp_path: Path) -> None:
    handler = program("""
        sleep 3600 & echo $! > "$T/child"
        trap 'echo asked > "$T/asked"; exit' TERM
        wait""")
    task = asyncio.create_task(run(handler))
    child = await noted_pid(tmp_path / "child")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (tmp_path / "asked").read_text() == "asked\n"
    await eventually(lambda: not is_alive(child), what="its child ended")


async def test_deaf_to_that_it_is_killed_after_a_grace(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.runtime.handlers.exec._GRACE_SECONDS", 0.1)
    task = asyncio.create_task(run(program("trap '' TERM; echo $$ > \"$T/pid\"; while :; do sleep 1; done")))
    pid = await noted_pid(tmp_path / "pid")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: not is_alive(pid), what="killed")


async def test_what_it_leaves_behind_ends_with_its_job(program: Program, tmp_path: Path) -> None:
    # Each holds standard error open, for which nobody waits.
    handler = program("""
        sleep 3600 & echo $! > "$T/in-group"
        setsid sh -c 'sleep 3600 & echo $! > "$T/grandchild"; echo $$ > "$T/daemon"; wait' &
        while ! [ -s "$T/daemon" ]; do sleep 0.01; done""")
    assert await run(handler) is COMPLETED
    for name in ("in-group", "daemon", "grandchild"):
        pid = await noted_pid(tmp_path / name)
        await eventually(lambda pid=pid: not is_alive(pid), what=f"{name} ended")  # type: ignore[misc]


async def test_what_another_job_still_needs_is_left_alone(program: Program, tmp_path: Path) -> None:
    handler = program("""
        if [ "$HEADRACE_JOB_NAME" = short ]; then exit; fi
        setsid sh -c 'echo $$ > "$T/daemon"; exec sleep 3600' &
        while ! [ -e "$T/gate" ]; do sleep 0.01; done""")
    long = asyncio.create_task(run(handler, name="long"))
    # Its parent is gone before the daemon has noted anything: it's a child of ours by then.
    daemon = await noted_pid(tmp_path / "daemon")
    assert await run(handler, name="short") is COMPLETED
    assert is_alive(daemon)
    (tmp_path / "gate").touch()
    assert await long is COMPLETED
    await eventually(lambda: not is_alive(daemon), what="ended with its own job")


async def test_thousands_of_runs_leave_no_open_file_and_no_child(program: Program) -> None:
    handler = program("echo noise >&2; sleep 0 & exit 0")
    assert await run(handler) is COMPLETED
    await eventually(lambda: children() <= EARLIER, what="the first one reaped")
    before = open_files()

    async def several() -> list[Outcome]:
        return [await run(handler) for _ in range(250)]

    outcomes = [outcome for many in await asyncio.gather(*(several() for _ in range(8))) for outcome in many]
    assert outcomes == [COMPLETED] * 2000
    await eventually(lambda: children() <= EARLIER, what="all reaped")
    assert open_files() == before


def open_files() -> set[str]:
    """Kinds and targets of what is open; pipes and sockets by number, so that each counts."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{descriptor.name} {descriptor.readlink()}")
        except FileNotFoundError:
            continue  # The listing's own.
    return found


async def test_without_pidfds_a_thread_waits(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    # As under gVisor, which has no such call.
    monkeypatch.setattr(os, "pidfd_open", refused)
    handler = program('sleep 3600 & echo $! > "$T/child"; exit 4')
    assert await run(handler) == Failed("exit status 4")
    child = await noted_pid(tmp_path / "child")
    await eventually(lambda: not is_alive(child), what="its group ended")


async def test_an_exit_status_that_is_lost_is_no_success(program: Program) -> None:
    handler = program("exit 0")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        outcome = await run(handler)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert isinstance(outcome, Failed)
    assert outcome.error.startswith("the exit status was lost")
