"""JobQueues: what a real cluster can't show in little time, or not on demand."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_operator.core.conditions import find
from headrace_operator.core.limits import BackendLimits
from headrace_operator.core.model import (
    ObjectKey,
    OperatorError,
    PassingError,
    QueueDepth,
    RefusedError,
    SampleSource,
)
from headrace_operator.reconcile.objects import ObjectStore
from headrace_operator.reconcile.observations import Observations
from headrace_operator.reconcile.queue import QueueReconciler
from headrace_operator.reconcile.secrets import Secrets
from support.memory_cluster import Manifest, MemoryBackend, MemoryCluster, SetClock

KEY = ObjectKey("shop", "thumbnails")
FINALIZER = "headrace.dev/provisioned"


class Scene:
    """One queue in a cluster in memory."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.objects = ObjectStore()
        self.cluster = MemoryCluster(self.objects)
        self.backend = MemoryBackend(self.clock)
        self.woken: list[ObjectKey] = []
        self.reconciler = QueueReconciler(
            cluster=self.cluster,
            secrets=Secrets(self.cluster, self.clock),
            providers={"Postgres": self.backend},
            sampling=self.backend,
            objects=self.objects,
            observations=Observations(self.clock),
            clock=self.clock,
            wake_pools=self.woken.append,
        )
        self.cluster.secrets[ObjectKey("shop", "pg")] = {"dsn": b"postgresql://u:p@db/shop"}
        self.put()

    def put(self, metadata: dict[str, Any] | None = None, **spec: Any) -> None:
        stored = self.cluster.find("JobQueue", KEY) or {}
        self.cluster.put(
            {
                **stored,
                "apiVersion": "headrace.dev/v1alpha1",
                "kind": "JobQueue",
                "metadata": {**stored.get("metadata", {"namespace": "shop", "name": "thumbnails"}), **(metadata or {})},
                "spec": {"provider": "Postgres", "postgres": {"connection": {"secretRef": {"name": "pg"}}}, **spec},
            }
        )

    async def look(self, *, seconds: float = 5) -> None:
        self.clock.move(seconds)
        await self.reconciler.reconcile(KEY)

    @property
    def queue(self) -> Manifest:
        found = self.cluster.find("JobQueue", KEY)
        assert found is not None
        return found

    def reason(self, type_: str = "Ready") -> str:
        condition = find(self.queue["status"]["conditions"], type_)
        assert condition is not None
        return str(condition["reason"])

    def message(self, type_: str = "Ready") -> str:
        condition = find(self.queue["status"]["conditions"], type_)
        assert condition is not None
        return str(condition["message"])


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_look_at_which_nothing_has_changed_writes_nothing(scene: Scene) -> None:
    await scene.look()
    scene.cluster.journal.clear()
    for _ in range(20):
        await scene.look()
    assert scene.cluster.journal == []


async def test_the_depth_is_written_when_it_changes_and_every_five_seconds_at_most(scene: Scene) -> None:
    await scene.look()
    scene.cluster.journal.clear()
    for ready in range(1, 21):
        scene.backend.depth = QueueDepth(ready=ready)
        await scene.look(seconds=1)
    assert len(scene.cluster.journal) == 4
    assert scene.queue["status"]["depth"]["ready"] == 20


async def test_the_depth_tells_what_is_blocked_and_whether_counting_stopped(scene: Scene) -> None:
    scene.backend.depth = QueueDepth(ready=1, blocked=7, is_lower_bound=True)
    await scene.look()
    depth = scene.queue["status"]["depth"]
    assert (depth["ready"], depth["blocked"], depth["isLowerBound"]) == (1, 7, True)


async def test_a_pause_shows_with_where_it_was_made(scene: Scene) -> None:
    scene.backend.depth = QueueDepth(ready=1, paused=True)
    await scene.look()
    assert scene.reason() == "Paused"
    assert "paused by hand" in scene.message()
    scene.put({"annotations": {"headrace.dev/paused": "true"}})
    await scene.look()
    assert "the annotation headrace.dev/paused holds the queue" in scene.message()
    scene.put({"annotations": {}})
    scene.backend.depth = QueueDepth(ready=1)
    await scene.look()
    assert scene.reason() == "Ready"


async def test_what_the_backend_can_not_do_is_said_and_nothing_is_made(scene: Scene) -> None:
    scene.backend.backend_limits = BackendLimits(max_hold_seconds=43200, max_delay_seconds=900, can_pause=False)
    scene.put(visibilityTimeoutSeconds=43201)
    with pytest.raises(RefusedError, match=r"spec.visibilityTimeoutSeconds is 43201: provider Postgres takes 43200"):
        await scene.look()
    assert scene.reason() == "UnsupportedByProvider"
    scene.put({"annotations": {"headrace.dev/paused": "true"}}, visibilityTimeoutSeconds=43200)
    with pytest.raises(RefusedError, match=r"no queue that can be paused"):
        await scene.look()
    assert scene.backend.ensured == 0
    scene.put({"annotations": {}}, visibilityTimeoutSeconds=43200)
    await scene.look()
    assert (scene.reason(), scene.backend.ensured) == ("Ready", 1)


async def test_an_age_alone_is_written_when_it_has_grown_by_half_a_minute(scene: Scene) -> None:
    await scene.look()
    scene.cluster.journal.clear()
    for round_ in range(1, 13):
        scene.backend.depth = QueueDepth(ready=1, oldest_ready_age_seconds=5.0 * round_)
        await scene.look()
    assert len(scene.cluster.journal) == 2


async def test_events_tell_transitions_only(scene: Scene) -> None:
    await scene.look()
    await scene.look()
    scene.backend.break_off()
    for _ in range(3):
        with pytest.raises(OperatorError):
            await scene.look()
    scene.backend.failure = None
    await scene.look()
    assert scene.cluster.events == [("Normal", "Ready"), ("Warning", "BackendUnreachable"), ("Normal", "Ready")]


async def test_the_pools_are_told_when_the_queue_breaks_and_heals(scene: Scene) -> None:
    await scene.look()
    scene.woken.clear()
    await scene.look()
    assert scene.woken == []
    scene.backend.break_off()
    with pytest.raises(OperatorError):
        await scene.look()
    scene.backend.failure = None
    await scene.look()
    assert scene.woken == [KEY, KEY]


async def test_delete_has_its_finalizer_before_anything_is_made(scene: Scene) -> None:
    scene.put(deletionPolicy="Delete")
    await scene.look()
    assert scene.cluster.journal[0] == ("finalizer", FINALIZER, "True")


async def test_delete_waits_a_minute_for_a_backend_that_is_away_and_then_lets_go_with_a_warning(scene: Scene) -> None:
    scene.put(deletionPolicy="Delete")
    await scene.look()
    scene.backend.break_off()
    scene.put({"deletionTimestamp": scene.clock.now().isoformat()}, deletionPolicy="Delete")
    for _ in range(11):
        with pytest.raises(OperatorError):
            await scene.look()
    assert scene.queue["metadata"]["finalizers"] == [FINALIZER]
    assert scene.reason() == "BackendUnreachable"
    await scene.look()
    assert scene.queue["metadata"]["finalizers"] == []
    assert scene.cluster.events[-1] == ("Warning", "CleanupAbandoned")


async def test_delete_finishes_when_the_backend_is_back_in_time(scene: Scene) -> None:
    scene.put(deletionPolicy="Delete")
    await scene.look()
    scene.backend.break_off()
    scene.put({"deletionTimestamp": scene.clock.now().isoformat()}, deletionPolicy="Delete")
    with pytest.raises(OperatorError):
        await scene.look()
    scene.backend.failure = None
    await scene.look()
    assert [place.queue for place in scene.backend.removed] == ["thumbnails"]
    assert scene.queue["metadata"]["finalizers"] == []


async def test_a_policy_switched_to_retain_while_the_queue_goes_is_obeyed(scene: Scene) -> None:
    scene.put(deletionPolicy="Delete")
    await scene.look()
    scene.put({"deletionTimestamp": scene.clock.now().isoformat()}, deletionPolicy="Retain")
    await scene.look()
    assert scene.backend.removed == []
    assert scene.queue["metadata"]["finalizers"] == []


async def test_a_spec_that_can_no_longer_be_read_does_not_keep_the_object(scene: Scene) -> None:
    deleted = {"deletionTimestamp": scene.clock.now().isoformat(), "finalizers": [FINALIZER]}
    scene.put(deleted, provider="Floppy", deletionPolicy="Delete")
    with pytest.raises(OperatorError):
        await scene.look()
    assert scene.reason() == "InvalidSpec"
    await scene.look(seconds=60)
    assert scene.queue["metadata"]["finalizers"] == []


async def test_a_sound_queue_is_made_sure_of_every_minute(scene: Scene) -> None:
    for _ in range(25):
        await scene.look()
    assert scene.backend.ensured == 3


async def test_changed_settings_are_brought_about_at_once(scene: Scene) -> None:
    await scene.look()
    scene.put(maxRetries=7)
    await scene.look()
    assert scene.backend.ensured == 2


async def test_where_workers_tell_the_depth_the_backend_is_asked_no_more_often(scene: Scene) -> None:
    scene.backend.source = SampleSource.WORKERS
    for _ in range(5):
        await scene.look()
    assert scene.backend.ensured == 1


async def test_a_binding_that_somebody_deletes_is_back_within_a_minute(scene: Scene) -> None:
    await scene.look()
    await scene.cluster.delete("v1", "Secret", ObjectKey("shop", "thumbnails-binding"))
    await scene.look()
    await scene.look(seconds=60)
    assert scene.cluster.find("Secret", ObjectKey("shop", "thumbnails-binding")) is not None


async def test_an_api_server_that_is_away_says_nothing_of_the_queue(scene: Scene) -> None:
    await scene.look()
    scene.cluster.secret_failure = PassingError("ApiServerTimeout", "the API server did not answer in time")
    with pytest.raises(PassingError):
        await scene.look(seconds=60)
    assert scene.reason() == "Ready"


async def test_a_queue_whose_end_the_watch_has_missed_is_not_made_again(scene: Scene) -> None:
    await scene.cluster.delete("headrace.dev/v1alpha1", "JobQueue", KEY)
    with pytest.raises(PassingError, match="is gone"):
        await scene.look()
    await scene.look()
    assert scene.backend.ensured == 0


def several_connections(**changes: Any) -> dict[str, Any]:
    """A spec.postgres that names a Secret for each connection."""
    names = {"connection": "pg", "adminConnection": "pg-admin", "directConnection": "pg-direct"}
    return {field: {"secretRef": {"name": name}} for field, name in names.items()} | changes


@pytest.fixture
def pooled(scene: Scene) -> Scene:
    """A database behind a pooler, and a user of its own for the tables."""
    scene.cluster.secrets |= {
        ObjectKey("shop", "pg-admin"): {"dsn": b"postgresql://owner:p@db/shop"},
        ObjectKey("shop", "pg-direct"): {"dsn": b"postgresql://u:p@db-0.db/shop"},
    }
    scene.put(postgres=several_connections())
    return scene


async def test_each_connection_comes_from_its_secret_and_is_seen_from_the_operators_namespace(pooled: Scene) -> None:
    await pooled.look()
    place = pooled.backend.places[-1]
    assert (place.backend.dsn, place.admin_dsn, place.backend.direct_dsn) == (
        "postgresql://u:p@db.shop.svc/shop",
        "postgresql://owner:p@db.shop.svc/shop",
        "postgresql://u:p@db-0.db/shop",
    )


@pytest.mark.parametrize("name", ["pg", "pg-admin", "pg-direct"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "SecretNotFound"),
        ({"url": b"postgresql://u:p@db/shop"}, "SecretKeyMissing"),
        ({"dsn": b"no DSN"}, "InvalidConnection"),
    ],
)
async def test_a_wrong_secret_of_any_connection_shows_and_heals(
    pooled: Scene, name: str, content: dict[str, bytes] | None, reason: str
) -> None:
    sound = pooled.cluster.secrets.pop(ObjectKey("shop", name))
    if content is not None:
        pooled.cluster.secrets[ObjectKey("shop", name)] = content
    with pytest.raises(OperatorError, match=name):
        await pooled.look()
    assert pooled.reason() == pooled.reason("Provisioned") == reason
    pooled.cluster.secrets[ObjectKey("shop", name)] = sound
    await pooled.look(seconds=60)
    assert pooled.reason() == "Ready"


async def test_a_rotated_secret_of_any_connection_is_brought_about_within_a_minute(pooled: Scene) -> None:
    await pooled.look()
    for name in ("pg", "pg-admin", "pg-direct"):
        pooled.cluster.secrets[ObjectKey("shop", name)] = {"dsn": b"postgresql://u:rotated@elsewhere/shop"}
        await pooled.look(seconds=60)
    assert pooled.backend.ensured == 4


async def test_delete_needs_no_connection_but_the_one_that_removes(pooled: Scene) -> None:
    pooled.put({"finalizers": [FINALIZER]}, deletionPolicy="Delete", postgres=several_connections())
    pooled.put(
        {"deletionTimestamp": pooled.clock.now().isoformat()}, deletionPolicy="Delete", postgres=several_connections()
    )
    del pooled.cluster.secrets[ObjectKey("shop", "pg")]
    del pooled.cluster.secrets[ObjectKey("shop", "pg-direct")]
    await pooled.look()
    assert [place.admin_dsn for place in pooled.backend.removed] == ["postgresql://owner:p@db.shop.svc/shop"]


async def test_the_status_tells_what_the_database_server_can_take(scene: Scene) -> None:
    await scene.look()
    assert scene.queue["status"]["postgres"] == {"schemaVersion": 1}
    scene.backend.status = {"schemaVersion": 1, "maxConnections": 97, "connectionsPerWorker": 2}
    await scene.look(seconds=60)
    assert scene.queue["status"]["postgres"] == {
        "schemaVersion": 1,
        "maxConnections": 97,
        "connectionsPerWorker": 2,
    }
