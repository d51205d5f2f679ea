"""What the benchmarks stand on: a control plane without nodes, a PostgreSQL, the operator's process, many objects."""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from cluster.control_plane import ControlPlane
from cluster.places import REPOSITORY
from headrace_operator.core.conditions import find
from headrace_operator.core.model import ObjectKey
from headrace_operator.kubernetes import KubernetesApi
from headrace_operator.kubernetes.api import MERGE_PATCH, collection_path, object_path
from headrace_operator.kubernetes.informer import Informer
from operator_bench import gauges
from support.in_cluster import job_queue, worker_pool
from support.operator_process import OperatorProcess
from support.postgres import running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    Manifest = dict[str, Any]

TENANTS = 10
"""Namespaces; queues are dealt out to them in turn."""

_API_VERSION = "headrace.dev/v1alpha1"
_METRICS = "/apis/external.metrics.k8s.io/v1beta1"
_DATABASE = "bench"
_CONNECTIONS = 2000
_READY_SECONDS = 900.0
_CREATED_AT_A_TIME = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A queue and a pool on it, of the same name."""

    key: ObjectKey
    secret: str
    is_dead: bool = False

    @classmethod
    def number(cls, index: int, *, dsns: int, dead: bool = False) -> Pair:
        """One of many."""
        name = f"{'dead' if dead else 'queue'}-{index}"
        secret = f"dead-{index}" if dead else f"postgres-{index % dsns}"
        return cls(key=ObjectKey(f"tenant-{index % TENANTS}", name), secret=secret, is_dead=dead)

    def manifests(self) -> list[Manifest]:
        """Both objects, as a user would write them. But for the way to zero, all has its default."""
        spec = {"provider": "Postgres", "postgres": {"connection": {"secretRef": {"name": self.secret}}}}
        pool = {"handler": {"exec": {"command": ["/bin/true"]}}, "autoscaling": {"minReplicas": 0}}
        made = [job_queue(self.key.name, **spec), worker_pool(self.key.name, self.key.name, **pool)]
        for manifest in made:
            manifest["metadata"]["namespace"] = self.key.namespace
        return made


@dataclass(slots=True, kw_only=True)
class Seen:
    """What a watch has shown, and when."""

    ready: dict[ObjectKey, float] = field(default_factory=dict)
    replicas: dict[ObjectKey, float] = field(default_factory=dict)
    """Since when a pool has had workers."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for it, looking at each change."""
        while not holds():
            self.changed.clear()
            await self.changed.wait()


class Stage:
    """One run's surroundings, inside `standing`."""

    def __init__(self, control_plane: ControlPlane, operator: OperatorProcess, api: KubernetesApi, dsn: str) -> None:
        self.control_plane = control_plane
        self.operator = operator
        self.api = api
        self.server_dsn = dsn
        self.queues = Seen()
        self.pools = Seen()
        self._silent_port = 0

    @property
    def pid(self) -> int:
        """Of the operator."""
        assert self.operator.process is not None
        return self.operator.process.pid

    @property
    def dsn(self) -> str:
        """The queues' database, for the first of its users."""
        return self._dsn(0)

    def _dsn(self, user: int) -> str:
        parts = urlsplit(self.server_dsn)
        return urlunsplit(parts._replace(netloc=f"user_{user}@{parts.hostname}:{parts.port}", path=f"/{_DATABASE}"))

    async def make_users(self, number: int) -> None:
        """As many DSNs: users of one database, which the operator can't know to be one."""
        connection = await asyncpg.connect(self.server_dsn)
        try:
            await connection.execute(f"CREATE DATABASE {_DATABASE}")
            for user in range(number):
                await connection.execute(f"CREATE ROLE user_{user} LOGIN SUPERUSER")
        finally:
            await connection.close()

    async def apply(self, pairs: Sequence[Pair]) -> float:
        """`kubectl apply` of these; returns how many seconds it took. Namespaces and Secrets are there before."""
        await self._prepare(pairs)
        began = gauges.monotonic()
        await self._kubectl_apply([manifest for pair in pairs for manifest in pair.manifests()])
        return gauges.monotonic() - began

    async def create(self, pairs: Sequence[Pair]) -> float:
        """The same by requests of our own, many at a time: `kubectl` sends one after another."""
        await self._prepare(pairs)
        began, turns = gauges.monotonic(), asyncio.Semaphore(_CREATED_AT_A_TIME)

        async def create(manifest: Manifest) -> None:
            path = collection_path(_API_VERSION, manifest["kind"], manifest["metadata"]["namespace"])
            async with turns:
                await self.api.request("POST", path, body=manifest)

        await asyncio.gather(*(create(manifest) for pair in pairs for manifest in pair.manifests()))
        return gauges.monotonic() - began

    async def _prepare(self, pairs: Sequence[Pair]) -> None:
        namespaces = sorted({pair.key.namespace for pair in pairs})
        secrets = sorted({(pair.key.namespace, pair.secret) for pair in pairs})
        kind = {"apiVersion": "v1", "kind": "Namespace"}
        await self._kubectl_apply([{**kind, "metadata": {"name": name}} for name in namespaces])
        await self._kubectl_apply([self._secret(*secret) for secret in secrets])

    async def longest_wait(self, seconds: float) -> float:
        """How long the operator let somebody wait at the most who asked it ten times a second whether it is well."""
        longest, until = 0.0, gauges.monotonic() + seconds
        while (began := gauges.monotonic()) < until:
            await asyncio.to_thread(self.operator.get, "/healthz")
            longest = max(longest, gauges.monotonic() - began)
            await asyncio.sleep(0.1)
        return longest

    async def until_ready(self, pairs: Sequence[Pair]) -> float:
        """Wait until all are Ready; returns when the last one was."""
        wanted = {pair.key for pair in pairs}
        async with asyncio.timeout(_READY_SECONDS):
            for seen in (self.queues, self.pools):
                await seen.until(lambda seen=seen: wanted <= seen.ready.keys())  # type: ignore[misc]
        return max(max(seen.ready[key] for key in wanted) for seen in (self.queues, self.pools))

    async def until_sampled(self, number: int) -> float:
        """Wait until the operator knows the depth of so many queues, and has looked at them and their pools."""
        async with asyncio.timeout(_READY_SECONDS):
            while True:
                page = await self.page()
                looks = gauges.total(page, "headrace_operator_reconciles_total", outcome="succeeded")
                if page.count("\nbackground_jobs_queue_depth{") >= number and looks >= 2 * number:
                    return gauges.monotonic()
                # A page of a thousand queues costs the operator a tenth of a second.
                await asyncio.sleep(2)

    async def page(self) -> str:
        """The operator's metrics."""
        return await asyncio.to_thread(self.operator.get, "/metrics", timeout_seconds=60)

    async def reading(self) -> gauges.Reading:
        """What all counters stand at."""
        page = await self.page()
        return gauges.Reading(
            at=gauges.monotonic(),
            cpu_seconds=gauges.cpu_seconds(self.pid),
            writes=gauges.writes(page),
            requests=gauges.requests(page),
            logins=await gauges.logins(self.server_dsn),
        )

    async def run_pods(self, pods: Sequence[tuple[ObjectKey, str]]) -> None:
        """Let a pod of each of these pools run: Ready, at the address. No node does it, so we write what one would."""
        for pool, address in pods:
            name = await self._pod_of(pool)
            status = {
                "phase": "Running",
                "podIP": address,
                "podIPs": [{"ip": address}],
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}],
            }
            await self.api.request(
                "PATCH",
                f"{object_path('v1', 'Pod', ObjectKey(pool.namespace, name))}/status",
                body={"status": status},
                content_type=MERGE_PATCH,
            )

    async def ages(self, queues: Sequence[ObjectKey]) -> list[float]:
        """How many seconds old the depths are that autoscalers are shown; infinity where they are shown none."""
        found: dict[ObjectKey, float] = {}
        for namespace in sorted({queue.namespace for queue in queues}):
            answer = await self.api.request("GET", f"{_METRICS}/namespaces/{namespace}/background_jobs_queue_depth")
            now = datetime.now(UTC)
            for value in answer["items"]:
                key = ObjectKey(namespace, value["metricLabels"]["queue"])
                found[key] = (now - datetime.fromisoformat(value["timestamp"])).total_seconds()
        return [found.get(queue, math.inf) for queue in queues]

    async def patch_pool(self, pool: ObjectKey, spec: Manifest) -> None:
        """Change a pool's spec."""
        path = object_path(_API_VERSION, "JobWorkerPool", pool)
        await self.api.request("PATCH", path, body={"spec": spec}, content_type=MERGE_PATCH)

    async def _pod_of(self, pool: ObjectKey) -> str:
        """The name of the pool's pod, once the controllers have made it."""
        path = collection_path("v1", "Pod", pool.namespace)
        for _ in range(240):
            found = await self.api.request("GET", path, query={"labelSelector": f"headrace.dev/pool={pool.name}"})
            if found["items"]:
                return str(found["items"][0]["metadata"]["name"])
            await asyncio.sleep(0.5)
        raise AssertionError(f"pool {pool} has no pod")

    def _secret(self, namespace: str, name: str) -> Manifest:
        kind, _, index = name.partition("-")
        silent = f"postgresql://user_{index}@127.0.0.1:{self._silent_port}/{_DATABASE}"
        dsn = silent if kind == "dead" else self._dsn(int(index))
        metadata = {"name": name, "namespace": namespace}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"dsn": dsn}}

    async def _kubectl_apply(self, manifests: Sequence[Manifest]) -> None:
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        await asyncio.to_thread(self.control_plane.kubectl, "apply", "-f", "-", stdin=listed)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Note what becomes of all objects, inside the block."""
        async with asyncio.TaskGroup() as group:
            watches = (_Watch(self.api, "JobQueue", self.queues), _Watch(self.api, "JobWorkerPool", self.pools))
            tasks = [group.create_task(watch.informer.run()) for watch in watches]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    @asynccontextmanager
    async def silence(self) -> AsyncIterator[None]:
        """A server that takes connections and says nothing, for databases that are dead."""

        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
        self._silent_port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()


@asynccontextmanager
async def standing(*, users: int) -> AsyncIterator[Stage]:
    """A stage with the operator at work, and so many DSNs; autoscalers decide every 15 s, as is Kubernetes' default."""
    with (
        tempfile.TemporaryDirectory(prefix="headrace-operator-bench-") as folder,
        running_server(settings=(f"max_connections={_CONNECTIONS}",)) as postgres,
        ControlPlane(horizontal_pod_autoscaler_sync_period_seconds=15) as control_plane,
    ):
        control_plane.kubectl("apply", "--server-side", f"--filename={REPOSITORY / 'crds'}")
        control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        operator = OperatorProcess(control_plane=control_plane, log=Path(folder) / "operator.log", log_level="info")
        operator.install()
        async with KubernetesApi(str(control_plane.kubeconfig)) as api:
            stage = Stage(control_plane, operator, api, postgres.dsn)
            await stage.make_users(users)
            await asyncio.to_thread(operator.start)
            try:
                async with stage.watching(), stage.silence():
                    yield stage
            finally:
                await asyncio.to_thread(operator.stop)
                if operator.has_failed():
                    raise AssertionError(operator.read_log()[-4000:])


def _key(manifest: Manifest) -> ObjectKey:
    return ObjectKey(manifest["metadata"]["namespace"], manifest["metadata"]["name"])


def _state(manifest: Manifest) -> tuple[bool, bool]:
    """Whether the object is Ready, and whether it has workers."""
    ready = find((manifest.get("status") or {}).get("conditions") or (), "Ready")
    return ready is not None and ready["status"] == "True", bool(manifest["spec"].get("replicas"))


class _Watch:
    """Notes what becomes of all objects of a kind."""

    def __init__(self, api: KubernetesApi, kind: str, seen: Seen) -> None:
        self._seen = seen
        path = collection_path(_API_VERSION, kind)
        self.informer = Informer(api, path, group=_key, convert=_state, on_change=self._note)

    def _note(self, key: ObjectKey) -> None:
        now = gauges.monotonic()
        is_ready, has_workers = next(iter(self.informer.members(key)), (False, False))
        for holds, since in ((is_ready, self._seen.ready), (has_workers, self._seen.replicas)):
            if holds:
                since.setdefault(key, now)
            else:
                since.pop(key, None)
        self._seen.changed.set()
