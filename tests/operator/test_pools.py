"""JobWorkerPools, from a number of workers to a Deployment. No pod runs here: what a kubelet says is said by tests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.in_cluster import worker_pool
from support.kubectl import Manifest, eventually
from support.operator_world import POOL, World

HANDLER = {"exec": {"command": ["/bin/true"]}}


def pool_pods(world: World, number: int) -> list[Manifest]:
    """The pool's pods, once the Deployment's controllers have made them."""
    return eventually(
        lambda: list(world.kubectl.list("pods", selector=f"headrace.dev/pool={POOL}")),
        until=lambda pods: len(pods) == number,
        what=f"{number} pods",
    )


def say_of_pod(world: World, pod: Manifest, **status: Any) -> None:
    """Be the kubelet."""
    name, patch = pod["metadata"]["name"], json.dumps({"status": status})
    world.kubectl.run("patch", "pod", name, "--subresource=status", "--type=merge", "--patch", patch)


def worker_container(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "worker", "image": "x", "imageID": "", "ready": False, "restartCount": 0, **state}]


async def test_a_deployment_is_made_owned_and_taken_by_a_restricted_namespace(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool()
    world.wait_replicas(1)
    deployment = world.kubectl.get("deployment", POOL)
    pool = world.kubectl.get("jobworkerpool", POOL)
    assert deployment["metadata"]["ownerReferences"][0]["uid"] == pool["metadata"]["uid"]
    [pod] = pool_pods(world, 1)
    [worker] = pod["spec"]["containers"]
    assert (worker["image"], worker["args"]) == ("headrace/worker:test", ["worker"])
    assert pool["status"]["selector"] == f"headrace.dev/pool={POOL}"
    world.wait_condition("jobworkerpool", POOL, "Ready", status="False", reason="WorkersStarting")

    ready = {"type": "Ready", "status": "True"}
    say_of_pod(world, pod, phase="Running", podIP="127.0.0.1", podIPs=[{"ip": "127.0.0.1"}], conditions=[ready])
    world.wait_condition("jobworkerpool", POOL, "Ready", status="True", reason="WorkersReady")
    world.wait_object("jobworkerpool", POOL, lambda seen: seen["status"]["readyReplicas"] == 1)


async def test_the_pool_takes_its_objects_along(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(autoscaling={"mode": "HPA"})
    world.wait_object("hpa", POOL, lambda _: True)
    world.kubectl.delete("jobworkerpool", POOL)
    # The garbage collector learns of new kinds every half minute.
    world.wait_gone("deployment", POOL, within_seconds=90)
    world.wait_gone("hpa", POOL)


async def test_scaling_by_hand_is_carried_over_in_mode_off(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool()
    world.wait_replicas(1)
    for number in (3, 0, 2):
        world.kubectl.run("scale", "jwp", POOL, f"--replicas={number}")
        world.wait_replicas(number)


async def test_zero_in_mode_off_is_ready(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(replicas=0)
    world.wait_condition("jobworkerpool", POOL, "Ready", status="True", reason="AtZero")


async def test_a_pool_without_its_queue_says_so_and_heals(world: World) -> None:
    world.apply_pool()
    missing = world.wait_condition(
        "jobworkerpool", POOL, "Ready", status="False", reason="QueueNotFound", within_seconds=10
    )
    assert "JobQueue work" in missing["message"]
    world.apply_queue()
    world.wait_condition("jobworkerpool", POOL, "Ready", status="False", reason="QueueNotReady", within_seconds=10)
    assert world.kubectl.find("deployment", POOL) is None
    world.apply_secret()
    world.wait_replicas(1, within_seconds=15)


async def test_a_queue_in_trouble_shows_at_its_pool_whose_workers_stay(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(replicas=2)
    world.wait_replicas(2)
    world.apply_queue(postgres={"connection": {"secretRef": {"name": "lost"}}})
    trouble = world.wait_condition(
        "jobworkerpool", POOL, "Ready", status="False", reason="QueueNotReady", within_seconds=10
    )
    assert "SecretNotFound" in trouble["message"]
    world.kubectl.run("scale", "jwp", POOL, "--replicas=3")
    world.wait_replicas(3)


async def test_a_pool_without_its_redis_says_so_and_its_workers_get_it_as_a_binding(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(idempotency={"redis": {"secretRef": {"name": "redis"}}})
    missing = world.wait_condition(
        "jobworkerpool", POOL, "Ready", status="False", reason="SecretNotFound", within_seconds=10
    )
    assert "has no Secret redis: create it" in missing["message"]
    world.apply_secret(name="redis", data={"url": "redis://:hunter2@redis"})
    missing = world.wait_condition(
        "jobworkerpool", POOL, "Ready", status="False", reason="SecretKeyMissing", within_seconds=10
    )
    assert "Secret redis has no key uri" in missing["message"]
    assert world.kubectl.find("deployment", POOL) is None
    world.apply_secret(name="redis", data={"uri": "redis://:hunter2@redis"})
    world.wait_replicas(1, within_seconds=15)
    [pod] = pool_pods(world, 1)
    [volume] = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "redis"]
    assert [next(iter(source)) for source in volume["projected"]["sources"]] == ["downwardAPI", "secret"]
    assert "hunter2" not in json.dumps(pod)


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (
            {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image shop:9"}}},
            "ImagePullBackOff",
            "shop:9",
        ),
        (
            {
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                "lastState": {"terminated": {"exitCode": 1, "message": "no module named shop"}},
                "restartCount": 2,
            },
            "CrashLoopBackOff",
            "no module named shop",
        ),
    ],
    ids=["image", "crash"],
)
async def test_workers_that_cannot_start_show_within_10_s_and_heal(
    world: World, state: dict[str, Any], reason: str, words: str
) -> None:
    world.apply_ready_queue()
    world.apply_pool()
    [pod] = pool_pods(world, 1)
    say_of_pod(world, pod, phase="Pending", containerStatuses=worker_container(**state))
    shown = world.wait_condition("jobworkerpool", POOL, "Ready", status="False", reason=reason, within_seconds=10)
    assert words in shown["message"]
    say_of_pod(world, pod, phase="Running", containerStatuses=None, conditions=[{"type": "Ready", "status": "True"}])
    world.wait_condition("jobworkerpool", POOL, "Ready", status="True", within_seconds=10)


async def test_pods_that_admission_refuses_show(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(template={"spec": {"hostNetwork": True}})
    shown = world.wait_condition("jobworkerpool", POOL, "Ready", status="False", reason="FailedCreate")
    assert "hostNetwork" in shown["message"] or "host namespaces" in shown["message"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"nodeSelektor": {"disk": "ssd"}}, "nodeSelektor"),
        ({"containers": [{"name": "worker", "resources": {"requests": {"cpu": "lots"}}}]}, "quantities"),
        ({"containers": [{"name": "worker", "env": [{"name": "A", "value": 1}]}]}, "expected string"),
        ({"volumes": "all of them"}, "spec.template.spec.volumes: must be a list"),
    ],
    ids=["unknown field", "bad quantity", "wrong type", "not a list"],
)
async def test_a_wrong_template_shows_within_10_s_and_heals(world: World, spec: dict[str, Any], words: str) -> None:
    world.apply_ready_queue()
    world.apply_pool(template={"spec": spec})
    shown = world.wait_condition(
        "jobworkerpool", POOL, "Ready", status="False", reason="InvalidTemplate", within_seconds=10
    )
    assert words in shown["message"]
    world.apply_pool("sound", template={"metadata": {"labels": {"team": "shop"}}})
    world.wait_replicas(1, "sound")
    world.apply_pool()
    world.wait_replicas(1, within_seconds=10)


async def test_a_wrong_template_keeps_no_number_from_being_carried_out(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(replicas=2)
    world.wait_replicas(2)
    patch = json.dumps({"spec": {"template": {"spec": {"nodeSelektor": {"disk": "ssd"}}}}})
    world.kubectl.run("patch", "jwp", POOL, "--type=merge", f"--patch={patch}")
    world.wait_condition("jobworkerpool", POOL, "Updated", status="False", reason="InvalidTemplate")
    for number in (4, 0):
        world.kubectl.run("scale", "jwp", POOL, f"--replicas={number}")
        world.wait_replicas(number)
    world.wait_condition("jobworkerpool", POOL, "Ready", status="False", reason="InvalidTemplate")


async def test_workers_are_replaced_when_their_queue_is_bound_to_something_else(world: World) -> None:
    def revision(deployment: Manifest) -> str:
        annotations: dict[str, str] = deployment["spec"]["template"]["metadata"].get("annotations", {})
        return annotations.get("headrace.dev/binding-revision", "")

    world.apply_ready_queue()
    world.apply_pool()
    world.wait_object("deployment", POOL, lambda seen: revision(seen) == "1")
    world.apply_secret(f"{world.dsn}{'&' if '?' in world.dsn else '?'}application_name=moved")
    # A Secret is read again before a minute is over.
    world.wait_object("deployment", POOL, lambda seen: revision(seen) == "2", within_seconds=90)


async def test_a_template_is_merged_over_ours(world: World) -> None:
    world.apply_ready_queue()
    sidecar = {"name": "sidecar", "image": "sidecar:1"}
    worker = {"name": "worker", "env": [{"name": "SHOP", "value": "yes"}], "resources": {"limits": {"memory": "1Gi"}}}
    world.apply_pool(template={"spec": {"containers": [sidecar, worker], "nodeSelector": {"disk": "ssd"}}})
    world.wait_replicas(1)
    pod = world.kubectl.get("deployment", POOL)["spec"]["template"]["spec"]
    assert [container["name"] for container in pod["containers"]] == ["worker"]
    [native] = pod["initContainers"]
    assert (native["name"], native["image"], native["restartPolicy"]) == ("sidecar", "sidecar:1", "Always")
    assert pod["nodeSelector"] == {"disk": "ssd"}
    variables = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
    assert variables["SHOP"] == "yes"
    assert variables["BACKGROUND_JOBS__QUEUENAME"] == "work"


async def test_a_deployment_of_somebody_else_is_not_taken(world: World) -> None:
    world.kubectl.run("create", "deployment", POOL, "--image=mine", "--replicas=0")
    world.apply_ready_queue()
    world.apply_pool()
    refused = world.wait_condition("jobworkerpool", POOL, "Ready", status="False", reason="NameTaken")
    assert f"Deployment {POOL}" in refused["message"]
    world.kubectl.delete("deployment", POOL)
    world.wait_replicas(1)


async def test_what_others_do_to_the_deployment_is_undone(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool(replicas=2)
    world.wait_replicas(2)
    world.kubectl.run("scale", "deployment", POOL, "--replicas=5")
    world.wait_replicas(2)
    world.kubectl.run("set", "image", f"deployment/{POOL}", "worker=other:1")
    world.wait_object("deployment", POOL, lambda seen: _image(seen) == "headrace/worker:test")
    world.kubectl.delete("deployment", POOL)
    world.wait_replicas(2)


async def test_replacing_a_pool_without_a_number_keeps_its_workers(world: World) -> None:
    world.apply_ready_queue()
    world.apply_pool()
    world.wait_replicas(1)
    world.kubectl.run("scale", "jwp", POOL, "--replicas=4")
    world.wait_replicas(4)
    manifest = json.dumps(worker_pool(POOL, "work", handler=HANDLER))
    world.kubectl.run("replace", "-f", "-", stdin=manifest)
    world.wait_object("jobworkerpool", POOL, lambda seen: seen["spec"].get("replicas") == 4)
    world.wait_replicas(4)


def _image(deployment: Manifest) -> str:
    image: str = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    return image


async def test_more_workers_than_can_connect_are_warned_about_with_the_numbers(world: World) -> None:
    world.apply_ready_queue()
    told = world.kubectl.get("jobqueue", "work")["status"]["postgres"]
    fitting = told["maxConnections"] // told["connectionsPerWorker"]
    world.apply_pool(autoscaling={"mode": "Direct", "maxReplicas": fitting + 1})
    limited = world.wait_condition("jobworkerpool", POOL, "ScalingLimited", status="True", reason="TooFewConnections")
    assert (
        f"allows {told['maxConnections']}: lower spec.autoscaling.maxReplicas to {fitting} or less"
        in limited["message"]
    )
    world.wait_condition("jobworkerpool", POOL, "Ready", status="True", reason="AtZero")
    # An Event is written after the condition that it tells of.
    told_of = eventually(
        lambda: [(each["reason"], each["message"]) for each in world.events(POOL) if each["type"] == "Warning"],
        what="a warning",
    )
    assert told_of == [("TooFewConnections", limited["message"])]

    world.apply_pool(autoscaling={"mode": "Direct", "maxReplicas": fitting})
    world.wait_condition("jobworkerpool", POOL, "ScalingLimited", status="False", reason="WithinBounds")


async def test_how_workers_are_replaced_is_changed_in_place(world: World) -> None:
    def strategy(seen: Manifest) -> Any:
        return seen["spec"]["strategy"]

    world.apply_ready_queue()
    world.apply_pool()
    rolling = {"maxSurge": "25%", "maxUnavailable": 1}
    world.wait_object("deployment", POOL, lambda seen: strategy(seen)["rollingUpdate"] == rolling)
    world.apply_pool(strategy={"type": "Recreate"})
    world.wait_object("deployment", POOL, lambda seen: strategy(seen) == {"type": "Recreate"})
    world.apply_pool()
    world.wait_object("deployment", POOL, lambda seen: strategy(seen).get("rollingUpdate") == rolling)
