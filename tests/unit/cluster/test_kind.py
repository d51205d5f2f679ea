from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from cluster import kind
from cluster.node_image import NodeImage
from cluster.places import REPOSITORY

BASE = (REPOSITORY / "kind-config.yaml").read_text()


def test_a_node_image_that_was_pulled_gets_the_configuration_as_it_stands() -> None:
    assert kind.configuration(BASE, carries_cni=False, restrict_oom_score=False) == BASE


def test_a_node_image_with_its_own_pod_network_gets_no_other() -> None:
    made = yaml.safe_load(kind.configuration(BASE, carries_cni=True, restrict_oom_score=False))

    assert made["networking"] == {"disableDefaultCNI": True}
    assert made["nodes"] == [{"role": "control-plane"}]


def test_where_oom_scores_cannot_be_lowered_containerd_is_told_in_both_its_languages() -> None:
    made = yaml.safe_load(kind.configuration(BASE, carries_cni=True, restrict_oom_score=True))

    second, third = made["containerdConfigPatches"]
    assert second.splitlines() == [
        "version = 2",
        '[plugins."io.containerd.grpc.v1.cri"]',
        "  restrict_oom_score_adj = true",
    ]
    assert third.splitlines()[:2] == ["version = 3", '[plugins."io.containerd.cri.v1.runtime"]']


def test_kubelet_starts_on_machines_with_cgroup_v1_or_swap() -> None:
    (patch,) = yaml.safe_load(BASE)["kubeadmConfigPatches"]

    kubelet = yaml.safe_load(patch)
    assert (kubelet["failCgroupV1"], kubelet["failSwapOn"]) == (False, False)


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ("headrace/worker:dev", "docker.io/headrace/worker:dev"),
        ("postgres:17", "docker.io/library/postgres:17"),
        ("localhost/worker:dev", "localhost/worker:dev"),
        ("registry.example:5000/worker:dev", "registry.example:5000/worker:dev"),
    ],
)
def test_images_are_known_in_the_cluster_by_their_full_names(image: str, reference: str) -> None:
    assert kind.reference(image) == reference


def test_a_cluster_whose_making_was_killed_is_not_used_however_ready_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docker = tmp_path / "docker"
    docker.write_text("""#!/bin/sh
case "$*" in
  *--format=*) echo node:1 ;;
  *"test -e /kind/headrace-complete") exit 1 ;;
esac
""")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert not kind._reuse(NodeImage(name="node:1", carries_cni=True))

    assert "never completed" in capsys.readouterr().err
