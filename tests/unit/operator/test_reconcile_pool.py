"""JobWorkerPools: the order of writes, and what happens between them."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.queues.postgres import CONNECTIONS_PER_WORKER
from headrace_operator.core.conditions import find
from headrace_operator.core.external_metrics import DESIRED_WORKERS_METRIC
from headrace_operator.core.limits import BackendLimits
from headrace_operator.core.model import (
    ConflictError,
    ObjectKey,
    OperatorError,
    PassingError,
    QueueDepth,
    RefusedError,
    TransientError,
)
from headrace_operator.core.rollout import OperatorRelease
from headrace_operator.reconcile.objects import ObjectStore
from headrace_operator.reconcile.observations import Observations
from headrace_operator.reconcile.pool import PoolReconciler
from headrace_operator.reconcile.secrets import Secrets
from support.memory_cluster import Manifest, MemoryBackend, MemoryCluster, SetClock

KEY = ObjectKey("shop", "workers")
QUEUE = ObjectKey("shop", "thumbnails")
SCALING = {"mode": "Direct", "sampleIntervalSeconds": 5, "scaleToZeroAfterSeconds": 10}


class Scene:
    """One pool on a sound queue, in a cluster in memory."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.objects = ObjectStore()
        self.cluster = MemoryCluster(self.objects)
        self.backend = MemoryBackend(self.clock)
        self.metrics_api_failure: OperatorError | None = None
        self.look_within: list[float] = []
        self.release = OperatorRelease(image="headrace/worker:test")
        self.restart()
        self.put_queue("thumbnails")
        self.put(autoscaling=SCALING)

    def restart(self) -> None:
        """The operator ends, and another begins."""
        self.observations = Observations(self.clock)
        self.reconciler = PoolReconciler(
            cluster=self.cluster,
            secrets=Secrets(self.cluster, self.clock),
            sampling=self.backend,
            objects=self.objects,
            observations=self.observations,
            clock=self.clock,
            providers={"Postgres": self.backend},
            release=self.release,
            metrics_api_failure=lambda: self.metrics_api_failure,
            look_within=lambda _, seconds: self.look_within.append(seconds),
        )

    def put_queue(self, name: str) -> None:
        """A sound one."""
        self.cluster.put(
            {
                "apiVersion": "headrace.dev/v1alpha1",
                "kind": "JobQueue",
                "metadata": {"namespace": "shop", "name": name},
                "spec": {"provider": "Postgres", "postgres": {"connection": {"secretRef": {"name": "pg"}}}},
                "status": {
                    "binding": {"name": f"{name}-binding"},
                    "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": ""}],
                },
            }
        )

    def put_other_pool(self, name: str, **spec: Any) -> None:
        """Another pool on the same queue."""
        self.cluster.put(
            {**self.pool, "metadata": {"namespace": "shop", "name": name}, "spec": self.pool["spec"] | spec}
        )

    def put(self, *, annotations: dict[str, str] | None = None, **spec: Any) -> None:
        stored = self.cluster.find("JobWorkerPool", KEY) or {}
        metadata = stored.get("metadata", {"namespace": "shop", "name": "workers"})
        self.cluster.put(
            {
                **stored,
                "apiVersion": "headrace.dev/v1alpha1",
                "kind": "JobWorkerPool",
                "metadata": {**metadata, "annotations": metadata.get("annotations", {}) | (annotations or {})},
                "spec": {
                    "queueRef": {"name": "thumbnails"},
                    "handler": {"exec": {"command": ["true"]}},
                    **stored.get("spec", {}),
                    **spec,
                },
            }
        )

    async def look(
        self, ready: int = 0, in_flight: int = 0, *, seconds: float = 5, paused: bool = False
    ) -> float | None:
        """Let time pass, look; returns after how many seconds the next look is due by itself."""
        self.clock.move(seconds)
        self.backend.depth = QueueDepth(ready=ready, in_flight=in_flight, paused=paused)
        self.look_within.clear()
        round_seconds = await self.reconciler.reconcile(KEY)
        return min((*self.look_within, *([] if round_seconds is None else [round_seconds])), default=None)

    @property
    def pool(self) -> Manifest:
        found = self.cluster.find("JobWorkerPool", KEY)
        assert found is not None
        return found

    @property
    def deployment(self) -> Manifest:
        found = self.cluster.find("Deployment", KEY)
        assert found is not None
        return found

    def condition(self, type_: str) -> tuple[str, str]:
        condition = find(self.pool["status"]["conditions"], type_)
        assert condition is not None
        return str(condition["status"]), str(condition["reason"])

    def writes(self) -> list[tuple[str, ...]]:
        """What was written since the last call; statuses in short."""
        written = [entry[:1] if entry[0] == "status" else entry for entry in self.cluster.journal]
        self.cluster.journal.clear()
        return written


@pytest.fixture
def scene() -> Scene:
    return Scene()


# Whose zero it is


async def test_a_zero_of_ours_is_written_with_its_mark(scene: Scene) -> None:
    await scene.look()
    assert scene.writes() == [("scale", "0", "marked"), ("apply", "Deployment", "0"), ("status",)]
    assert scene.condition("ScaledToZero") == ("True", "Idle")


async def test_a_wake_writes_the_number_and_takes_the_mark_away(scene: Scene) -> None:
    await scene.look()
    scene.writes()
    await scene.look(25)
    assert scene.writes() == [("scale", "3"), ("scale Deployment", "3"), ("status",)]
    assert scene.condition("ScaledToZero") == ("False", "HasWorkers")


def restore(scene: Scene) -> Scene:
    """The pool as `kubectl get -o yaml` had it, made anew elsewhere: its metadata and spec, and no status."""
    metadata = {"annotations": {}, **scene.pool["metadata"]}
    kept = {name: metadata[name] for name in ("namespace", "name", "annotations")}
    elsewhere = Scene()
    elsewhere.cluster.put({**scene.pool, "metadata": {**kept, "uid": "another"}, "status": {}})
    return elsewhere


async def test_a_pool_restored_without_its_status_wakes(scene: Scene) -> None:
    await scene.look()
    elsewhere = restore(scene)
    await elsewhere.look()
    assert elsewhere.condition("ScaledToZero") == ("True", "Idle")
    await elsewhere.look(25)
    assert elsewhere.pool["spec"]["replicas"] == 3


async def test_a_zero_by_hand_restored_without_its_status_is_still_a_pause(scene: Scene) -> None:
    await scene.look(25)
    scene.put(replicas=0)
    await scene.look(25)
    elsewhere = restore(scene)
    await elsewhere.look(25)
    assert elsewhere.pool["spec"]["replicas"] == 0
    assert elsewhere.condition("Paused") == ("True", "PausedAtZero")


@pytest.mark.parametrize("write", ["scale_pool", "scale_deployment", "patch_status"])
async def test_wherever_the_operator_ends_on_the_way_to_zero_the_zero_is_its_own(
    scene: Scene, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.look(1)
    await scene.look()
    with monkeypatch.context() as patched:
        # It is killed just before this write.
        patched.setattr(scene.cluster, write, killed)
        with pytest.raises(ConflictError):
            await scene.look(seconds=10)
    scene.restart()
    await scene.look()
    await scene.look(seconds=10)
    assert scene.condition("ScaledToZero") == ("True", "Idle")
    await scene.look(25)
    assert scene.pool["spec"]["replicas"] == 3


@pytest.mark.parametrize("write", ["scale_pool", "scale_deployment", "patch_status"])
async def test_wherever_the_operator_ends_on_a_wake_a_later_zero_by_hand_is_a_pause(
    scene: Scene, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.look()
    with monkeypatch.context() as patched:
        patched.setattr(scene.cluster, write, killed)
        with pytest.raises(ConflictError):
            await scene.look(25)
    scene.restart()
    await scene.look(25)
    scene.put(replicas=0)
    await scene.look(25)
    assert scene.condition("Paused") == ("True", "PausedAtZero")


async def killed(*_: Any, **__: Any) -> None:
    # No conflict, but of all errors the one after which a look takes no further step.
    raise ConflictError("Killed", "")


async def test_a_mark_that_is_left_beside_a_number_is_taken_away(scene: Scene) -> None:
    await scene.look()
    scene.put(replicas=3)
    scene.writes()
    await scene.look(25)
    assert scene.writes()[0] == ("scale", "3")
    scene.put(replicas=0)
    await scene.look(25)
    assert scene.condition("Paused") == ("True", "PausedAtZero")


async def test_a_number_that_is_lost_over_a_deployment_at_zero_is_nobodys_pause(scene: Scene) -> None:
    await scene.look()
    spec = {name: value for name, value in scene.pool["spec"].items() if name != "replicas"}
    scene.cluster.put({**scene.pool, "metadata": {**scene.pool["metadata"], "annotations": {}}, "spec": spec})
    await scene.look(25)
    assert scene.pool["spec"]["replicas"] == 3


async def test_a_zero_of_ours_that_autoscaling_leaves_is_one_worker_again(scene: Scene) -> None:
    await scene.look()
    scene.put(autoscaling={"mode": "Off", "minReplicas": 2})
    await scene.look()
    assert scene.pool["spec"]["replicas"] == 2
    assert scene.condition("ScaledToZero") == ("False", "HasWorkers")
    scene.put(replicas=0)
    await scene.look()
    assert scene.pool["spec"]["replicas"] == 0


async def test_a_zero_of_ours_that_the_annotation_holds_says_what_ends_it(scene: Scene) -> None:
    await scene.look()
    scene.put(annotations={"headrace.dev/paused": "true"})
    await scene.look(25)
    told = find(scene.pool["status"]["conditions"], "ScaledToZero")
    assert told is not None
    assert told["message"] == (
        "the operator took the pool to zero; the annotation headrace.dev/paused holds it there: "
        "without that it wakes at 1 ready"
    )


async def test_the_status_mirrors_the_deployments_number_in_the_same_look(scene: Scene) -> None:
    await scene.look(25)
    status = scene.pool["status"]
    assert (status["replicas"], status["desiredReplicas"], status["readyReplicas"]) == (3, 3, 0)
    assert status["lastScaleTime"] == "2026-01-01T00:00:05Z"


async def test_a_look_at_which_nothing_has_changed_writes_nothing(scene: Scene) -> None:
    await scene.look(25)
    await scene.look(25)
    scene.writes()
    for _ in range(10):
        await scene.look(25)
    assert scene.writes() == []


async def test_changing_signals_are_written_every_thirty_seconds_at_most(scene: Scene) -> None:
    await scene.look(25)
    await scene.look(25)
    scene.writes()
    for more in range(1, 13):
        await scene.look(25 + more % 5)
    assert len(scene.writes()) == 2


async def test_a_users_number_that_comes_in_between_is_not_overwritten(scene: Scene) -> None:
    await scene.look(25)
    scene.cluster.before_scale = lambda: scene.put(replicas=0)
    with pytest.raises(ConflictError):
        await scene.look(80)
    assert scene.pool["spec"]["replicas"] == 0
    assert scene.condition("Ready")[1] != "Conflict"
    scene.cluster.before_scale = lambda: None
    await scene.look(80)
    assert scene.pool["spec"]["replicas"] == 0
    assert scene.condition("Paused") == ("True", "PausedAtZero")


async def test_a_users_zero_that_comes_just_before_ours_stays_the_users(scene: Scene) -> None:
    await scene.look(1)
    await scene.look()
    scene.cluster.before_scale = lambda: scene.put(replicas=0)
    with pytest.raises(ConflictError):
        await scene.look(seconds=10)
    scene.cluster.before_scale = lambda: None
    await scene.look(25)
    assert scene.condition("Paused") == ("True", "PausedAtZero")


async def test_the_number_is_there_before_the_autoscaler(scene: Scene) -> None:
    scene.put(autoscaling={**SCALING, "mode": "HPA"})
    await scene.look(25)
    assert scene.writes() == [
        ("scale", "3"),
        ("apply", "Deployment", "3"),
        ("apply", "HorizontalPodAutoscaler", ""),
        ("status",),
    ]
    scene.put(autoscaling=SCALING)
    await scene.look(25)
    assert ("delete", "HorizontalPodAutoscaler") in scene.writes()


async def test_what_others_do_to_our_autoscaler_is_undone(scene: Scene) -> None:
    scene.put(autoscaling={**SCALING, "mode": "HPA"})
    await scene.look(25)
    hpa = scene.cluster.find("HorizontalPodAutoscaler", KEY)
    assert hpa is not None
    scene.cluster.put({**hpa, "spec": {**hpa["spec"], "maxReplicas": 40}})
    await scene.look(25)
    mended = scene.cluster.find("HorizontalPodAutoscaler", KEY)
    assert mended is not None
    assert mended["spec"]["maxReplicas"] == 10
    scene.writes()
    await scene.look(25)
    assert scene.writes() == []


async def test_every_rescale_is_one_event_in_the_words_of_the_status(scene: Scene) -> None:
    await scene.look()
    await scene.look(25)
    await scene.look(25)
    await scene.look(45)
    assert scene.cluster.events == [("Normal", "AtZero"), ("Normal", "Woken"), ("Normal", "Load")]
    assert scene.pool["status"]["scaling"]["reason"] == "Load"
    assert scene.pool["status"]["scaling"]["signals"]["ready"] == 45


async def test_a_pool_at_rest_asks_for_no_further_look(scene: Scene) -> None:
    await scene.look()
    assert await scene.look() is None


async def test_a_pool_that_time_alone_takes_to_zero_is_looked_at_in_time_though_its_template_is_wrong(
    scene: Scene,
) -> None:
    scene.cluster.apply_failures["Deployment"] = RefusedError("Invalid", "spec.template: no")
    with pytest.raises(RefusedError):
        await scene.look(1)
    with pytest.raises(RefusedError):
        await scene.look()
    assert scene.look_within == [5]


async def test_signals_that_were_not_written_are_looked_at_when_they_may_be(scene: Scene) -> None:
    await scene.look(25)
    await scene.look(25)
    await scene.look(26, seconds=5)
    assert 25 in scene.look_within
    await scene.look(26, seconds=25)
    assert scene.pool["status"]["scaling"]["signals"]["ready"] == 26


async def test_a_status_that_could_not_be_written_is_no_reason_to_tell_twice(scene: Scene) -> None:
    write = scene.cluster.patch_status

    async def refuse(owner: Manifest, status: dict[str, Any]) -> Manifest:
        raise PassingError("ApiServerTimeout", "no answer")

    scene.cluster.patch_status = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(PassingError):
        await scene.look(25)
    scene.cluster.patch_status = write  # type: ignore[method-assign]
    await scene.look(25)
    await scene.look(25)
    assert scene.cluster.events == [("Normal", "Load")]


async def test_what_keeps_an_autoscaler_from_its_work_is_told(scene: Scene) -> None:
    scene.put(autoscaling={**SCALING, "mode": "HPA"})
    scene.metrics_api_failure = RefusedError("ApiServiceTaken", "KEDA has it")
    await scene.look(25)
    assert scene.condition("ScalingActive") == ("False", "ApiServiceTaken")
    scene.metrics_api_failure = None
    hpa = scene.cluster.find("HorizontalPodAutoscaler", KEY)
    assert hpa is not None
    active = {"type": "ScalingActive", "status": "False", "reason": "FailedGetExternalMetric", "message": "no metric"}
    scene.cluster.put({**hpa, "status": {"conditions": [active]}})
    await scene.look(25)
    assert scene.condition("ScalingActive") == ("False", "FailedGetExternalMetric")


async def test_a_lost_reading_holds_and_shows_and_heals(scene: Scene) -> None:
    await scene.look(25)
    scene.backend.break_off()
    await scene.look(100)
    assert scene.pool["spec"]["replicas"] == 3
    assert scene.condition("ScalingActive") == ("False", "BackendUnreachable")
    scene.backend.failure = None
    await scene.look(100)
    assert scene.pool["spec"]["replicas"] == 10
    assert scene.condition("ScalingActive") == ("True", "Direct")


async def test_a_pool_made_anew_under_an_old_name_has_no_history(scene: Scene) -> None:
    await scene.look(1)
    await scene.look()
    await scene.look()
    scene.cluster.put({**scene.pool, "metadata": {**scene.pool["metadata"], "uid": "another"}})
    deployment = scene.cluster.find("Deployment", KEY)
    assert deployment is not None
    with pytest.raises(RefusedError, match="exists and isn't this pool's"):
        await scene.look()
    assert scene.pool["spec"]["replicas"] == 1


async def test_a_pool_whose_end_the_watch_has_missed_is_given_nothing(scene: Scene) -> None:
    await scene.cluster.delete("headrace.dev/v1alpha1", "JobWorkerPool", KEY)
    with pytest.raises(PassingError, match="is gone"):
        await scene.look(25)
    await scene.look(25)
    assert scene.writes() == [("delete", "JobWorkerPool")]


def allow(scene: Scene, max_connections: int, per_worker: int) -> None:
    """What the queue's status says of its database server."""
    queue = scene.cluster.find("JobQueue", QUEUE)
    assert queue is not None
    postgres = {"schemaVersion": 1, "maxConnections": max_connections, "connectionsPerWorker": per_worker}
    scene.cluster.put({**queue, "status": {**queue["status"], "postgres": postgres}})


def limited(scene: Scene) -> str:
    condition = find(scene.pool["status"]["conditions"], "ScalingLimited")
    assert condition is not None
    return str(condition["message"])


def warnings(scene: Scene) -> list[str]:
    return [reason for event_type, reason in scene.cluster.events if event_type == "Warning"]


async def test_a_pool_that_may_want_more_connections_than_there_are_is_warned_once_and_stays_ready(
    scene: Scene,
) -> None:
    scene.put(autoscaling={**SCALING, "maxReplicas": 60})
    allow(scene, 97, 2)
    for _ in range(3):
        await scene.look()
    assert scene.condition("ScalingLimited") == ("True", "TooFewConnections")
    assert limited(scene) == (
        "60 workers may hold 120 connections (2 each), and the database server allows 97: "
        "lower spec.autoscaling.maxReplicas to 48 or less, "
        "or put a pooler before it (spec.postgres.directConnection of the JobQueue), "
        "or raise max_connections, or the CONNECTION LIMIT of the user or the database"
    )
    assert scene.condition("Ready") == ("True", "AtZero")
    assert warnings(scene) == ["TooFewConnections"]


async def test_a_stock_server_carries_forty_workers(scene: Scene) -> None:
    scene.put(autoscaling={**SCALING, "maxReplicas": 40})
    allow(scene, 97, CONNECTIONS_PER_WORKER)
    await scene.look()
    assert scene.condition("ScalingLimited") == ("False", "WithinBounds")


async def test_the_bound_that_holds_the_number_now_is_told_before_the_connections(scene: Scene) -> None:
    scene.put(autoscaling={**SCALING, "maxReplicas": 60})
    allow(scene, 97, 2)
    await scene.look(1)
    await scene.look(1000)
    assert scene.condition("ScalingLimited")[1] != "TooFewConnections"
    assert "lower spec.autoscaling.maxReplicas to 48" in limited(scene)
    assert warnings(scene) == ["TooFewConnections"]


async def test_the_warning_goes_with_its_cause_and_comes_back_with_other_numbers(scene: Scene) -> None:
    scene.put(autoscaling={**SCALING, "maxReplicas": 60})
    allow(scene, 97, 2)
    await scene.look()
    allow(scene, 200, 2)
    await scene.look()
    assert scene.condition("ScalingLimited") == ("False", "WithinBounds")
    allow(scene, 97, 2)
    await scene.look()
    assert warnings(scene) == ["TooFewConnections"] * 2


async def test_past_a_pooler_one_connection_a_worker_counts(scene: Scene) -> None:
    scene.put(autoscaling={**SCALING, "maxReplicas": 40})
    allow(scene, 40, 1)
    await scene.look()
    assert scene.condition("ScalingLimited") == ("False", "WithinBounds")
    allow(scene, 39, 1)
    await scene.look()
    assert "lower spec.autoscaling.maxReplicas to 39 or less, or raise max_connections" in limited(scene)


async def test_a_pool_that_nobody_scales_is_judged_by_its_own_number(scene: Scene) -> None:
    scene.put(autoscaling={"mode": "Off"}, replicas=2)
    allow(scene, 12, 5)
    await scene.look()
    assert warnings(scene) == []
    scene.put(replicas=3)
    await scene.look()
    assert "lower spec.replicas to 2 or less" in limited(scene)


async def test_where_not_even_one_worker_fits_fewer_are_no_way_out(scene: Scene) -> None:
    scene.put(autoscaling={"mode": "Off"}, replicas=1)
    allow(scene, 4, 5)
    await scene.look()
    assert "allows 4: put a pooler before it" in limited(scene)


async def test_what_was_said_of_the_load_stands_until_the_first_reading_after_a_restart(scene: Scene) -> None:
    scene.put(autoscaling={**SCALING, "maxReplicas": 5})
    await scene.look(1000)
    await scene.look(1000)
    before = scene.pool["status"]
    scene.restart()
    scene.writes()
    scene.backend.has_read = False
    await scene.look(seconds=10)
    assert (scene.pool["status"], scene.look_within[-1]) == (before, 20)
    scene.backend.has_read = True
    await scene.look(1000, seconds=10)
    assert scene.pool["status"] == before


async def test_a_queue_that_is_never_read_is_told_half_a_minute_after_a_restart(scene: Scene) -> None:
    await scene.look(25)
    scene.restart()
    scene.backend.has_read = False
    await scene.look(seconds=29)
    assert scene.condition("ScalingActive") == ("True", "Direct")
    await scene.look(seconds=1)
    assert scene.condition("ScalingActive") == ("False", "DepthUnknown")


TYPO = RefusedError("Invalid", "unknown field spec.template.spec.nodeSelektor")


@pytest.mark.parametrize("by_hand", [0, 7])
async def test_a_template_that_is_refused_keeps_no_number_from_being_carried_out(scene: Scene, by_hand: int) -> None:
    await scene.look(25)
    scene.put(template={"spec": {"nodeSelektor": {}}})
    scene.cluster.apply_failures["Deployment"] = TYPO
    with pytest.raises(RefusedError, match=r"spec\.template does not fit: unknown field"):
        await scene.look(80)
    assert scene.deployment["spec"]["replicas"] == scene.pool["status"]["replicas"] == 8
    assert scene.condition("Ready") == ("False", "InvalidTemplate")
    scene.put(replicas=by_hand)
    with pytest.raises(RefusedError):
        await scene.look(10 * by_hand)
    assert scene.deployment["spec"]["replicas"] == by_hand


async def test_a_queue_that_is_gone_keeps_no_number_from_being_carried_out(scene: Scene) -> None:
    scene.put(autoscaling={"mode": "Off"}, replicas=3)
    await scene.look()
    queue = await scene.cluster.get("headrace.dev/v1alpha1", "JobQueue", QUEUE)
    assert queue is not None
    scene.objects.gone(queue)
    await scene.cluster.delete("headrace.dev/v1alpha1", "JobQueue", QUEUE)
    scene.put(replicas=0)
    with pytest.raises(OperatorError, match="has no JobQueue thumbnails"):
        await scene.look()
    assert scene.deployment["spec"]["replicas"] == 0
    assert scene.condition("Ready") == ("False", "QueueNotFound")


async def test_a_spec_that_can_not_be_read_keeps_no_number_from_being_carried_out(scene: Scene) -> None:
    await scene.look(25)
    scene.put(handler={}, replicas=0)
    with pytest.raises(RefusedError, match="exactly one of python, http and exec"):
        await scene.look(25)
    assert scene.deployment["spec"]["replicas"] == 0
    assert scene.condition("Ready") == ("False", "InvalidSpec")


async def test_of_a_spec_that_can_not_be_read_autoscalers_are_told_nothing(scene: Scene) -> None:
    scene.put(autoscaling={**SCALING, "mode": "HPA"})
    await scene.look(25)
    sampled = scene.backend.reading(QUEUE)
    assert sampled is not None
    scene.observations.remember_reading(QUEUE, sampled)
    [told] = scene.observations.values(DESIRED_WORKERS_METRIC, "shop")
    assert told.value == 3
    scene.put(handler={})
    with pytest.raises(RefusedError):
        await scene.look(80)
    assert scene.observations.values(DESIRED_WORKERS_METRIC, "shop") == []


def autoscaler(name: str) -> Manifest:
    """A user's own, as `kubectl autoscale` makes it."""
    target = {"apiVersion": "headrace.dev/v1alpha1", "kind": "JobWorkerPool", "name": KEY.name}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"namespace": KEY.namespace, "name": name},
        "spec": {"scaleTargetRef": target},
    }


async def test_an_autoscaler_of_the_pools_name_is_told_as_foreign_and_finds_its_selector_and_number(
    scene: Scene,
) -> None:
    scene.put(autoscaling={**SCALING, "mode": "HPA"})
    scene.cluster.put(autoscaler(KEY.name))
    with pytest.raises(RefusedError, match="HorizontalPodAutoscaler workers exists"):
        await scene.look(25)
    assert scene.condition("ScalingActive") == ("False", "ForeignAutoscaler")
    status = scene.pool["status"]
    assert (status["selector"], status["replicas"]) == ("headrace.dev/pool=workers", 3)


async def test_a_deployment_that_is_anothers_keeps_nothing_from_being_reported(scene: Scene) -> None:
    theirs = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "shop", "name": "workers"}}
    scene.cluster.put({**theirs, "spec": {"replicas": 5}})
    with pytest.raises(RefusedError, match="exists and isn't this pool's"):
        await scene.look(25)
    assert scene.condition("Ready") == ("False", "NameTaken")
    assert scene.pool["status"]["selector"] == "headrace.dev/pool=workers"
    assert scene.deployment["spec"]["replicas"] == 5


async def test_what_should_pass_and_does_not_is_told_after_half_a_minute(scene: Scene) -> None:
    await scene.look(25)
    scene.cluster.apply_failures["Deployment"] = PassingError("ApiServerError", "failed calling webhook")
    scene.put(maxConcurrentJobs=3)
    for _ in range(6):
        with pytest.raises(PassingError):
            await scene.look(25)
        assert scene.condition("Ready") == ("False", "WorkersStarting")
    with pytest.raises(PassingError):
        await scene.look(80)
    assert scene.condition("Ready") == ("False", "ApiServerError")
    assert scene.deployment["spec"]["replicas"] == 8
    scene.cluster.apply_failures.clear()
    await scene.look(80)
    assert scene.condition("Ready") == ("False", "WorkersStarting")


async def test_a_number_that_others_write_on_the_deployment_is_undone(scene: Scene) -> None:
    await scene.look(25)
    scene.cluster.put({**scene.deployment, "spec": {**scene.deployment["spec"], "replicas": 9}})
    await scene.look(25)
    assert scene.deployment["spec"]["replicas"] == 3


REDIS = {"redis": {"secretRef": {"name": "redis"}, "tls": {"caSecretRef": {"name": "ca"}}}}


async def test_a_pool_waits_for_its_redis_secrets_and_says_which_is_missing(scene: Scene) -> None:
    scene.put(idempotency=REDIS)
    for secrets, reason in (
        ({}, "SecretNotFound"),
        ({"redis": {"url": b"redis://h"}}, "SecretKeyMissing"),
        ({"redis": {"uri": b"hunter2"}}, "InvalidConnection"),
        ({"redis": {"uri": b"redis://h"}}, "SecretNotFound"),
        ({"redis": {"uri": b"redis://h"}, "ca": {"ca.crt": b""}}, "SecretKeyMissing"),
    ):
        scene.cluster.secrets = {ObjectKey("shop", name): content for name, content in secrets.items()}
        with pytest.raises(OperatorError):
            await scene.look(25, seconds=60)
        assert scene.condition("Ready") == ("False", reason)
        assert scene.cluster.find("Deployment", KEY) is None
    scene.cluster.secrets[ObjectKey("shop", "ca")] = {"ca.crt": b"PEM"}
    await scene.look(25, seconds=60)
    assert scene.cluster.find("Deployment", KEY) is not None
    assert scene.condition("Ready") == ("False", "WorkersStarting")


async def test_a_redis_secret_that_goes_shows_at_the_pool_whose_workers_go_on(scene: Scene) -> None:
    scene.cluster.secrets = {ObjectKey("shop", "redis"): {"uri": b"redis://h"}}
    scene.put(idempotency={"redis": {"secretRef": {"name": "redis"}}})
    await scene.look(25)
    before = scene.deployment["spec"]["template"]
    scene.cluster.secrets.clear()
    with pytest.raises(OperatorError):
        await scene.look(80, seconds=60)
    assert scene.condition("Ready") == ("False", "SecretNotFound")
    assert (scene.deployment["spec"]["replicas"], scene.deployment["spec"]["template"]) == (8, before)


async def test_workers_are_replaced_where_a_secret_that_they_read_is_another(scene: Scene) -> None:
    ca, redis = ObjectKey("shop", "ca"), ObjectKey("shop", "redis")
    scene.cluster.secrets = {redis: {"uri": b"redis://h"}, ca: {"ca.crt": b"PEM"}}
    scene.put(
        idempotency={"redis": {"secretRef": {"name": "redis"}}},
        handler={"http": {"url": "https://h", "caSecretRef": {"name": "ca"}}, "exec": None},
    )
    seen = []
    for change in ({}, {redis: {"uri": b"redis://new"}}, {ca: {"ca.crt": b"NEW"}}):
        scene.cluster.secrets |= change
        await scene.look(25, seconds=60)
        seen.append(scene.deployment["spec"]["template"]["metadata"]["annotations"])
    first, second, third = seen
    assert first["headrace.dev/redis-revision"] != second["headrace.dev/redis-revision"]
    assert first["headrace.dev/handler-ca-revision"] == second["headrace.dev/handler-ca-revision"]
    assert second["headrace.dev/handler-ca-revision"] != third["headrace.dev/handler-ca-revision"]


async def test_what_is_not_used_is_not_asked_for(scene: Scene) -> None:
    scene.put(idempotency={**REDIS, "enabled": False})
    await scene.look(25)
    assert scene.condition("Ready") == ("False", "WorkersStarting")


async def test_a_secret_that_can_not_be_read_at_present_is_not_a_missing_one(scene: Scene) -> None:
    scene.put(idempotency={"redis": {"secretRef": {"name": "redis"}}})
    scene.cluster.secrets = {ObjectKey("shop", "redis"): {"uri": b"redis://h"}}
    await scene.look(25)
    before = scene.condition("Ready")
    scene.cluster.secret_failure = PassingError("ApiUnavailable", "the API server is away")
    with pytest.raises(PassingError):
        await scene.look(25, seconds=60)
    assert scene.condition("Ready") == before


async def test_what_the_queues_backend_can_not_do_is_said_and_no_worker_starts(scene: Scene) -> None:
    scene.backend.backend_limits = BackendLimits(max_hold_seconds=1799, max_retry_delay_seconds=900)
    with pytest.raises(RefusedError, match=r"spec.jobTimeoutSeconds is 1800: provider Postgres takes 1799 at most"):
        await scene.look(20)
    assert scene.condition("Ready") == ("False", "UnsupportedByProvider")
    assert ("apply", "Deployment", "0") not in scene.writes()
    scene.put(jobTimeoutSeconds=60, retry={"maxDelaySeconds": 901})
    with pytest.raises(RefusedError, match=r"spec.retry.maxDelaySeconds is 901"):
        await scene.look(20)
    scene.put(retry={"maxDelaySeconds": 900})
    await scene.look(20)
    assert scene.pool["spec"]["replicas"] == 2


async def test_a_paused_queue_wakes_no_worker_and_says_why(scene: Scene) -> None:
    await scene.look(500, paused=True)
    assert scene.pool["status"]["scaling"]["reason"] == "QueuePaused"
    assert (scene.pool["spec"]["replicas"], scene.pool["status"]["scaling"]["signals"]["ready"]) == (0, 500)
    await scene.look(500)
    assert scene.pool["spec"]["replicas"] == 10


# When the next look is due


async def test_the_next_look_is_when_time_could_change_the_number(scene: Scene) -> None:
    scene.put(autoscaling={**SCALING, "sampleIntervalSeconds": 4, "scaleToZeroAfterSeconds": 3})
    assert await scene.look() is None, "at zero it is jobs that count, and they tell"
    assert await scene.look(25) == 4, "what is wanted is remembered for a minute"
    assert await scene.look() == 3, "zero is due"
    scene.put(autoscaling={"mode": "HPA", "minReplicas": 1})
    assert await scene.look(25) == 30, "the autoscaler decides; whether it can is looked at"


async def test_nothing_is_decided_on_a_sample_that_is_too_old(scene: Scene) -> None:
    await scene.look(25)
    scene.backend.age_seconds = 61
    await scene.look(80)
    assert scene.pool["spec"]["replicas"] == 3
    assert scene.condition("ScalingActive") == ("False", "DepthUnknown")


# Several queues, and several pools


def several(scene: Scene) -> None:
    """The pool works on a second queue, too."""
    scene.put_queue("videos")
    scene.put(queueRef=None, queueRefs=[{"name": "videos"}, {"name": "thumbnails"}])


async def test_a_pool_of_several_queues_is_scaled_by_what_they_hold_together(scene: Scene) -> None:
    several(scene)
    scene.backend.depths["videos"] = QueueDepth(ready=30, blocked=2)
    await scene.look(25, 5)
    assert scene.pool["spec"]["replicas"] == 6
    status = scene.pool["status"]
    assert (status["queues"], status["scaling"]["signals"]["ready"]) == ("videos, thumbnails", 55)
    worker = scene.deployment["spec"]["template"]["spec"]["containers"][0]
    variables = {variable["name"]: variable.get("value") for variable in worker["env"]}
    assert variables["BACKGROUND_JOBS__QUEUES__0__QUEUENAME"] == "videos"


async def test_a_queue_more_is_a_change_of_the_running_workers(scene: Scene) -> None:
    await scene.look(25)
    before = scene.deployment["spec"]["template"]
    several(scene)
    await scene.look(25)
    assert scene.deployment["spec"]["template"] != before


async def test_of_several_queues_the_one_that_is_missing_is_named_and_the_number_is_held(scene: Scene) -> None:
    await scene.look(25)
    scene.put(queueRef=None, queueRefs=[{"name": "thumbnails"}, {"name": "videos"}])
    scene.backend.failures["videos"] = TransientError("DepthUnknown", "not read yet")
    with pytest.raises(OperatorError, match="namespace shop has no JobQueue videos"):
        await scene.look()
    assert scene.condition("Ready") == ("False", "QueueNotFound")
    assert scene.pool["status"]["scaling"]["message"] == "the depth of queue videos is unknown: holding 3 workers"


async def test_while_one_of_several_queues_can_not_be_read_the_other_still_wakes_the_pool(scene: Scene) -> None:
    several(scene)
    scene.backend.failures["videos"] = TransientError("BackendUnreachable", "away")
    await scene.look()
    assert scene.pool["status"]["scaling"]["reason"] == "SignalsLost"
    await scene.look(25)
    assert scene.pool["spec"]["replicas"] == 3
    assert scene.condition("ScalingActive") == ("False", "BackendUnreachable")


async def test_pools_on_one_queue_share_its_load_by_what_they_could_run(scene: Scene) -> None:
    scene.put(autoscaling={**SCALING, "maxReplicas": 10}, maxConcurrentJobs=2)
    scene.put_other_pool("large", maxConcurrentJobs=6)
    await scene.look(80)
    assert scene.pool["spec"]["replicas"] == 2
    assert scene.pool["status"]["scaling"]["message"].startswith("80 ready and 0 in flight, 20 of it for this pool")


async def test_a_pool_that_nobody_scales_takes_the_part_of_the_workers_that_it_has(scene: Scene) -> None:
    scene.put_other_pool("fixed", autoscaling={"mode": "Off"}, replicas=10)
    await scene.look(80)
    assert scene.pool["spec"]["replicas"] == 4
    scene.put_other_pool("fixed", autoscaling={"mode": "Off"}, replicas=0)
    await scene.look(80)
    assert scene.pool["spec"]["replicas"] == 8


async def test_a_pool_that_is_paused_at_zero_leaves_the_load_to_the_others(scene: Scene) -> None:
    scene.put_other_pool("paused", replicas=0)
    await scene.look(80)
    assert scene.pool["spec"]["replicas"] == 8
    asleep = {**scene.pool, "metadata": {"namespace": "shop", "name": "paused"}}
    asleep["metadata"]["annotations"] = {"headrace.dev/scaled-to-zero": "true"}
    scene.cluster.put({**asleep, "spec": {**scene.pool["spec"], "replicas": 0}})
    await scene.look(180)
    assert scene.pool["spec"]["replicas"] == 9


# Somebody else's autoscaler


def theirs(kind: str) -> Manifest:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"namespace": "shop", "name": "theirs"},
        "spec": {"scaleTargetRef": {"kind": kind, "name": "workers"}},
    }


async def test_in_mode_off_a_deployment_that_somebody_scales_keeps_its_number_and_how_to_mend_it_is_said(
    scene: Scene,
) -> None:
    scene.put(autoscaling={"mode": "Off"}, replicas=2)
    await scene.look()
    scene.cluster.put(theirs("Deployment"))
    scene.cluster.put({**scene.deployment, "spec": {**scene.deployment["spec"], "replicas": 5}})
    scene.put(maxConcurrentJobs=3)
    await scene.look()
    assert scene.deployment["spec"]["replicas"] == 5
    assert scene.condition("ScalingActive") == ("False", "ForeignAutoscaler")
    told = find(scene.pool["status"]["conditions"], "ScalingActive")
    assert told is not None
    assert "let it, or the ScaledObject that it is made from, scale JobWorkerPool workers" in told["message"]
    status = scene.pool["status"]
    assert (scene.pool["spec"]["replicas"], status["replicas"], status["desiredReplicas"]) == (2, 5, 2)
    scene.cluster.events.clear()
    await scene.look()
    assert scene.cluster.events == []


async def test_in_mode_off_the_number_is_the_pools_again_once_nobody_scales_the_deployment(scene: Scene) -> None:
    scene.put(autoscaling={"mode": "Off"}, replicas=2)
    scene.cluster.put(theirs("Deployment"))
    await scene.look()
    scene.cluster.put({**scene.deployment, "spec": {**scene.deployment["spec"], "replicas": 5}})
    await scene.look()
    await scene.cluster.delete("autoscaling/v2", "HorizontalPodAutoscaler", ObjectKey("shop", "theirs"))
    await scene.look()
    assert scene.deployment["spec"]["replicas"] == 2
    assert scene.condition("ScalingActive") == ("False", "ManualScaling")


async def test_in_mode_off_an_autoscaler_of_the_pool_itself_is_as_it_should_be(scene: Scene) -> None:
    scene.put(autoscaling={"mode": "Off"}, replicas=2)
    scene.cluster.put(theirs("JobWorkerPool"))
    await scene.look()
    assert scene.condition("ScalingActive") == ("False", "ManualScaling")
