"""Whose workers are replaced when: at once for their users, one pool after another for a new release."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_operator.core.conditions import find
from headrace_operator.core.deployment import WorkedQueue
from headrace_operator.core.model import ObjectKey, OperatorError, QueueDepth, RefusedError
from headrace_operator.core.rollout import OperatorRelease, RolloutProgress, Stage, asked_digest, progress_of, turns
from headrace_operator.core.spec import JobQueue, JobWorkerPool, parse
from headrace_operator.reconcile.objects import ObjectStore
from headrace_operator.reconcile.observations import Observations
from headrace_operator.reconcile.pool import PoolReconciler
from headrace_operator.reconcile.secrets import Secrets
from support.memory_cluster import Manifest, MemoryBackend, MemoryCluster, SetClock

A, B, C = ObjectKey("shop", "a"), ObjectKey("shop", "b"), ObjectKey("shop", "c")
MAIL = ObjectKey("mail", "a")
API_VERSION = "headrace.dev/v1alpha1"
PROGRESSING = {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}
UPDATED = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
PAUSED = {"type": "Progressing", "status": "Unknown", "reason": "DeploymentPaused"}
STUCK = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}


class Fleet:
    """Pools on sound queues, and an operator whose release can be another one."""

    def __init__(self, *pools: ObjectKey) -> None:
        self.clock = SetClock()
        self.objects = ObjectStore()
        self.cluster = MemoryCluster(self.objects)
        self.backend = MemoryBackend(self.clock)
        self.backend.depth = QueueDepth(ready=20)
        self.woken: list[ObjectKey] = []
        self.pools = pools
        self.start("headrace/worker:1")
        for key in pools:
            self.put_queue(key.namespace)
            self.put(key)

    def start(self, image: str, pools_at_once: int = 1) -> None:
        """The operator ends, and this release of it begins."""
        self.reconciler = PoolReconciler(
            cluster=self.cluster,
            secrets=Secrets(self.cluster, self.clock),
            sampling=self.backend,
            objects=self.objects,
            observations=Observations(self.clock),
            clock=self.clock,
            providers={"Postgres": self.backend},
            release=OperatorRelease(image=image, pools_at_once=pools_at_once),
            metrics_api_failure=lambda: None,
            look_within=self.look_within,
        )

    def put_queue(self, namespace: str, revision: str = "1") -> None:
        self.cluster.put(
            {
                "apiVersion": API_VERSION,
                "kind": "JobQueue",
                "metadata": {"namespace": namespace, "name": "work"},
                "spec": {"provider": "Postgres", "postgres": {"connection": {"secretRef": {"name": "pg"}}}},
                "status": {
                    "binding": {"name": "work-binding", "revision": revision},
                    "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": ""}],
                },
            }
        )

    def put(self, key: ObjectKey, **spec: Any) -> None:
        stored = self.cluster.find("JobWorkerPool", key) or {}
        self.cluster.put(
            {
                **stored,
                "apiVersion": API_VERSION,
                "kind": "JobWorkerPool",
                "metadata": stored.get("metadata", {"namespace": key.namespace, "name": key.name}),
                "spec": {
                    "queueRef": {"name": "work"},
                    "handler": {"exec": {"command": ["true"]}},
                    "replicas": 2,
                    **stored.get("spec", {}),
                    **spec,
                },
            }
        )

    def look_within(self, pool: ObjectKey, seconds: float) -> None:
        if seconds == 0:
            self.woken.append(pool)

    async def look(self, *keys: ObjectKey) -> None:
        self.clock.move(5)
        for key in keys or self.pools:
            await self.reconciler.reconcile(key)

    def deployment(self, key: ObjectKey) -> Manifest:
        found = self.cluster.find("Deployment", key)
        assert found is not None
        return found

    def tell(self, key: ObjectKey, condition: Manifest = UPDATED, *, ready: int = 2) -> None:
        """Be the Deployment's controller."""
        deployment = self.deployment(key)
        generation = deployment["metadata"]["generation"]
        status = {"observedGeneration": generation, "readyReplicas": ready, "conditions": [condition]}
        self.cluster.put({**deployment, "status": status})

    def image(self, key: ObjectKey) -> str:
        pod = self.deployment(key)["spec"]["template"]["spec"]
        return str(pod["containers"][0]["image"]).rpartition(":")[2]

    def images(self) -> str:
        return " ".join(self.image(key) for key in self.pools)

    def updated(self, key: ObjectKey) -> tuple[str, str]:
        pool = self.cluster.find("JobWorkerPool", key)
        assert pool is not None
        condition = find(pool["status"]["conditions"], "Updated")
        assert condition is not None
        return str(condition["status"]), str(condition["reason"])


async def settled(*pools: ObjectKey) -> Fleet:
    """A fleet that is as the first release makes it."""
    fleet = Fleet(*pools)
    await fleet.look()
    for key in pools:
        fleet.tell(key)
    await fleet.look()
    return fleet


async def test_a_new_release_changes_one_pool_after_another() -> None:
    fleet = await settled(A, B, C)
    fleet.start("headrace/worker:2")
    await fleet.look()
    assert fleet.images() == "2 1 1"
    assert [fleet.updated(key)[1] for key in (A, B, C)] == ["Replacing", "WaitingForTurn", "WaitingForTurn"]
    fleet.tell(A, PROGRESSING)
    await fleet.look()
    assert fleet.images() == "2 1 1"
    fleet.tell(A)
    await fleet.look(A)
    assert fleet.woken == [B]
    await fleet.look()
    assert fleet.images() == "2 2 1"
    assert fleet.updated(A) == ("True", "UpToDate")
    fleet.tell(B)
    await fleet.look()
    await fleet.look()
    assert fleet.images() == "2 2 2"


async def test_numbers_are_carried_out_while_pools_wait() -> None:
    fleet = await settled(A, B)
    fleet.start("headrace/worker:2")
    await fleet.look()
    fleet.put(B, replicas=7)
    await fleet.look(B)
    assert (fleet.deployment(B)["spec"]["replicas"], fleet.image(B)) == (7, "1")


async def test_so_many_pools_at_once_as_are_allowed() -> None:
    fleet = await settled(A, B, C)
    fleet.start("headrace/worker:2", pools_at_once=2)
    await fleet.look()
    assert fleet.images() == "2 2 1"


async def test_a_pool_at_zero_is_changed_at_once_and_one_with_its_own_image_not_at_all() -> None:
    fleet = await settled(A, B, C)
    fleet.put(B, replicas=0)
    fleet.put(C, image="shop:7")
    await fleet.look()
    fleet.tell(C)
    fleet.start("headrace/worker:2")
    before = fleet.deployment(C)["metadata"]["generation"]
    await fleet.look()
    assert fleet.images() == "2 2 7"
    assert fleet.deployment(C)["metadata"]["generation"] == before
    assert fleet.updated(C) == ("True", "UpToDate")


async def test_what_users_change_waits_for_no_turn() -> None:
    fleet = await settled(A, B, C)
    fleet.start("headrace/worker:2")
    await fleet.look()
    fleet.put(C, maxConcurrentJobs=3)
    await fleet.look(C)
    assert fleet.images() == "2 1 2"


async def test_workers_are_replaced_at_once_where_a_queues_binding_is_another() -> None:
    fleet = await settled(A, B)
    fleet.put_queue("shop", revision="2")
    await fleet.look()
    revisions = [
        fleet.deployment(key)["spec"]["template"]["metadata"]["annotations"]["headrace.dev/binding-revision"]
        for key in (A, B)
    ]
    assert revisions == ["2", "2"]


async def test_a_pool_that_does_not_come_up_ends_the_row_of_its_namespace_and_of_no_other() -> None:
    fleet = await settled(A, B, MAIL)
    fleet.start("headrace/worker:2")
    await fleet.look(A, B)
    await fleet.look(MAIL)
    assert fleet.images() == "2 1 1"
    fleet.tell(A, STUCK, ready=1)
    await fleet.look()
    await fleet.look()
    assert fleet.images() == "2 1 2"
    assert fleet.updated(A) == ("False", "ProgressDeadlineExceeded")
    assert fleet.updated(B) == ("False", "ReleaseStopped")
    assert fleet.cluster.events.count(("Warning", "ProgressDeadlineExceeded")) == 1
    fleet.put(A, maxConcurrentJobs=3)
    await fleet.look(A)
    fleet.tell(MAIL)
    await fleet.look()
    await fleet.look()
    assert fleet.image(B) == "2"


async def test_a_pool_that_did_not_come_up_and_is_scaled_to_zero_still_ends_the_row_until_a_worker_is_ready() -> None:
    fleet = await settled(A, B)
    fleet.start("headrace/worker:2")
    await fleet.look()
    fleet.tell(A, STUCK, ready=0)
    await fleet.look()
    fleet.put(A, replicas=0)
    await fleet.look(A)
    fleet.tell(A, UPDATED, ready=0)
    await fleet.look()
    assert (fleet.images(), fleet.updated(B)) == ("2 1", ("False", "ReleaseStopped"))
    fleet.start("headrace/worker:2")
    await fleet.look(B, A)
    assert fleet.image(B) == "1"
    fleet.put(A, replicas=2)
    await fleet.look(A)
    fleet.tell(A, PROGRESSING, ready=0)
    await fleet.look()
    assert fleet.image(B) == "1"
    fleet.tell(A, UPDATED, ready=2)
    await fleet.look()
    await fleet.look()
    assert fleet.images() == "2 2"
    # What it has shown it has shown: a later zero is one like any other.
    fleet.put(A, replicas=0)
    await fleet.look(A)
    fleet.tell(A, UPDATED, ready=0)
    await fleet.look(A)
    assert fleet.updated(A) == ("True", "UpToDate")


async def test_the_next_release_begins_with_the_pool_that_the_last_one_broke() -> None:
    fleet = await settled(A, B, C)
    fleet.start("headrace/worker:2")
    await fleet.look(B, A, C)
    assert fleet.images() == "1 2 1"
    fleet.tell(B, STUCK, ready=1)
    fleet.start("headrace/worker:3")
    await fleet.look(B, A, C)
    assert fleet.images() == "1 3 1"


async def test_an_operator_that_starts_goes_on_where_the_last_one_ended() -> None:
    fleet = await settled(A, B, C)
    fleet.start("headrace/worker:2")
    await fleet.look()
    fleet.tell(A, PROGRESSING)
    fleet.start("headrace/worker:2")
    await fleet.look(C, B, A)
    assert fleet.images() == "2 1 1"
    fleet.tell(A)
    await fleet.look()
    await fleet.look()
    assert fleet.images() == "2 2 1"


async def test_a_pool_that_is_deleted_in_its_turn_does_not_hold_it() -> None:
    fleet = await settled(A, B)
    fleet.start("headrace/worker:2")
    await fleet.look()
    await fleet.cluster.delete("apps/v1", "Deployment", A)
    fleet.start("headrace/worker:2")
    await fleet.look(B)
    assert fleet.image(B) == "2"


async def test_a_pool_that_was_broken_before_comes_last_and_stops_nobody() -> None:
    fleet = await settled(A, B, C)
    fleet.tell(A, UPDATED, ready=0)
    fleet.start("headrace/worker:2")
    # A restart shows pools in any order: the first to ask has its turn, unless it is known that others are before it.
    await fleet.look(B, A, C)
    fleet.tell(B)
    await fleet.look(B, C)
    assert fleet.images() == "1 2 2"
    fleet.tell(C)
    await fleet.look()
    await fleet.look()
    fleet.tell(A, STUCK, ready=0)
    await fleet.look()
    assert fleet.updated(A) == ("False", "ProgressDeadlineExceeded")


async def test_a_pool_that_the_api_server_refuses_lets_others_pass() -> None:
    fleet = await settled(A, B)
    fleet.start("headrace/worker:2")
    fleet.cluster.apply_failures["Deployment"] = RefusedError("Forbidden", "denied by a policy")
    with pytest.raises(OperatorError):
        await fleet.look(A)
    fleet.cluster.apply_failures.clear()
    assert fleet.updated(A) == ("False", "Forbidden")
    await fleet.look(B)
    assert fleet.images() == "1 2"


async def test_a_pool_that_can_not_be_changed_in_its_turn_lets_others_pass() -> None:
    fleet = await settled(A, B, C)
    fleet.start("headrace/worker:2")
    await fleet.look()
    assert fleet.images() == "2 1 1"
    fleet.tell(A, PROGRESSING)
    # B waits, and before its turn comes its queue is another one that there is not.
    fleet.put(B, queueRef={"name": "lost"})
    with pytest.raises(OperatorError):
        await fleet.look(B)
    fleet.tell(A)
    await fleet.look(A, C)
    assert fleet.images() == "2 1 2"


@pytest.mark.parametrize("trouble", [{"queueRef": {"name": "lost"}}, {"handler": {}}], ids=["no queue", "no spec"])
async def test_a_pool_in_trouble_while_its_workers_are_replaced_holds_the_turn_no_longer_than_that(
    trouble: dict[str, Any],
) -> None:
    fleet = await settled(A, MAIL)
    fleet.start("headrace/worker:2")
    await fleet.look()
    fleet.tell(A, PROGRESSING)
    fleet.put(A, **trouble)
    with pytest.raises(OperatorError):
        await fleet.look(A)
    await fleet.look(MAIL)
    assert fleet.images() == "2 1"
    fleet.tell(A)
    with pytest.raises(OperatorError):
        await fleet.look(A)
    await fleet.look(MAIL)
    assert fleet.images() == "2 2"


async def test_a_pool_that_waits_to_be_gone_waits_for_no_turn() -> None:
    fleet = await settled(A, B)
    fleet.start("headrace/worker:2")
    await fleet.look()
    fleet.tell(A, PROGRESSING)
    pool = fleet.cluster.find("JobWorkerPool", A)
    assert pool is not None
    leaving = {**pool["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["backup.example/hold"]}
    fleet.cluster.put({**pool, "metadata": leaving})
    await fleet.look()
    assert fleet.image(B) == "2"


async def test_workers_whose_pool_is_gone_hold_no_turn() -> None:
    fleet = await settled(A, B)
    fleet.start("headrace/worker:2")
    await fleet.look()
    fleet.tell(A, PROGRESSING)
    # As `kubectl delete --cascade=orphan` leaves them.
    orphan = fleet.deployment(A)
    metadata = {name: value for name, value in orphan["metadata"].items() if name != "ownerReferences"}
    fleet.cluster.put({**orphan, "metadata": metadata})
    await fleet.cluster.delete(API_VERSION, "JobWorkerPool", A)
    fleet.start("headrace/worker:2")
    await fleet.look(B)
    assert fleet.image(B) == "2"


async def test_a_pool_that_the_api_server_refuses_keeps_no_broken_one_from_its_turn() -> None:
    fleet = await settled(A, B)
    fleet.tell(A, UPDATED, ready=0)
    fleet.tell(B, UPDATED, ready=0)
    fleet.start("headrace/worker:2")
    fleet.cluster.apply_failures["Deployment"] = RefusedError("Forbidden", "denied by a policy")
    with pytest.raises(OperatorError):
        await fleet.look(A)
    fleet.cluster.apply_failures.clear()
    await fleet.look(B)
    assert fleet.images() == "1 2"


async def test_a_deployment_that_somebody_has_paused_holds_no_turn_and_says_nothing_of_the_release() -> None:
    fleet = await settled(A, B)
    fleet.start("headrace/worker:2")
    await fleet.look()
    fleet.tell(A, PAUSED)
    await fleet.look(A)
    assert fleet.updated(A) == ("False", "DeploymentPaused")
    await fleet.look(B)
    assert fleet.images() == "2 2"
    fleet.tell(A)
    await fleet.look(A)
    assert fleet.updated(A) == ("True", "UpToDate")


async def test_a_number_that_changes_later_is_no_replacing_of_workers() -> None:
    fleet = await settled(A)
    fleet.put(A, replicas=5)
    await fleet.look(A)
    assert fleet.updated(A) == ("True", "UpToDate")


def test_turns_go_to_the_first_that_wait_within_what_is_allowed() -> None:
    row = {
        A: Stage.WAITING_BROKEN,
        B: Stage.WAITING,
        C: Stage.WAITING_HALFWAY,
        MAIL: Stage.STOPPED,
        ObjectKey("mail", "b"): Stage.WAITING_HALFWAY,
    }
    assert turns(row, 1) == {C}
    assert turns(row, 2) == {C, B}
    assert turns({**row, C: Stage.UNDER_WAY}, 1) == set()
    assert turns({**row, C: Stage.UNDER_WAY}, 9) == {A, B}
    assert turns({}, 1) == set()


@pytest.mark.parametrize(
    ("generation", "status", "progress"),
    [
        (2, {}, RolloutProgress.COMPLETE),
        (2, {"observedGeneration": 1, "conditions": [UPDATED]}, RolloutProgress.UNDER_WAY),
        (2, {"observedGeneration": 2, "conditions": [UPDATED]}, RolloutProgress.COMPLETE),
        (2, {"observedGeneration": 2, "conditions": [PROGRESSING]}, RolloutProgress.UNDER_WAY),
        (2, {"observedGeneration": 2, "conditions": [STUCK]}, RolloutProgress.FAILED),
    ],
    ids=["no controller", "not seen yet", "complete", "under way", "past its deadline"],
)
def test_how_it_goes_is_what_the_deployments_controller_says(
    generation: int, status: dict[str, Any], progress: RolloutProgress
) -> None:
    assert progress_of({"metadata": {"generation": generation}, "status": status}) is progress


def asked(revision: str | None = "1", secrets: dict[str, str] | None = None, **spec: Any) -> str:
    metadata = {"namespace": "shop", "name": "work", "uid": "u"}
    postgres = {"connection": {"secretRef": {"name": "pg"}}}
    queue = {"apiVersion": API_VERSION, "kind": "JobQueue", "metadata": metadata}
    spec = {"queueRef": {"name": "work"}, "handler": {"exec": {"command": ["true"]}}, **spec}
    pool = parse({**queue, "kind": "JobWorkerPool", "spec": spec}, JobWorkerPool)
    worked = WorkedQueue(
        parse({**queue, "spec": {"provider": "Postgres", "postgres": postgres}}, JobQueue), {}, revision
    )
    return asked_digest(pool, [worked], secrets or {})


def test_what_is_asked_for_is_the_same_with_its_defaults_written_out() -> None:
    strategy = {"type": "RollingUpdate"}
    assert asked(pollIntervalSeconds=5, retry={"jitter": 0.2}, strategy=strategy, template={}) == asked()


def test_how_many_workers_there_are_is_not_what_they_run() -> None:
    assert asked(replicas=3, autoscaling={"mode": "Direct"}) == asked()


@pytest.mark.parametrize(
    "other",
    [
        {"revision": "2"},
        {"secrets": {"redis": "17"}},
        {"maxConcurrentJobs": 3},
        {"template": {"metadata": {"labels": {"a": "b"}}}},
    ],
)
def test_whatever_workers_run_or_read_is_asked_for(other: dict[str, Any]) -> None:
    assert asked(**other) != asked()
