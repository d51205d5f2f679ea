"""JobQueues: what a real cluster can't show in little time, or not on demand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace_operator.core.conditions import find
from headrace_operator.core.limits import BackendLimits
from headrace_operator.core.model import (
    ConflictError,
    Finding,
    ObjectKey,
    OperatorError,
    PassingError,
    QueueDepth,
    RefusedError,
    SampleSource,
    TransientError,
)
from headrace_operator.providers.postgres import PostgresProvider
from headrace_operator.reconcile.gate import Gate
from headrace_operator.reconcile.objects import ObjectStore
from headrace_operator.reconcile.queue import QueueReconciler
from headrace_operator.reconcile.secrets import Secrets
from support.memory_cluster import Manifest, MemoryBackend, MemoryCluster, SetClock

KEY = ObjectKey("shop", "thumbnails")
BINDING = ObjectKey("shop", "thumbnails-binding")
FINALIZER = "headrace.dev/provisioned"


class Scene:
    """One queue in a cluster in memory."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.objects = ObjectStore()
        self.cluster = MemoryCluster(self.objects)
        self.backend = MemoryBackend(self.clock)
        self.woken: list[ObjectKey] = []
        self.restart()
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

    def restart(self) -> None:
        """An operator that knows of nothing yet."""
        self.gate = Gate()
        self.own_wakes: list[ObjectKey] = []
        self.due_seconds: list[float] = []
        self.reconciler = QueueReconciler(
            cluster=self.cluster,
            secrets=Secrets(self.cluster, self.clock),
            providers={"Postgres": self.backend},
            sampling=self.backend,
            objects=self.objects,
            clock=self.clock,
            gate=self.gate,
            wake=self.own_wakes.append,
            wake_pools=self.woken.append,
            look_within=lambda _, seconds: self.due_seconds.append(seconds),
        )

    async def look(self, *, seconds: float = 5) -> None:
        """A look, and those for which it, or what it began, asks."""
        self.clock.move(seconds)
        self.own_wakes.append(KEY)
        while self.own_wakes:
            self.own_wakes.clear()
            await self.reconciler.reconcile(KEY)
            await self.settle()

    async def settle(self) -> None:
        """Until all tasks wait for something that does not come by itself."""
        for _ in range(20):
            await asyncio.sleep(0)

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


async def test_the_depth_is_written_when_it_changes_and_every_half_minute_at_most(scene: Scene) -> None:
    await scene.look()
    scene.cluster.journal.clear()
    for ready in range(1, 121):
        scene.backend.depth = QueueDepth(ready=ready)
        await scene.look(seconds=1)
    assert len(scene.cluster.journal) == 4
    assert scene.queue["status"]["depth"]["ready"] == 120


async def test_a_depth_that_changes_soon_after_it_was_written_is_written_when_that_is_due(scene: Scene) -> None:
    await scene.look()
    scene.backend.depth = QueueDepth(ready=7)
    scene.clock.move(10)
    seconds = await scene.reconciler.reconcile(KEY)
    assert (seconds, scene.queue["status"]["depth"]["ready"]) == (20, 0)
    await scene.look(seconds=20)
    assert scene.queue["status"]["depth"]["ready"] == 7


async def test_the_depth_is_written_with_a_condition_that_changes(scene: Scene) -> None:
    await scene.look()
    scene.backend.depth = QueueDepth(ready=7, paused=True)
    await scene.look(seconds=1)
    assert (scene.reason(), scene.queue["status"]["depth"]["ready"]) == ("Paused", 7)


async def test_the_depth_tells_what_is_blocked_and_whether_counting_stopped(scene: Scene) -> None:
    scene.backend.depth = QueueDepth(ready=1, blocked=7, is_lower_bound=True)
    await scene.look()
    depth = scene.queue["status"]["depth"]
    assert (depth["ready"], depth["blocked"], depth["isLowerBound"]) == (1, 7, True)


async def test_a_count_that_may_be_behind_is_told_as_one_and_an_exact_one_is_not(scene: Scene) -> None:
    scene.backend.depth = QueueDepth(ready=1)
    await scene.look()
    assert "isApproximate" not in scene.queue["status"]["depth"]
    assert "approximate" not in str(scene.queue["status"]["conditions"])
    scene.backend.depth = QueueDepth(ready=2, is_approximate=True)
    await scene.look(seconds=60)
    assert scene.queue["status"]["depth"]["isApproximate"] is True
    assert "its counts are approximate, and may be a minute behind" in str(scene.queue["status"]["conditions"])


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
    scene.backend.backend_limits = BackendLimits(max_hold_seconds=43200, max_retry_delay_seconds=900, can_pause=False)
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


@pytest.mark.parametrize("source", SampleSource)
async def test_nobody_logs_in_for_a_queue_of_which_nothing_has_changed(scene: Scene, source: SampleSource) -> None:
    scene.backend.source = source
    for round_ in range(60):
        scene.backend.depth = QueueDepth(ready=round_)
        await scene.look()
    assert (scene.backend.ensured, scene.backend.sessions) == (1, 1)


async def test_what_others_do_to_a_queue_is_undone_after_some_minutes(scene: Scene) -> None:
    await scene.look()
    await scene.look(seconds=PostgresProvider.resync_seconds / 2 - 1)
    assert scene.backend.ensured == 1
    await scene.look(seconds=PostgresProvider.resync_seconds + 1)
    assert scene.backend.ensured == 2


async def test_a_queue_that_waits_for_its_turn_is_not_looked_at_every_few_seconds(scene: Scene) -> None:
    scene.backend.held_up.clear()
    assert await scene.reconciler.reconcile(KEY) == 5
    scene.clock.move(5)
    assert await scene.reconciler.reconcile(KEY) == 30
    assert scene.reason("Provisioned") == "Provisioning"


async def test_changed_settings_are_brought_about_at_once(scene: Scene) -> None:
    await scene.look()
    scene.put(maxRetries=7)
    await scene.look()
    assert scene.backend.ensured == 2


async def test_a_binding_that_somebody_deletes_is_back_after_some_minutes_and_no_other(scene: Scene) -> None:
    await scene.look()
    await scene.cluster.delete("v1", "Secret", BINDING)
    await scene.look(seconds=600)
    assert scene.backend.ensured == 1
    assert scene.cluster.find("Secret", BINDING) is not None
    assert scene.queue["status"]["binding"] == {"name": "thumbnails-binding", "revision": "1"}


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
    await scene.look(seconds=1.5 * PostgresProvider.resync_seconds)
    assert scene.queue["status"]["postgres"] == {
        "schemaVersion": 1,
        "maxConnections": 97,
        "connectionsPerWorker": 2,
    }


class TestLongWork:
    """A look does not wait for it, and does not cut it off."""

    async def test_a_new_queue_that_takes_long_says_so_and_that_is_no_warning(self, scene: Scene) -> None:
        scene.backend.held_up.clear()
        await scene.look()
        assert "status" not in scene.queue, "mostly it ends in a moment"
        await scene.look()
        assert (scene.reason(), scene.reason("Provisioned")) == ("Provisioning", "Provisioning")
        scene.backend.held_up.set()
        await scene.settle()
        assert scene.own_wakes, "its end asks for a look"
        await scene.look()
        assert (scene.reason(), scene.backend.attempts) == ("Ready", 1)
        assert scene.cluster.events == [("Normal", "Ready")]

    async def test_a_migration_shows_its_step_and_since_when_and_the_queue_goes_on(self, scene: Scene) -> None:
        await scene.look()
        scene.backend.held_up.clear()
        scene.backend.step = "migrating schema headrace to version 2 (tables)"
        scene.put(maxRetries=7)
        for _ in range(60):
            await scene.look()
        assert scene.reason("Provisioned") == "Migrating"
        assert scene.message("Provisioned") == (
            "migrating schema headrace to version 2 (tables), since 2026-01-01T00:00:10Z"
        )
        assert scene.reason() == "Ready"
        assert scene.backend.attempts == 2, "one for each order, however often it is looked at"
        scene.backend.held_up.set()
        await scene.settle()
        await scene.look()
        assert scene.reason("Provisioned") == "Provisioned"

    async def test_an_attempt_after_a_failure_changes_nothing_until_it_has_ended(self, scene: Scene) -> None:
        scene.backend.break_off()
        with pytest.raises(OperatorError):
            await scene.look()
        scene.backend.held_up.clear()
        scene.cluster.journal.clear()
        for _ in range(5):
            await scene.look()
        assert (scene.reason(), scene.cluster.journal) == ("BackendUnreachable", [])

    async def test_what_a_client_times_out_with_is_said_like_any_failure(self, scene: Scene) -> None:
        scene.backend.crash = TimeoutError()
        with pytest.raises(OperatorError):
            await scene.look()
        assert scene.reason("Provisioned") == "BackendUnreachable"

    async def test_what_a_provider_fails_with_unexpectedly_is_said_too(self, scene: Scene) -> None:
        scene.backend.crash = ZeroDivisionError()
        with pytest.raises(OperatorError):
            await scene.look()
        assert scene.reason("Provisioned") == "ProvisioningFailed"
        scene.backend.crash = None
        await scene.look()
        assert scene.reason("Provisioned") == "Provisioned"

    async def test_a_queue_that_goes_gives_its_work_up(self, scene: Scene) -> None:
        scene.backend.held_up.clear()
        await scene.look()
        scene.objects.gone(scene.queue)
        await scene.look()
        scene.backend.held_up.set()
        await scene.settle()
        assert (scene.backend.attempts, scene.backend.ensured) == (1, 0)


class TestRemoval:
    @pytest.fixture
    async def going(self, scene: Scene) -> Scene:
        """A queue that is being deleted with its jobs."""
        scene.put(deletionPolicy="Delete")
        await scene.look()
        scene.put({"deletionTimestamp": scene.clock.now().isoformat()}, deletionPolicy="Delete")
        return scene

    async def test_one_that_outlasts_a_minute_does_not_keep_the_object(self, going: Scene) -> None:
        going.backend.held_up.clear()
        going.backend.step = "waiting for an application's transaction"
        for _ in range(11):
            await going.look()
        assert (going.reason(), going.queue["metadata"]["finalizers"]) == ("Removing", [FINALIZER])
        assert going.message() == "waiting for an application's transaction, since 2026-01-01T00:00:10Z"
        await going.look()
        await going.look()
        assert going.queue["metadata"]["finalizers"] == []
        assert going.cluster.events[-1] == ("Warning", "CleanupAbandoned")
        assert "jobs stay behind" in going.cluster.told[-1]
        assert "waiting for an application's transaction" in going.cluster.told[-1]
        going.backend.held_up.set()
        await going.settle()
        assert going.backend.removed == [], "what was said to stay, stays"

    async def test_one_that_is_given_up_is_neither_begun_nor_told_again(self, going: Scene) -> None:
        going.backend.held_up.clear()
        for _ in range(11):
            await going.look()
        going.cluster.finalizer_failures = 3
        for _ in range(3):
            with pytest.raises(ConflictError):
                await going.look()
        await going.look()
        assert going.queue["metadata"]["finalizers"] == []
        assert going.cluster.events.count(("Warning", "CleanupAbandoned")) == 1
        going.backend.held_up.set()
        await going.settle()
        assert (going.backend.attempts, going.backend.removed) == (2, [])

    async def test_one_whose_spec_can_not_be_read_is_tried_every_few_seconds_since_a_minute_is_all_it_has(
        self, going: Scene
    ) -> None:
        stored = going.queue
        going.cluster.put({**stored, "spec": {**stored["spec"], "postgres": {}}})
        with pytest.raises(TransientError) as raised:
            await going.look()
        assert raised.value.reason == going.reason() == "InvalidSpec"
        await going.look(seconds=60)
        assert going.queue["metadata"]["finalizers"] == []

    async def test_what_became_of_it_is_told_once(self, going: Scene) -> None:
        going.cluster.finalizer_failures = 1
        with pytest.raises(ConflictError):
            await going.look()
        await going.look()
        assert going.queue["metadata"]["finalizers"] == []
        assert going.cluster.events.count(("Normal", "Removed")) == 1

    async def test_an_operator_that_finds_it_late_tries_for_a_moment(self, going: Scene) -> None:
        going.clock.move(1800)
        going.restart()
        going.backend.jobs = 3
        await going.look()
        assert going.queue["metadata"]["finalizers"] == []
        assert going.cluster.events[-1] == ("Normal", "Removed")

    async def test_an_operator_that_finds_it_late_tries_for_no_longer(self, going: Scene) -> None:
        going.clock.move(1800)
        going.restart()
        going.backend.held_up.clear()
        await going.look()
        assert going.queue["metadata"]["finalizers"] == [FINALIZER]
        await going.look()
        assert going.queue["metadata"]["finalizers"] == []

    @pytest.mark.parametrize(
        ("jobs", "event", "words"),
        [
            (1, ("Normal", "Removed"), "queue thumbnails in schema headrace is removed, with 1 job"),
            (1200, ("Normal", "Removed"), "with 1200 jobs"),
            (None, ("Warning", "NotRemoved"), "isn't this JobQueue's any more: nothing was removed"),
        ],
    )
    async def test_what_became_of_the_jobs_is_told(
        self, going: Scene, jobs: int | None, event: tuple[str, str], words: str
    ) -> None:
        going.backend.jobs = jobs
        await going.look()
        assert going.queue["metadata"]["finalizers"] == []
        assert going.cluster.events[-1] == event
        assert words in going.cluster.told[-1]


class TestStart:
    """Of the operator, over a queue that was in order before."""

    async def test_nothing_is_false_before_the_depth_was_read(self, scene: Scene) -> None:
        await scene.look()
        scene.restart()
        scene.backend.has_read = False
        scene.backend.held_up.clear()
        scene.cluster.journal.clear()
        for _ in range(6):
            await scene.look()
        assert scene.cluster.journal == []

    async def test_a_depth_that_nobody_tells_for_half_a_minute_is_unknown(self, scene: Scene) -> None:
        await scene.look()
        scene.restart()
        scene.backend.has_read = False
        await scene.look()
        with pytest.raises(OperatorError):
            await scene.look(seconds=30)
        assert scene.reason("Synced") == scene.reason() == "DepthUnknown"

    async def test_what_the_binding_names_is_read_before_it_is_made_sure_of(self, scene: Scene) -> None:
        await scene.look()
        scene.restart()
        scene.backend.followed.clear()
        scene.backend.held_up.clear()
        await scene.look()
        assert [place.label for place in scene.backend.followed.values()] == ["queue thumbnails in schema headrace"]

    async def test_what_the_binding_does_not_name_is_not(self, scene: Scene) -> None:
        await scene.look()
        scene.restart()
        scene.backend.followed.clear()
        scene.backend.held_up.clear()
        scene.cluster.secrets[ObjectKey("shop", "pg")] = {"dsn": b"postgresql://u:p@elsewhere/shop"}
        await scene.look()
        assert scene.backend.followed == {}


class TestBinding:
    async def test_its_revision_changes_with_its_content_and_with_nothing_else(self, scene: Scene) -> None:
        await scene.look()
        assert scene.queue["status"]["binding"]["revision"] == "1"
        scene.put(maxRetries=7)
        await scene.look()
        scene.restart()
        await scene.look()
        assert scene.queue["status"]["binding"]["revision"] == "1"
        scene.cluster.secrets[ObjectKey("shop", "pg")] = {"dsn": b"postgresql://u:rotated@db/shop"}
        scene.woken.clear()
        await scene.look(seconds=60)
        assert scene.queue["status"]["binding"]["revision"] == "2"
        assert scene.woken[-1] == KEY, "pools are to roll, once they can read the revision"
        secret = scene.cluster.find("Secret", BINDING)
        assert secret is not None
        assert secret["metadata"]["annotations"] == {"headrace.dev/binding-revision": "2"}

    async def test_one_that_was_changed_by_hand_is_put_back_under_a_revision_of_its_own(self, scene: Scene) -> None:
        await scene.look()
        secret = scene.cluster.find("Secret", BINDING)
        assert secret is not None
        scene.cluster.put({**secret, "data": {**secret["data"], "password": "b3RoZXI="}})
        scene.restart()
        await scene.look()
        assert scene.queue["status"]["binding"]["revision"] == "2"

    async def test_a_database_that_can_not_be_used_is_neither_bound_nor_read(self, scene: Scene) -> None:
        await scene.look()
        followed = dict(scene.backend.followed)
        scene.cluster.secrets[ObjectKey("shop", "pg")] = {"dsn": b"postgresql://u:p@elsewhere/shop"}
        scene.backend.crash = TransientError("CredentialsRefused", "refused")
        with pytest.raises(OperatorError):
            await scene.look(seconds=60)
        assert (scene.backend.followed, scene.queue["status"]["binding"]["revision"]) == (followed, "1")
        scene.backend.crash = None
        await scene.look()
        assert scene.backend.followed != followed
        assert scene.queue["status"]["binding"]["revision"] == "2"


async def test_the_place_is_registered_with_the_cluster_and_taken_over_where_the_annotation_asks_for_it(
    scene: Scene,
) -> None:
    await scene.look()
    scene.put({"annotations": {"headrace.dev/adopt": "uid-there"}})
    await scene.look()
    assert [(owner.cluster, owner.adopts_from) for owner in scene.backend.owners] == [
        ("here", ""),
        ("here", "uid-there"),
    ]


async def test_of_a_queue_that_was_made_anew_between_two_looks_nothing_is_taken_over(scene: Scene) -> None:
    await scene.look()
    scene.woken.clear()
    scene.backend.held_up.clear()
    await scene.cluster.delete("v1", "Secret", BINDING)
    scene.put({"uid": "another"})
    await scene.look()
    assert scene.backend.followed == {}, "what is read is that of the one before"
    assert scene.woken
    scene.backend.held_up.set()
    await scene.look()
    assert [place.label for place in scene.backend.followed.values()] == ["queue thumbnails in schema headrace"]


async def test_what_is_not_as_it_should_be_is_a_condition_and_an_event_and_goes_when_it_is_mended(
    scene: Scene,
) -> None:
    low = Finding("MaxReceiveCountTooLow", "raise it")
    scene.backend.provisioning_findings = [low]
    scene.backend.depth_findings = [Finding("RetentionNear", "run more workers"), low]
    await scene.look()
    assert (scene.reason(), scene.reason("Degraded")) == ("Ready", "MaxReceiveCountTooLow")
    assert scene.message("Degraded") == "raise it; run more workers"
    assert ("Warning", "MaxReceiveCountTooLow") in scene.cluster.events
    scene.backend.provisioning_findings = []
    scene.backend.depth_findings = []
    await scene.look(seconds=1.5 * PostgresProvider.resync_seconds)
    await scene.look()
    assert scene.reason("Degraded") == "AsItShouldBe"


async def test_of_a_queue_with_nothing_to_be_mended_that_is_not_said(scene: Scene) -> None:
    await scene.look()
    assert find(scene.queue["status"]["conditions"], "Degraded") is None


async def test_a_binding_that_only_provisioning_makes_known_is_made_then_and_known_after_a_start(scene: Scene) -> None:
    scene.backend.has_binding = False
    await scene.look()
    assert scene.reason() == "Ready"
    assert scene.cluster.find("Secret", BINDING) is not None
    scene.backend.followed.clear()
    scene.backend.held_up.clear()
    scene.restart()
    await scene.look()
    # Provisioning has not come to its end, and the depth is read all the same: the status tells the binding.
    assert scene.backend.followed


async def test_an_approximate_number_of_jobs_is_told_as_such(scene: Scene) -> None:
    scene.backend.counts_exactly, scene.backend.jobs = False, 3
    scene.put(deletionPolicy="Delete")
    await scene.look()
    scene.put({"deletionTimestamp": scene.clock.now().isoformat()}, deletionPolicy="Delete")
    await scene.look()
    assert any("is removed, with about 3 jobs" in message for message in scene.cluster.told)
