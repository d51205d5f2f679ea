"""One operator test's namespace and database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace import NewJob
from headrace.queues import from_url
from support.in_cluster import job_queue, worker_pool
from support.kubectl import Kubectl, Manifest, eventually
from support.verbs import complete

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.operator_process import OperatorProcess

QUEUE = "work"
POOL = "workers"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Objects go in by kubectl, jobs by the SDK; what comes of them is waited for."""

    kubectl: Kubectl
    operator: OperatorProcess
    dsn: str

    def apply_secret(
        self, dsn: str | None = None, *, name: str = "postgres", data: dict[str, str] | None = None
    ) -> None:
        """The connection's Secret."""
        content = {"dsn": dsn or self.dsn} if data is None else data
        self.kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content})

    def apply_queue(self, name: str = QUEUE, **spec: Any) -> None:
        """A JobQueue, not waited for."""
        self.kubectl.apply(job_queue(name, **spec))

    def apply_ready_queue(self, name: str = QUEUE, **spec: Any) -> None:
        """A JobQueue with its Secret, waited for."""
        self.apply_secret()
        self.apply_queue(name, **spec)
        self.wait_condition("jobqueue", name, "Ready", status="True")

    def apply_pool(self, name: str = POOL, *, queue: str = QUEUE, **spec: Any) -> None:
        """A JobWorkerPool, not waited for."""
        spec = {"handler": {"exec": {"command": ["/bin/true"]}}, **spec}
        self.kubectl.apply(worker_pool(name, queue, **spec))

    def wait_condition(
        self,
        kind: str,
        name: str,
        condition: str,
        *,
        status: str | None = None,
        reason: str | None = None,
        within_seconds: float = 30,
    ) -> Manifest:
        """A condition, once it has this status and this reason."""
        return eventually(
            lambda: self.kubectl.condition(kind, name, condition),
            until=lambda seen: bool(seen) and status in (None, seen["status"]) and reason in (None, seen["reason"]),
            what=f"{condition}={status} {reason or ''} of {kind}/{name}",
            within_seconds=within_seconds,
            every_seconds=0.2,
        )

    def wait_object(
        self, kind: str, name: str, until: Callable[[Manifest], bool], *, within_seconds: float = 30, what: str = ""
    ) -> Manifest:
        """An object, once it is as wanted."""
        return eventually(
            lambda: self.kubectl.find(kind, name) or {},
            until=lambda seen: bool(seen) and until(seen),
            what=what or f"{kind}/{name}",
            within_seconds=within_seconds,
            every_seconds=0.2,
        )

    def wait_replicas(self, replicas: int, name: str = POOL, *, within_seconds: float = 30) -> None:
        """The pool's number, its Deployment's and the status, once all three agree on it."""

        def numbers() -> tuple[Any, Any, Any]:
            pool = self.kubectl.find("jobworkerpool", name) or {}
            deployment = self.kubectl.find("deployment", name) or {}
            return (
                pool.get("spec", {}).get("replicas"),
                pool.get("status", {}).get("replicas"),
                deployment.get("spec", {}).get("replicas"),
            )

        wanted = (replicas, replicas, replicas)
        eventually(
            numbers,
            until=lambda seen: seen == wanted,
            what=f"{replicas} replicas",
            within_seconds=within_seconds,
            every_seconds=0.2,
        )

    def wait_gone(self, kind: str, name: str, *, within_seconds: float = 30) -> None:
        """An object, until it is gone."""
        eventually(
            lambda: self.kubectl.find(kind, name) is None, within_seconds=within_seconds, what=f"{kind}/{name} gone"
        )

    def events(self, name: str) -> list[Manifest]:
        """The Events on an object, oldest first."""
        items = [event for event in self.kubectl.list("events") if event["involvedObject"]["name"] == name]
        return sorted(items, key=lambda event: str(event["metadata"]["creationTimestamp"]))

    async def enqueue(self, number: int, queue: str = QUEUE, *, schema: str = "headrace") -> None:
        """Put jobs into the queue."""
        async with from_url(self.dsn, queue, schema=schema) as opened:
            await opened.enqueue([NewJob(name="work") for _ in range(number)])

    async def work_off(self, queue: str = QUEUE) -> None:
        """Do all ready jobs, as workers would if pods ran here."""
        async with from_url(self.dsn, queue) as opened:
            while deliveries := await opened.receive(100):
                await complete(opened, deliveries)

    def remove(self) -> None:
        """Delete the namespace, not waiting for its end."""
        self.kubectl.run("delete", "namespace", self.kubectl.namespace, "--wait=false")
