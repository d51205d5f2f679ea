"""Hundreds of queues in which nothing happens, each with a pool at zero, and what they cost the operator."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from operator_bench import gauges
from support.in_cluster import job_queue, worker_pool
from support.kubectl import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.kubectl import Kubectl

_APPLY_SECONDS = 240
_READY_SECONDS = 240
_KINDS = ("jobqueue", "jobworkerpool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a time has cost."""

    cores: float
    """Of processors, the operator's process."""
    requests: float
    """To the Kubernetes API, but for watches."""
    writes: float
    """Of them, those that change something."""
    logins: int
    """To the database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """So many pairs in one namespace, on the database that its Secret `postgres` names.

    Attributes
    ----------
    page
        Reads the operator's ``/metrics``.
    sessions
        Tells how many sessions that database has seen begin, but for its own.
    """

    kubectl: Kubectl
    size: int
    page: Callable[[], str]
    sessions: Callable[[], int]

    def create(self) -> None:
        """Make them all; but for the way to zero, all has its default."""
        names = [f"idle-{number}" for number in range(self.size)]
        spec = {"handler": {"exec": {"command": ["/bin/true"]}}, "autoscaling": {"minReplicas": 0}}
        manifests = [made for name in names for made in (job_queue(name), worker_pool(name, name, **spec))]
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        self.kubectl.run("create", "-f", "-", stdin=listed, timeout_seconds=_APPLY_SECONDS)

    def wait_ready(self) -> None:
        """Wait until all are Ready, and no pool has a worker."""
        for kind in _KINDS:
            eventually(
                lambda kind=kind: self._ready(kind),  # type: ignore[misc]
                until=lambda ready: ready == self.size,
                within_seconds=_READY_SECONDS,
                every_seconds=2,
                what=f"{self.size} of {kind} to be Ready",
            )
        replicas = self.kubectl.run("get", "deployment", "-o", "jsonpath={.items[*].spec.replicas}")
        assert replicas.split().count("0") >= self.size, replicas

    def _ready(self, kind: str) -> int:
        path = '{.items[*].status.conditions[?(@.type=="Ready")].status}'
        return self.kubectl.run("get", kind, "-o", f"jsonpath={path}").split().count("True")

    def wait_at_rest(self) -> None:
        """Wait until the operator has nothing left to write: the Events and statuses of what has become Ready."""
        writes: list[float] = []

        def quiet() -> bool:
            writes.append(gauges.writes(self.page()))
            return writes[-3:] == [writes[-1]] * 3

        eventually(quiet, every_seconds=2, within_seconds=_READY_SECONDS, what="the operator's last write")

    def cost_of(self, seconds: float) -> Cost:
        """Let time go by, and tell what it has cost."""
        began, before, sessions = time.monotonic(), self.page(), self.sessions()
        time.sleep(seconds)
        passed, after = time.monotonic() - began, self.page()
        return Cost(
            cores=(_processor_seconds(after) - _processor_seconds(before)) / passed,
            requests=gauges.requests(after) - gauges.requests(before),
            writes=gauges.writes(after) - gauges.writes(before),
            logins=self.sessions() - sessions,
        )


def _processor_seconds(page: str) -> float:
    return gauges.total(page, "process_cpu_seconds_total")
