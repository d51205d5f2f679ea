"""docs/glossary.md has the words that code and people share."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from headrace.queues import base, inspection
from headrace.queues.base import Maintained
from headrace.queues.envelope import INVALID_ENVELOPE
from headrace.queues.inspection import Change, JobState
from headrace.queues.settlement import Complete, DeadLetter, Discard, Release, Retry
from headrace.runtime.payloads import INVALID_PAYLOAD

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "glossary.md").read_text()
SAID = {word for line in re.findall(r"^\| ([a-zA-Z_, -]+) \|", PAGE, re.MULTILINE) for word in line.split(", ")}
WORDS = {word.lower() for word in SAID}
SOURCES = [
    path
    for path in (ROOT / "worker" / "headrace").rglob("*")
    if path.suffix in {".py", ".sql"} and not path.name.endswith("snapshot.sql")
]
NO_WORDS = ("let_go", "bury", "leave_behind", "came_back", "after_end")
"""What has another word here: release or unclaim, dead-letter, mark lost, has older, free group and key."""


def spoken(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def test_every_state_of_a_job_is_there() -> None:
    assert set(get_args(JobState)) <= WORDS


def test_every_way_to_settle_is_there() -> None:
    assert {spoken(kind.__name__) for kind in (Complete, Retry, Release, DeadLetter, Discard)} <= WORDS


def test_what_people_may_ask_for_is_there() -> None:
    verbs = {spoken(kind.__name__).partition("-")[0] for kind in Change.__subclasses__()}
    assert verbs
    assert {verb for verb in verbs if not any(word.startswith(verb) for word in WORDS)} == set()


def test_what_housekeeping_does_is_there() -> None:
    stems = {field.name.removesuffix("ed")[:5] for field in fields(Maintained)}
    assert {stem for stem in stems if not re.search(rf"\b{stem}", PAGE)} == set()


def test_every_reason_of_ours_is_there() -> None:
    said_where = r"""(?:remember_dead|dead_letter_taken|_dead_letter)\([^;]*?['"]([A-Z]\w+)['"]|reason="([A-Z]\w+)\""""
    reasons = {INVALID_ENVELOPE, INVALID_PAYLOAD}
    for path in SOURCES:
        reasons |= {one or other for one, other in re.findall(said_where, path.read_text())}
    assert reasons >= {"RetriesExhausted", "Expired", "WorkerLost"}
    assert reasons - SAID == set()


@pytest.mark.parametrize("module", [base, inspection])
def test_every_role_and_verb_of_the_port_is_there(module: ModuleType) -> None:
    protocols = {
        name: kind
        for name, kind in vars(module).items()
        if getattr(kind, "_is_protocol", False) and kind.__module__ == module.__name__
    }
    others = {"Queue", "Backlog", "Provisioner", "Inspector"}
    assert protocols.keys() - others - SAID == set()
    verbs = {
        verb
        for name, kind in protocols.items()
        if name not in others - {"Queue"}
        for verb, value in vars(kind).items()
        if inspect.isfunction(value) and not verb.startswith("_")
    }
    assert {verb for verb in verbs if verb not in SAID and not re.search(rf"\b{verb}\b", PAGE)} == set()


def test_no_name_says_a_thing_in_another_word() -> None:
    wrong = {}
    for path in SOURCES:
        names = set(re.findall(rf"\b_?(?:{'|'.join(NO_WORDS)})\b(?=\()", path.read_text()))
        if names:
            wrong[str(path.relative_to(ROOT))] = names
    assert wrong == {}
