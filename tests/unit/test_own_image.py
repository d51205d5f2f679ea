"""docs/own-image.md promises what the example's Dockerfile keeps."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own-image.md").read_text()
FOLDER = ROOT / "examples" / "thumbnails"
*BUILDS, FINAL = re.split(r"^FROM ", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE)


def test_the_final_stage_changes_neither_user_nor_entry_point_and_runs_nothing() -> None:
    instructions = {line.split()[0] for line in FINAL.splitlines()[1:] if line and not line.startswith((" ", "#"))}
    assert instructions <= {"COPY", "ENV", "WORKDIR"}


def test_what_the_page_says_of_paths_and_user_is_what_the_images_have() -> None:
    assert "ENV PYTHONPATH=/app:/app/site" in FINAL
    assert "--require-hashes" in BUILDS[-1]
    worker = (ROOT / "worker" / "Dockerfile").read_text()
    assert "USER 10001:10001" in worker
    assert re.search(r'^ENTRYPOINT \["dumb-init".*"headrace"\]$', worker, re.MULTILINE)
    assert "user 10001" in PAGE


def test_the_files_to_copy_are_there() -> None:
    for name in ("Dockerfile", "requirements.in", "requirements.txt", "thumbnails.py"):
        assert f"`{name}`" in PAGE
        assert (FOLDER / name).is_file()
