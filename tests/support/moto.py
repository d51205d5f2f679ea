"""moto's server for tests: faithful to the service's errors, slow with more than a hundred messages.

A process of its own on a free loopback port, stopped by pid. Any credentials do, until a test asks for IAM.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aioboto3

from support.postgres import free_port
from support.redis import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

REGION = "eu-central-1"
ACCOUNT = "123456789012"
ACCESS_KEY_ID = "AKIAMOTO"
SECRET_ACCESS_KEY = "not-a-secret"
STOP_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Moto:
    """A server that runs."""

    port: int

    @property
    def endpoint_url(self) -> str:
        """For clients of AWS."""
        return f"http://127.0.0.1:{self.port}"

    def queue_url(self, name: str) -> str:
        """A queue as the service names it."""
        return f"{self.endpoint_url}/{ACCOUNT}/{name}"

    def url(self, name: str) -> str:
        """A queue as `headrace.from_url` takes it, without credentials."""
        return f"sqs+http://127.0.0.1:{self.port}/{ACCOUNT}/{name}?region={REGION}"

    def reset(self) -> None:
        """Forget all queues, users and roles."""
        self._post("/moto-api/reset", b"")

    def require_rights(self, *, after_calls: int = 0) -> None:
        """Check credentials and policies from now on, after so many calls that may do anything."""
        self._post("/moto-api/reset-auth", str(after_calls).encode())

    def require_no_rights(self) -> None:
        """Check nothing any more."""
        self._post("/moto-api/reset-auth", b"inf")

    async def user(self, policy: dict[str, Any]) -> tuple[str, str]:
        """Make a user whose only policy is this; access key id and secret. Ask before rights are required."""
        session = aioboto3.Session(
            aws_access_key_id=ACCESS_KEY_ID, aws_secret_access_key=SECRET_ACCESS_KEY, region_name=REGION
        )
        async with session.client("iam", endpoint_url=self.endpoint_url) as iam:
            name = f"user-{uuid4().hex}"
            await iam.create_user(UserName=name)
            await iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=json.dumps(policy))
            key = (await iam.create_access_key(UserName=name))["AccessKey"]
            return key["AccessKeyId"], key["SecretAccessKey"]

    def _post(self, path: str, body: bytes) -> None:
        request = urllib.request.Request(
            self.endpoint_url + path, data=body, method="POST", headers={"Content-Type": "text/plain"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status == 200, response.read()


@contextmanager
def running_moto() -> Iterator[Moto]:
    """A server, empty."""
    with tempfile.TemporaryDirectory(prefix="headrace-moto-") as name:
        log_file = Path(name) / "log"
        moto = Moto(port=free_port())
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(moto.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=name,
            )
        try:
            eventually(
                lambda: process.poll() is not None or b"Running on" in log_file.read_bytes(),
                lambda: f"moto did not start:\n{log_file.read_text(errors='replace')[-2000:]}",
            )
            assert process.poll() is None, log_file.read_text(errors="replace")[-2000:]
            yield moto
        finally:
            process.kill()
            process.wait(STOP_TIMEOUT_SECONDS)
