"""A new release of the operator, with real Deployments' controllers. No pod runs here: the test is the kubelet."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.control_plane import ControlPlane
from cluster.places import REPOSITORY
from support.in_cluster import restricted_namespace
from support.kubectl import Kubectl, eventually
from support.operator_process import OperatorProcess
from support.operator_world import World


def start_workers(world: World, pool: str, image: str) -> None:
    """Be the kubelet: the pods of this image become ready."""
    ready = [{"type": "Ready", "status": "True"}]
    status = {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}], "conditions": ready}

    def start() -> bool:
        pods = world.kubectl.list("pods", selector=f"headrace.dev/pool={pool}")
        new = [pod["metadata"]["name"] for pod in pods if pod["spec"]["containers"][0]["image"] == image]
        for name in new:
            patch = json.dumps({"status": status})
            world.kubectl.run("patch", "pod", name, "--subresource=status", "--type=merge", "--patch", patch)
        return bool(new)

    eventually(start, what=f"a pod of {image}")


def image(world: World, pool: str) -> str:
    deployment = world.kubectl.get("deployment", pool)
    found: str = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    return found


async def test_a_new_release_replaces_the_workers_of_one_pool_after_another(tmp_path: Path, database_dsn: str) -> None:
    with ControlPlane() as control_plane:
        control_plane.kubectl("apply", "--server-side", f"--filename={REPOSITORY / 'crds'}")
        control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        operator = OperatorProcess(control_plane=control_plane, log=tmp_path / "operator.log")
        kubectl = Kubectl(
            binary=control_plane._commands / "kubectl", kubeconfig=control_plane.kubeconfig, namespace="shop"
        )
        kubectl.apply(restricted_namespace("shop"))
        world = World(kubectl=kubectl, operator=operator, dsn=database_dsn)
        operator.install()
        operator.start()
        try:
            world.apply_ready_queue()
            for pool in ("first", "second"):
                world.apply_pool(pool)
                start_workers(world, pool, "headrace/worker:test")
                world.wait_condition("jobworkerpool", pool, "Updated", status="True", reason="UpToDate")
                world.wait_condition("jobworkerpool", pool, "Ready", status="True")

            assert operator.stop() == 0
            operator.worker_image = "headrace/worker:next"
            operator.start()

            def reasons() -> dict[str, str]:
                updated = {pool: kubectl.condition("jwp", pool, "Updated") for pool in ("first", "second")}
                return {condition["reason"]: pool for pool, condition in updated.items()}

            by_reason = eventually(
                reasons,
                until=lambda seen: seen.keys() == {"Replacing", "WaitingForTurn"},
                what="one pool in its turn, and one that waits",
            )
            now, later = by_reason["Replacing"], by_reason["WaitingForTurn"]
            assert (image(world, now), image(world, later)) == ("headrace/worker:next", "headrace/worker:test")

            # Its number is carried out all the same.
            kubectl.run("scale", "jwp", later, "--replicas=2")
            world.wait_replicas(2, later)
            assert image(world, later) == "headrace/worker:test"

            start_workers(world, now, "headrace/worker:next")
            world.wait_condition("jobworkerpool", now, "Updated", status="True", reason="UpToDate")
            world.wait_object("deployment", later, lambda _: image(world, later) == "headrace/worker:next")
        finally:
            status = operator.stop()
        assert status == 0
        assert not operator.has_failed()
