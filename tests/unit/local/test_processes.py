"""Only processes of ours are ended, and all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from headrace_operator.local.errors import InputError
from headrace_operator.local.folder import folder
from headrace_operator.local.processes import PLACE_VARIABLE, Ledger, Role, birth, end_started_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def sleeper(*, at: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        # Long enough to be found and killed; it ends by itself should that fail.
        [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, PLACE_VARIABLE: str(at or "")},
    )
    assert process.stdout is not None
    try:
        # From here on, its environment is its own.
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"headrace-dev-{os.getuid()}"


def test_a_process_has_one_birth_and_another_one_has_another() -> None:
    with sleeper() as one:
        assert birth(one.pid) == birth(one.pid) is not None
        assert birth(one.pid) != birth(os.getpid())
    assert birth(one.pid) is None


def test_what_an_earlier_supervisor_left_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "processes.json"
    with sleeper() as worker, sleeper() as server, sleeper() as gone:
        ledger = Ledger(file)
        ledger.add(server.pid, Role.POSTGRES)
        ledger.add(worker.pid, Role.WORKER)
        ledger.add(gone.pid, Role.WORKER)
        ledger.remove(gone.pid)

        assert Ledger(file).end_leftovers() == 2

        assert worker.wait(10) != 0
        assert server.wait(10) != 0
        assert gone.poll() is None
    assert Ledger(file).end_leftovers() == 0


def test_what_was_started_at_a_folder_is_ended_and_nothing_at_others(tmp_path: Path) -> None:
    with (
        sleeper(at=tmp_path / "pods/w-1") as worker,
        sleeper(at=tmp_path / "pods/w-10") as other,
        sleeper() as stranger,
    ):
        assert end_started_at(tmp_path / "pods/w-1") == 1
        assert worker.wait(10) != 0
        assert end_started_at(tmp_path) == 1
        assert other.wait(10) != 0
        assert end_started_at(tmp_path) == 0
        assert stranger.poll() is None


def test_a_number_that_was_given_again_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "processes.json"
    with sleeper() as stranger:
        file.write_text(json.dumps([{"pid": stranger.pid, "born": "long ago", "role": "worker"}]))
        assert Ledger(file).end_leftovers() == 0
        assert stranger.poll() is None


def test_a_temporary_folder_is_gone_afterwards_and_a_given_one_stays(tmp_path: Path, shelf: Path) -> None:
    with folder(None) as temporary:
        assert temporary.path.parent == shelf
        assert temporary.path.stat().st_mode & 0o077 == 0
    assert not temporary.path.exists()

    with folder(tmp_path / "mine" / "data") as given:
        (given.path / "file").touch()
    assert (tmp_path / "mine" / "data" / "file").exists()


def test_temporary_folders_of_two_supervisors_stand_side_by_side(shelf: Path) -> None:
    with folder(None) as one, folder(None) as other:
        assert one.path != other.path
        assert one.path.is_dir()
    assert [path.name for path in shelf.iterdir()] == ["lock"]


@pytest.mark.usefixtures("shelf")
def test_the_folder_of_a_supervisor_that_was_killed_is_cleared_with_its_processes() -> None:
    with folder(None) as killed, sleeper() as worker:
        # Only the lock goes with a process that is killed; here it is this one's, and stays.
        orphan = killed.path.parent / "orphan"
        orphan.mkdir()
        Ledger(orphan / "processes.json").add(worker.pid, Role.WORKER)
        with folder(None) as next_one:
            assert next_one.leftovers == 1
        assert worker.wait(10) != 0
        assert not orphan.exists()
        assert killed.path.is_dir()


def test_a_second_supervisor_is_kept_out(tmp_path: Path) -> None:
    with folder(tmp_path), pytest.raises(InputError, match="another headrace-operator dev works in"), folder(tmp_path):
        pytest.fail("two have it")


def test_a_folder_that_goes_meanwhile_is_no_matter(shelf: Path) -> None:
    (shelf / "going").mkdir(parents=True)
    # What opening its lock tells of a folder that its supervisor has removed by then.
    (shelf / "going" / "lock").symlink_to(shelf / "gone" / "lock")
    with folder(None) as given:
        assert given.path.is_dir()


def test_a_folder_with_files_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pods").mkdir()
    with pytest.raises(InputError, match="holds other files"), folder(tmp_path):
        pytest.fail("it would remove them")
    assert [path.name for path in tmp_path.iterdir()] == ["pods"]


@pytest.mark.parametrize("name", ["/proc/data", "n" * 300])
def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: .*: give another folder with --data-dir"), folder(tmp_path / name):
        pytest.fail("it is none")


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is no folder"), folder(tmp_path / "file"):
        pytest.fail("it is none")


def test_a_shelf_of_somebody_else_is_not_trusted(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "trap").mkdir()
    shelf.symlink_to(tmp_path / "trap")
    with pytest.raises(InputError, match="is somebody else's"), folder(None):
        pytest.fail("it is a trap")
