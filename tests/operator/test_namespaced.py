"""An operator that has rights in some namespaces only, and works in these alone."""

from __future__ import annotations

from pathlib import Path

from cluster.control_plane import ControlPlane
from cluster.places import REPOSITORY
from support.in_cluster import restricted_namespace
from support.kubectl import Kubectl
from support.operator_process import OperatorProcess
from support.operator_world import POOL, World


async def test_it_works_where_it_may_and_nowhere_else(tmp_path: Path, database_dsn: str) -> None:
    with ControlPlane() as control_plane:
        control_plane.kubectl("apply", "--server-side", f"--filename={REPOSITORY / 'crds'}")
        control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        operator = OperatorProcess(
            control_plane=control_plane, log=tmp_path / "operator.log", watch_namespaces=("shop", "mail")
        )
        worlds = {}
        for name in ("shop", "mail", "elsewhere"):
            kubectl = Kubectl(
                binary=control_plane._commands / "kubectl", kubeconfig=control_plane.kubeconfig, namespace=name
            )
            kubectl.apply(restricted_namespace(name))
            worlds[name] = World(kubectl=kubectl, operator=operator, dsn=database_dsn)
            worlds[name].apply_secret()
            worlds[name].apply_queue(name)
            worlds[name].apply_pool(queue=name)
        operator.install()
        operator.start()
        try:
            for name in ("shop", "mail"):
                worlds[name].wait_condition("jobqueue", name, "Ready", status="True")
                worlds[name].wait_replicas(1)
        finally:
            status = operator.stop()
        assert status == 0
        assert "status" not in worlds["elsewhere"].kubectl.get("jobqueue", "elsewhere")
        assert worlds["elsewhere"].kubectl.find("deployment", POOL) is None
        assert not operator.has_failed()
