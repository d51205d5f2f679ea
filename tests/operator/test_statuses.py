"""Statuses are written to the object that was looked at, in a real API."""

from __future__ import annotations

import pytest

from headrace_operator.core.conditions import Condition, find
from headrace_operator.core.model import ConflictError
from headrace_operator.kubernetes import KubernetesApi, KubernetesCluster
from headrace_operator.reconcile.objects import ObjectStore
from headrace_operator.reconcile.reporting import Reporter
from support.memory_cluster import SetClock
from support.operator_world import QUEUE, World

GONE = Condition(type="Synced", status=False, reason="OfTheOldOne", message="what was before it")


async def test_an_object_made_anew_under_an_old_name_is_not_given_the_old_ones_conditions(world: World) -> None:
    world.apply_queue()
    old = world.kubectl.get("jobqueue", QUEUE)
    world.kubectl.delete("jobqueue", QUEUE)
    world.apply_queue()
    async with KubernetesApi(str(world.kubectl.kubeconfig)) as api:
        cluster = KubernetesCluster(api, namespaces=[world.kubectl.namespace], on_pool_change=lambda _: None)
        objects = ObjectStore()
        objects.seen(old)
        with pytest.raises(ConflictError):
            await Reporter(cluster, objects, SetClock()).write_status(old, [GONE])
    conditions = world.kubectl.get("jobqueue", QUEUE).get("status", {}).get("conditions", [])
    assert (find(conditions, "Synced") or {}).get("reason") != "OfTheOldOne"
