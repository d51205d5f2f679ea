"""What tests of JobQueues in SQS put into a namespace, and ask the server."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3

from support.aws_proxy import AwsProxy
from support.moto import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.kubectl import Manifest
    from support.operator_world import World

AMBIENT_NAMESPACE = "sqs-ambient"
"""For which the operator of the tests uses its own identity."""

QUEUE_PREFIX = "t-"
"""What it begins the names of queues with."""

SECRET = "aws"
KEYS = {"access-key-id": ACCESS_KEY_ID, "secret-access-key": SECRET_ACCESS_KEY}


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsWorld:
    """A namespace, and the server as an administrator sees it."""

    world: World
    endpoint_url: str
    """What JobQueues name."""
    client: Any

    @property
    def name(self) -> str:
        """Of the queue of the JobQueue `work`."""
        return f"{QUEUE_PREFIX}{self.world.kubectl.namespace}_work"

    def apply_secret(self, **changes: str) -> None:
        """The Secret with the keys."""
        data = {name.replace("_", "-"): value for name, value in changes.items()}
        self.world.apply_secret(name=SECRET, data={**KEYS, **data})

    def apply_queue(self, *, annotations: Mapping[str, str] = {}, awsSqs: Mapping[str, Any] = {}, **spec: Any) -> None:  # noqa: N803
        """The JobQueue `work`, not waited for."""
        block = {
            "region": REGION,
            "endpointUrl": self.endpoint_url,
            "credentials": {"secretRef": {"name": SECRET}},
            **awsSqs,
        }
        manifest: Manifest = {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "JobQueue",
            "metadata": {"name": "work", "annotations": dict(annotations)},
            "spec": {
                "provider": "AwsSqs",
                "awsSqs": {name: value for name, value in block.items() if value is not None},
                **spec,
            },
        }
        self.world.kubectl.apply(manifest)

    def apply_ready_queue(self, **spec: Any) -> None:
        """The JobQueue with its Secret, waited for."""
        self.apply_secret()
        self.apply_queue(**spec)
        self.world.wait_condition("jobqueue", "work", "Ready", status="True")

    def url(self, name: str | None = None) -> str:
        """Of a queue that is there."""
        found: str = self.client.get_queue_url(QueueName=name or self.name)["QueueUrl"]
        return found

    def exists(self, name: str) -> bool:
        """Whether a queue is there."""
        return any(url.endswith(f"/{name}") for url in self.client.list_queues().get("QueueUrls", []))

    def attributes(self, name: str | None = None) -> dict[str, str]:
        """What the server says of a queue."""
        url = self.url(name)
        found: dict[str, str] = self.client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return found

    def tags(self, name: str | None = None) -> dict[str, str]:
        """The queue's tags."""
        found: dict[str, str] = self.client.list_queue_tags(QueueUrl=self.url(name)).get("Tags", {})
        return found


def administrator(endpoint_url: str) -> Any:
    """A client that may do everything."""
    return boto3.client(
        "sqs",
        region_name=REGION,
        endpoint_url=endpoint_url,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
    )


@contextmanager
def proxied(endpoint_url: str) -> Iterator[AwsProxy]:
    """A proxy on a thread of its own: what is waited for in a test holds its loop up."""
    proxy, loop, ended = AwsProxy(endpoint_url), asyncio.new_event_loop(), asyncio.Event()
    started = threading.Event()

    async def serve() -> None:
        async with proxy.running():
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(10), "the proxy did not start"
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        loop.close()
