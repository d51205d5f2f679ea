"""The real kubectl, as tests and the demo use it: JSON in, JSON out, errors with kubectl's own words."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

Manifest = dict[str, Any]
Seen = TypeVar("Seen")


class KubectlError(Exception):
    """A kubectl call that failed; the message is what it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """kubectl bound to one cluster and one namespace."""

    binary: Path
    kubeconfig: Path
    namespace: str = "default"

    def run(self, *arguments: str, stdin: str | None = None, timeout_seconds: float = 60) -> str:
        """Run one command and return what it printed."""
        done = subprocess.run(
            [str(self.binary), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments[:4])}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *manifests: Mapping[str, Any], file: Path | None = None) -> None:
        """`kubectl apply`, of manifests or of a file."""
        if file is not None:
            self.run("apply", "-f", str(file))
        if manifests:
            listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
            self.run("apply", "-f", "-", stdin=json.dumps(listed))

    def get(self, kind: str, name: str) -> Manifest:
        """One object."""
        found: Manifest = json.loads(self.run("get", kind, name, "-o", "json"))
        return found

    def find(self, kind: str, name: str) -> Manifest | None:
        """One object, or None where there is none."""
        printed = self.run("get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(printed) if printed.strip() else None

    def list(self, kind: str, *, selector: str = "") -> Sequence[Manifest]:
        """All objects of a kind in the namespace."""
        items: list[Manifest] = json.loads(self.run("get", kind, "-o", "json", f"--selector={selector}"))["items"]
        return items

    def delete(self, kind: str, name: str, *, wait: bool = True, timeout_seconds: float = 120) -> None:
        """Delete one object, if it is there."""
        self.run(
            "delete", kind, name, "--ignore-not-found", f"--wait={str(wait).lower()}", timeout_seconds=timeout_seconds
        )

    def condition(self, kind: str, name: str, condition: str) -> Manifest:
        """One condition of an object's status; empty where it has none yet."""
        found = self.find(kind, name) or {}
        for each in found.get("status", {}).get("conditions", []):
            if each["type"] == condition:
                return dict(each)
        return {}

    @contextmanager
    def port_forward(self, target: str, port: int) -> Iterator[int]:
        """Forward a free loopback port to `target` (such as svc/postgres) and yield it."""
        process = subprocess.Popen(
            [
                str(self.binary),
                f"--kubeconfig={self.kubeconfig}",
                f"--namespace={self.namespace}",
                "port-forward",
                "--address=127.0.0.1",
                target,
                f":{port}",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            if "->" not in line:
                raise KubectlError(f"port-forward {target}: {process.stderr.read().strip()}")
            yield int(line.split("->")[0].rsplit(":", 1)[1])
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()
            process.stderr.close()


def eventually(
    look: Callable[[], Seen],
    *,
    within_seconds: float = 60,
    every_seconds: float = 0.5,
    until: Callable[[Seen], bool] = bool,
    what: str = "",
) -> Seen:
    """Look until what is seen satisfies `until`; the last sight is in the error."""
    deadline = time.monotonic() + within_seconds
    while True:
        seen = look()
        if until(seen):
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(
                f"not within {within_seconds:g} s: {what or 'the expected state'}; last seen: {seen!r}"
            )
        time.sleep(every_seconds)
