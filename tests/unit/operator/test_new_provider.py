"""A newcomer adds a provider: a folder like the one there is, and one line of the table. Nothing else is touched."""

from __future__ import annotations

import asyncio
import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest

import headrace_operator.providers.postgres
from headrace_operator.core.conditions import find
from headrace_operator.core.deployment import WorkedQueue, worker_deployment
from headrace_operator.core.model import ObjectKey
from headrace_operator.core.provider import AnyProvider, Providers, SecretKey, provider_of
from headrace_operator.core.spec import JobQueue, JobWorkerPool, block_name, parse
from headrace_operator.providers import PROVIDERS
from headrace_operator.reconcile.gate import Gate
from headrace_operator.reconcile.objects import ObjectStore
from headrace_operator.reconcile.queue import QueueReconciler
from headrace_operator.reconcile.secrets import Secrets
from support.memory_cluster import MemoryBackend, MemoryCluster, SetClock

SOURCE = Path(headrace_operator.providers.postgres.__file__).parent
KEY = ObjectKey("shop", "thumbnails")

BLOCKS: dict[str, dict[str, Any]] = {
    "AwsSqs": {"region": "eu-west-1", "credentials": {"secretRef": {"name": "keys"}}},
}
"""Of providers that are not like Postgres."""
FOUND = {"queueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/shop_thumbnails"}

# The rooms that do something: these are empty.
PROVISIONING = """
from contextlib import AbstractAsyncContextManager
from headrace_operator.core.provider import Provisioned, Removed


class FloppyQueueProvisioner(AbstractAsyncContextManager):
    async def __aexit__(self, *error):
        pass

    async def provision(self, place, owner, settings, progress):
        return Provisioned(changed=True, details=f"{place.label} formatted", status={"sides": 2})

    async def remove(self, place, owner, progress):
        return Removed(0)
"""
BACKLOG = """
from contextlib import AbstractAsyncContextManager


class FloppyBacklogReader(AbstractAsyncContextManager):
    def __init__(self, backend, on_news=None):
        pass

    async def __aexit__(self, *error):
        pass

    async def depths(self, places):
        return {}

    async def have_ready(self, places):
        return set()
"""


@pytest.fixture
def providers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Providers:
    """The table, with the line of a provider whose folder was copied."""
    folder = tmp_path / "newcomer" / "floppy"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "newcomer" / "__init__.py").touch()
    for path in folder.glob("*.py"):
        text = path.read_text().replace("headrace_operator.providers.postgres", "newcomer.floppy")
        path.write_text(text.replace("Postgres", "Floppy"))
    (folder / "provisioning.py").write_text(PROVISIONING)
    (folder / "backlog.py").write_text(BACKLOG)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    made: AnyProvider = importlib.import_module("newcomer.floppy").FloppyProvider()
    return {**PROVIDERS, made.name: made}


def manifest() -> dict[str, Any]:
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "JobQueue",
        "metadata": {"namespace": KEY.namespace, "name": KEY.name, "uid": "q"},
        "spec": {
            "provider": "Floppy",
            "deletionPolicy": "Delete",
            "floppy": {"connection": {"secretRef": {"name": "disk"}}, "schema": "drive-a"},
        },
    }


@pytest.mark.parametrize("name", [*PROVIDERS, "Floppy"])
def test_a_provider_is_found_by_its_name_and_its_places_tell_nothing(providers: Providers, name: str) -> None:
    provider = providers[name]
    assert provider.name == name
    queue = manifest()
    queue["spec"] = {"provider": name, block_name(name): BLOCKS.get(name, queue["spec"]["floppy"])}
    parsed = parse(queue, JobQueue)
    assert provider_of(parsed, providers) is provider
    content = b"hunter2" if name in BLOCKS else b"postgresql://u:hunter2@db/shop"
    secrets = dict.fromkeys(provider.secrets(parsed), content)
    assert set(provider.removal_secrets(parsed)) <= set(secrets)
    place, again = (provider.place(parsed, secrets, lambda host: host) for _ in range(2))
    assert (place.provider, place, hash(place)) == (name, again, hash(again))
    assert "hunter2" not in repr((place, place.backend, place.administration, provider.binding(parsed, secrets, FOUND)))


async def test_a_job_queue_is_made_bound_and_removed_by_it(providers: Providers) -> None:
    clock, objects, gate = SetClock(), ObjectStore(), Gate()
    cluster, sampling = MemoryCluster(objects), MemoryBackend(clock)
    reconciler = QueueReconciler(
        cluster=cluster,
        secrets=Secrets(cluster, clock),
        providers=providers,
        sampling=sampling,
        objects=objects,
        clock=clock,
        gate=gate,
        wake=lambda _: None,
        wake_pools=lambda _: None,
        look_within=lambda *_: None,
    )
    cluster.secrets[ObjectKey("shop", "disk")] = {"dsn": b"postgresql://u:p@drive/shop"}
    cluster.put(manifest())

    async def look() -> dict[str, Any]:
        await reconciler.reconcile(KEY)
        for _ in range(20):
            await asyncio.sleep(0)
        return cluster.find("JobQueue", KEY) or {}

    async with reconciler.running():
        await look()
        status = (await look())["status"]
        ready = find(status["conditions"], "Ready")
        assert ready is not None
        assert ready["status"] == "True"
        assert (status["floppy"], status["binding"]["name"]) == ({"sides": 2}, "thumbnails-binding")
        assert cluster.find("Secret", ObjectKey("shop", "thumbnails-binding")) is not None
        assert sampling.followed[KEY].label == "queue thumbnails in schema drive-a"
        stored = cluster.find("JobQueue", KEY) or {}
        cluster.put({**stored, "metadata": {**stored["metadata"], "deletionTimestamp": clock.now().isoformat()}})
        await look()
        assert (await look())["metadata"]["finalizers"] == []


def test_workers_are_told_of_it(providers: Providers) -> None:
    queue = parse(manifest(), JobQueue)
    pool = parse(
        {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "JobWorkerPool",
            "metadata": {"namespace": "shop", "name": "workers", "uid": "p"},
            "spec": {"queueRef": {"name": KEY.name}, "handler": {"exec": {"command": ["true"]}}},
        },
        JobWorkerPool,
    )
    environment = providers["Floppy"].worker_environment(queue)
    assert environment
    made = worker_deployment(pool, [WorkedQueue(queue, environment)], replicas=1, image="worker")
    container = made["spec"]["template"]["spec"]["containers"][0]
    told = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert told["BACKGROUND_JOBS__PROVIDER"] == "Floppy"
    assert (
        environment.items() <= {name.removeprefix("BACKGROUND_JOBS__"): value for name, value in told.items()}.items()
    )


def test_its_secrets_are_those_of_its_block(providers: Providers) -> None:
    assert list(providers["Floppy"].secrets(parse(manifest(), JobQueue))) == [SecretKey("disk", "dsn")]
