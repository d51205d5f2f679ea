"""The definitions in crds/ say what each field is for and what it defaults to, and the reference says the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Schema = dict[str, Any]

REPOSITORY = Path(__file__).resolve().parents[2]
DEFINITIONS = [yaml.safe_load(file.read_text()) for file in sorted((REPOSITORY / "crds").glob("*.yaml"))]


def fields(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field.get("items", field), f"{path}.{name}")


def all_fields() -> Iterator[tuple[str, Schema]]:
    for definition in DEFINITIONS:
        [version] = definition["spec"]["versions"]
        for part in ("spec", "status"):
            name = f"{definition['spec']['names']['kind']}.{part}"
            yield from fields(version["schema"]["openAPIV3Schema"]["properties"][part], name)


def test_every_field_is_described_in_sentences() -> None:
    assert [path for path, field in all_fields() if not field.get("description", "").endswith(".")] == []


def test_a_default_is_the_last_thing_that_a_description_says() -> None:
    scalars = {path: field for path, field in all_fields() if "default" in field and field["type"] != "object"}
    assert scalars
    wrong = []
    for path, field in scalars.items():
        default = str(field["default"]).lower() if isinstance(field["default"], bool) else str(field["default"])
        last = " ".join(field["description"].split()).rpartition("Defaults to ")[2]
        if last.removesuffix(".").split(" where ")[0] != default:
            wrong.append(path)
    assert wrong == []


def may_be_a_number(field: Schema) -> bool:
    # A number or a percentage has no type of its own.
    return field.get("type") in {"integer", "number"} or field.get("x-kubernetes-int-or-string", False)


def test_no_number_is_without_a_lower_bound() -> None:
    settable = {
        path: field for path, field in all_fields() if ".spec" in path and "Refused" not in field["description"]
    }
    numbers = {path for path, field in settable.items() if may_be_a_number(field)}
    assert numbers
    assert {path for path in numbers if "minimum" not in settable[path]} == set()


@pytest.mark.parametrize("kind", ["jobqueue", "jobworkerpool"])
def test_there_is_a_page_of_reference(kind: str) -> None:
    assert (REPOSITORY / "docs" / f"{kind}.md").is_file()


def test_the_reference_is_what_the_definitions_say() -> None:
    command = [sys.executable, str(REPOSITORY / "docs" / "generate-reference"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
