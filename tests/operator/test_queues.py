"""JobQueues, from the connection's Secret to the tables and the binding, and back."""

from __future__ import annotations

import base64
from typing import Any

import asyncpg
import pytest

from headrace.queues import from_url
from support.in_cluster import job_queue
from support.operator_world import World
from support.postgres import PostgresServer


def finalizers(world: World, name: str = "work") -> list[str]:
    found: list[str] = world.kubectl.get("jobqueue", name)["metadata"].get("finalizers", [])
    return found


async def wait_ready_message(world: World, words: str) -> None:
    def says_so(queue: dict[str, Any]) -> bool:
        conditions = queue.get("status", {}).get("conditions", [])
        return any(each["type"] == "Ready" and words in each["message"] for each in conditions)

    world.wait_object("jobqueue", "work", says_so, within_seconds=45, what=words)


async def registered_queues(world: World) -> set[str]:
    connection = await asyncpg.connect(world.dsn)
    try:
        return {row["name"] for row in await connection.fetch("SELECT name FROM headrace.queues")}
    finally:
        await connection.close()


async def test_a_queue_is_provisioned_and_bound_and_tells_its_depth(world: World) -> None:
    world.apply_ready_queue()
    queue = world.kubectl.get("jobqueue", "work")
    assert queue["status"]["binding"] == {"name": "work-binding", "revision": "1"}
    assert queue["status"]["observedGeneration"] == queue["metadata"]["generation"]
    assert queue["status"]["postgres"]["schemaVersion"] >= 1
    assert {(each["type"], each["status"]) for each in queue["status"]["conditions"]} == {
        ("Ready", "True"),
        ("Provisioned", "True"),
        ("Synced", "True"),
    }
    await world.enqueue(3)
    world.wait_object(
        "jobqueue", "work", lambda seen: seen["status"].get("depth", {}).get("ready") == 3, within_seconds=45
    )
    assert "Ready" in {event["reason"] for event in world.events("work")}


async def test_the_binding_is_owned_and_follows_the_connection(world: World) -> None:
    world.apply_ready_queue()
    binding = world.kubectl.get("secret", "work-binding")
    assert binding["type"] == "servicebinding.io/postgresql"
    assert binding["metadata"]["ownerReferences"][0]["name"] == "work"
    content = {name: base64.b64decode(value).decode() for name, value in binding["data"].items()}
    assert content["uri"] == world.dsn
    assert (content["type"], content["queue"], content["schema"]) == ("postgresql", "work", "headrace")

    other = f"{world.dsn}?application_name=rotated"
    world.apply_secret(other)
    world.wait_object(
        "secret",
        "work-binding",
        lambda seen: base64.b64decode(seen["data"]["uri"]).decode() == other,
        within_seconds=65,
    )
    world.wait_object("jobqueue", "work", lambda seen: seen["status"]["binding"]["revision"] == "2")


async def test_a_binding_of_somebody_else_is_not_taken(world: World) -> None:
    world.kubectl.run("create", "secret", "generic", "work-binding", "--from-literal=mine=yes")
    world.apply_secret()
    world.apply_queue()
    refused = world.wait_condition("jobqueue", "work", "Ready", status="False", reason="NameTaken")
    assert "Secret work-binding" in refused["message"]
    assert set(world.kubectl.get("secret", "work-binding")["data"]) == {"mine"}
    world.kubectl.delete("secret", "work-binding")
    world.wait_condition("jobqueue", "work", "Ready", status="True")


async def test_a_second_claimant_of_one_place_is_refused_until_the_first_is_gone(world: World, rival: World) -> None:
    world.apply_ready_queue(deletionPolicy="Delete")
    rival.apply_secret(world.dsn)
    rival.apply_queue()
    refused = rival.wait_condition("jobqueue", "work", "Ready", status="False", reason="NameTaken")
    assert world.kubectl.namespace in refused["message"]
    world.kubectl.delete("jobqueue", "work")
    rival.wait_condition("jobqueue", "work", "Ready", status="True")


async def test_retain_leaves_the_jobs_and_a_namesake_finds_them_again(world: World) -> None:
    world.apply_ready_queue()
    assert finalizers(world) == []
    await world.enqueue(3)
    world.kubectl.delete("jobqueue", "work")
    assert await registered_queues(world) == {"work"}
    world.apply_ready_queue()
    world.wait_object("jobqueue", "work", lambda seen: seen["status"].get("depth", {}).get("ready") == 3)


async def test_delete_takes_the_jobs_along_and_nothing_else(world: World) -> None:
    world.apply_ready_queue(deletionPolicy="Delete")
    world.apply_ready_queue("neighbour")
    assert finalizers(world) == ["headrace.dev/provisioned"]
    await world.enqueue(3)
    world.kubectl.delete("jobqueue", "work")
    assert await registered_queues(world) == {"neighbour"}


async def test_the_deletion_policy_can_be_switched_both_ways(world: World) -> None:
    world.apply_ready_queue()
    world.kubectl.apply(job_queue("work", deletionPolicy="Delete"))
    world.wait_object(
        "jobqueue", "work", lambda seen: seen["metadata"].get("finalizers") == ["headrace.dev/provisioned"]
    )
    world.kubectl.apply(job_queue("work", deletionPolicy="Retain"))
    world.wait_object("jobqueue", "work", lambda seen: "finalizers" not in seen["metadata"])
    world.kubectl.delete("jobqueue", "work")
    assert await registered_queues(world) == {"work"}


async def test_what_became_of_the_jobs_is_told_with_their_queue(world: World) -> None:
    world.apply_ready_queue(deletionPolicy="Delete")
    await world.enqueue(3)
    world.kubectl.delete("jobqueue", "work")
    told = {event["reason"]: event["message"] for event in world.events("work")}
    assert told["Removed"] == "queue work in schema headrace is removed, with 3 jobs"


async def test_an_open_transaction_of_an_application_does_not_keep_a_deleted_queue(world: World) -> None:
    world.apply_ready_queue(deletionPolicy="Delete")
    world.apply_ready_queue("neighbour")
    application = await asyncpg.connect(world.dsn)
    try:
        async with application.transaction():
            await application.execute("SELECT headrace.enqueue('neighbour', name => 'work')")
            world.kubectl.run("delete", "jobqueue", "work", "--wait=false")
            world.wait_condition("jobqueue", "work", "Ready", status="False", reason="Removing")
            world.wait_gone("jobqueue", "work", within_seconds=75)
    finally:
        await application.close()
    told = {event["reason"]: event["message"] for event in world.events("work")}
    assert "jobs stay behind" in told["CleanupAbandoned"]
    assert "an application's transaction" in told["CleanupAbandoned"]
    assert await registered_queues(world) == {"work", "neighbour"}


async def test_a_migration_that_waits_shows_its_step_and_holds_up_no_other_database(
    world: World, own_postgres: PostgresServer
) -> None:
    lock = "SELECT pg_advisory_lock(hashtextextended('headrace.dev/migrate/headrace', 0))"
    rival = await asyncpg.connect(own_postgres.dsn)
    try:
        await rival.execute(lock)
        world.apply_secret(own_postgres.dsn, name="other")
        for number in range(3):
            world.apply_queue(f"late-{number}", postgres={"connection": {"secretRef": {"name": "other"}}})
        waiting = world.wait_condition("jobqueue", "late-0", "Provisioned", status="False", reason="Migrating")
        assert "waiting for somebody else's migration of schema headrace, since 20" in waiting["message"]
        world.apply_ready_queue()
    finally:
        await rival.close()
    for number in range(3):
        world.wait_condition("jobqueue", f"late-{number}", "Ready", status="True")


async def test_delete_works_where_the_secret_went_first(world: World) -> None:
    world.apply_ready_queue(deletionPolicy="Delete")
    world.kubectl.delete("secret", "postgres")
    world.kubectl.delete("jobqueue", "work")
    assert await registered_queues(world) == set()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "SecretNotFound"),
        ({"url": "postgresql://there"}, "SecretKeyMissing"),
        ({"dsn": "not a DSN"}, "InvalidConnection"),
        ({"dsn": "postgresql://postgres@127.0.0.1:1/nowhere"}, "BackendUnreachable"),
    ],
    ids=["no Secret", "no key", "no DSN", "nobody there"],
)
async def test_a_wrong_connection_shows_and_heals(world: World, content: dict[str, str] | None, reason: str) -> None:
    if content is not None:
        world.apply_secret(data=content)
    world.apply_queue()
    wrong = world.wait_condition("jobqueue", "work", "Ready", status="False", reason=reason)
    assert wrong["message"]
    assert world.kubectl.condition("jobqueue", "work", "Provisioned")["status"] == "False"
    world.apply_secret()
    world.wait_condition("jobqueue", "work", "Ready", status="True")
    assert reason in {event["reason"] for event in world.events("work") if event["type"] == "Warning"}


async def test_a_secret_that_goes_wrong_later_shows_within_a_minute_and_heals(world: World) -> None:
    world.apply_ready_queue()
    world.kubectl.delete("secret", "postgres")
    world.wait_condition("jobqueue", "work", "Ready", status="False", reason="SecretNotFound", within_seconds=65)
    world.apply_secret()
    world.wait_condition("jobqueue", "work", "Ready", status="True", within_seconds=10)


async def test_a_database_that_goes_away_shows_heals_and_stops_nobody_else(
    world: World, own_postgres: PostgresServer
) -> None:
    world.apply_secret(own_postgres.dsn, name="other")
    world.apply_queue("broken", postgres={"connection": {"secretRef": {"name": "other"}}})
    world.wait_condition("jobqueue", "broken", "Ready", status="True")
    own_postgres.stop()
    world.wait_condition("jobqueue", "broken", "Ready", status="False", reason="BackendUnreachable", within_seconds=35)
    assert world.kubectl.condition("jobqueue", "broken", "Synced")["status"] == "False"
    world.apply_ready_queue("sound")
    own_postgres.start()
    world.wait_condition("jobqueue", "broken", "Ready", status="True", within_seconds=45)


async def test_no_condition_event_or_log_line_tells_the_password(world: World) -> None:
    password = "hunter2-hunter2"
    world.apply_secret(f"postgresql://postgres:{password}@127.0.0.1:1/nowhere")
    world.apply_queue()
    world.wait_condition("jobqueue", "work", "Ready", status="False", reason="BackendUnreachable")
    told = str([world.kubectl.get("jobqueue", "work"), world.events("work"), world.operator.read_log()])
    assert password not in told


async def test_changed_settings_reach_the_queue(world: World) -> None:
    world.apply_ready_queue()
    world.kubectl.apply(job_queue("work", maxRetries=7))
    world.wait_object(
        "jobqueue", "work", lambda seen: seen["status"]["observedGeneration"] == seen["metadata"]["generation"]
    )
    connection = await asyncpg.connect(world.dsn)
    try:
        assert await connection.fetchval("SELECT max_retries FROM headrace.queues WHERE name = 'work'") == 7
    finally:
        await connection.close()


def connections(**names: str) -> dict[str, Any]:
    """A spec.postgres with these Secrets."""
    return {field: {"secretRef": {"name": name}} for field, name in {"connection": "postgres", **names}.items()}


async def test_workers_get_past_a_pooler_and_never_see_who_owns_the_tables(world: World) -> None:
    direct, admin = f"{world.dsn}?application_name=direct", f"{world.dsn}?application_name=owner"
    world.apply_secret()
    world.apply_secret(direct, name="direct")
    world.apply_secret(admin, name="owner")
    world.apply_queue(postgres=connections(adminConnection="owner", directConnection="direct"))
    world.wait_condition("jobqueue", "work", "Ready", status="True")
    content = {
        name: base64.b64decode(value).decode()
        for name, value in world.kubectl.get("secret", "work-binding")["data"].items()
    }
    assert (content["uri"], content["direct-uri"]) == (world.dsn, direct)
    assert admin not in content.values()
    assert world.kubectl.get("jobqueue", "work")["status"]["postgres"]["connectionsPerWorker"] == 1


@pytest.mark.parametrize("field", ["adminConnection", "directConnection"])
async def test_a_further_connection_that_goes_wrong_shows_by_name_and_heals(world: World, field: str) -> None:
    world.apply_secret()
    world.apply_secret("postgresql://postgres@127.0.0.1:1/nowhere", name="further")
    world.apply_queue(postgres=connections(**{field: "further"}))
    wrong = world.wait_condition(
        "jobqueue", "work", "Ready", status="False", reason="BackendUnreachable", within_seconds=10
    )
    assert wrong["message"].startswith(f"{field}: ")
    world.kubectl.delete("secret", "further")
    missing = world.wait_condition(
        "jobqueue", "work", "Ready", status="False", reason="SecretNotFound", within_seconds=65
    )
    assert "Secret further" in missing["message"]
    world.apply_secret(name="further")
    world.wait_condition("jobqueue", "work", "Ready", status="True", within_seconds=10)


async def test_a_history_of_finished_jobs_is_kept_where_the_spec_says_so(world: World) -> None:
    world.apply_ready_queue(postgres={**connections(), "completedRetentionSeconds": 3600})
    async with from_url(world.dsn, "work") as queue:
        assert queue.settings.completed_retention_seconds == 3600


async def test_a_pause_by_hand_outlasts_what_the_annotation_does(world: World) -> None:
    world.apply_ready_queue()
    connection = await asyncpg.connect(world.dsn)
    try:
        await connection.execute("UPDATE headrace.queues SET paused_by_hand = true")
        world.kubectl.run("annotate", "jobqueue/work", "headrace.dev/paused=true")
        await wait_ready_message(world, "the annotation headrace.dev/paused holds the queue")
        world.kubectl.run("annotate", "jobqueue/work", "headrace.dev/paused-")
        await wait_ready_message(world, "paused by hand")
        row = await connection.fetchrow("SELECT paused, paused_by_hand FROM headrace.queues WHERE name = 'work'")
    finally:
        await connection.close()
    assert row is not None
    assert (row["paused"], row["paused_by_hand"]) == (False, True)


async def test_a_paused_queue_takes_jobs_in_and_gives_none_out(world: World) -> None:
    world.apply_ready_queue()
    world.kubectl.run("annotate", "jobqueue/work", "headrace.dev/paused=true")
    world.wait_condition("jobqueue", "work", "Ready", status="True", reason="Paused")
    await world.enqueue(2)
    async with from_url(world.dsn, "work") as queue:
        assert await queue.receive(1) == []

        world.kubectl.run("annotate", "jobqueue/work", "headrace.dev/paused-")
        world.wait_condition("jobqueue", "work", "Ready", status="True", reason="Ready")

        assert len(await queue.receive(5)) == 2
