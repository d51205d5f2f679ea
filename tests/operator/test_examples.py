"""Every manifest in examples/ is one that a cluster takes, under the restricted Pod Security Standard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.control_plane import ControlPlane
from cluster.places import REPOSITORY

Manifest = dict[str, Any]

EXAMPLES = REPOSITORY / "examples"
NAMESPACE = EXAMPLES / "thumbnails" / "namespace.yaml"
FILES = sorted(EXAMPLES.rglob("*.yaml"))


@pytest.fixture(scope="module")
def namespace(control_plane: ControlPlane) -> str:
    """Make the example's own namespace, restricted."""
    control_plane.kubectl("apply", "-f", str(NAMESPACE))
    name: str = yaml.safe_load(NAMESPACE.read_text())["metadata"]["name"]
    return name


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(EXAMPLES)) for file in FILES])
def test_a_cluster_takes_it(control_plane: ControlPlane, namespace: str, file: Path) -> None:
    control_plane.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", f"--namespace={namespace}", "-f", str(file)
    )
    for pod in pods(file):
        # Admission judges pods themselves; what a Deployment or a Job makes would be refused later and out of sight.
        control_plane.kubectl(
            "create", "--dry-run=server", f"--namespace={namespace}", "-f", "-", stdin=json.dumps(pod)
        )


@pytest.mark.parametrize("readme", sorted(EXAMPLES.glob("*/README.md")), ids=lambda readme: readme.parent.name)
def test_the_files_that_a_readme_names_are_there(readme: Path) -> None:
    named = set(re.findall(r"[\w.-]+\.(?:yaml|py|txt|in)\b", readme.read_text()))
    assert named
    assert {name for name in named if not (readme.parent / name).is_file()} == set()


def test_the_demos_dependencies_are_locked_with_hashes_and_without_addresses() -> None:
    folder = EXAMPLES / "thumbnails"
    wanted = (folder / "requirements.in").read_text().split()
    lock = (folder / "requirements.txt").read_text()
    for name in wanted:
        assert re.search(rf"^{name}==\S+ \\\n    --hash=sha256:", lock, re.MULTILINE)
    assert "://" not in lock


def pods(file: Path) -> Iterator[Manifest]:
    for manifest in yaml.safe_load_all(file.read_text()):
        if template := manifest["spec"].get("template") if manifest["kind"] in {"Deployment", "Job"} else None:
            metadata = {**template.get("metadata", {}), "name": manifest["metadata"]["name"]}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
