"""What helm installed answers, and can be asked by everybody who may."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from cluster import deploy, tools
from support.kubectl import KubectlError, eventually

if TYPE_CHECKING:
    from support.kubectl import Kubectl
    from support.stage import Stage


def test_helm_test_passes(cluster: Kubectl) -> None:
    done = subprocess.run(
        [
            str(tools.helm()),
            "test",
            deploy.RELEASE,
            f"--namespace={deploy.NAMESPACE}",
            f"--kubeconfig={cluster.kubeconfig}",
            "--timeout=120s",
        ],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_depth_of_a_queue_is_an_external_metric(stage: Stage) -> None:
    stage.apply_queue()
    stage.enqueue(7, seconds=1)
    path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{stage.kubectl.namespace}/background_jobs_queue_depth"

    def depth() -> list[str]:
        try:
            answer = json.loads(stage.kubectl.run("get", "--raw", f"{path}?labelSelector=queue%3Dwork"))
        except KubectlError:
            return []
        return [item["value"] for item in answer["items"]]

    eventually(depth, until=lambda values: values == ["7"], what="a depth of 7")
