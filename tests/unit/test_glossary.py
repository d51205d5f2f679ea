"""docs/glossary.md has the words that code and people share."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

from headrace.queues.base import Maintained
from headrace.queues.inspection import Change, JobState
from headrace.queues.settlement import Complete, DeadLetter, Discard, Release, Retry

PAGE = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text()
WORDS = {word.lower() for word in re.findall(r"^\| ([a-zA-Z -]+) \|", PAGE, re.MULTILINE)}


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
