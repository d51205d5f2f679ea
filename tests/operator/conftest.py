"""One control plane for all operator tests: real API server, real controllers, our definitions, no nodes."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from cluster.control_plane import ControlPlane
from cluster.places import REPOSITORY
from support import postgres
from support.in_cluster import restricted_namespace
from support.kubectl import Kubectl
from support.moto import Moto, running_moto
from support.operator_process import OperatorProcess
from support.operator_world import World
from support.sqs_world import AMBIENT_NAMESPACE, QUEUE_PREFIX


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A running control plane that knows JobQueues and JobWorkerPools."""
    with ControlPlane() as running:
        running.kubectl("apply", "--server-side", f"--filename={REPOSITORY / 'crds'}")
        running.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield running


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """A server that speaks SQS's protocol, to which the operator may go as itself."""
    with running_moto() as moto:
        yield moto


@pytest.fixture(scope="session")
def operator_process(
    control_plane: ControlPlane, moto: Moto, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """The operator, running; nothing unexpected may stand in its log at the end."""
    operator = OperatorProcess(
        control_plane=control_plane,
        log=tmp_path_factory.mktemp("operator") / "operator.log",
        environment={
            "HEADRACE_AWS_AMBIENT_NAMESPACES": AMBIENT_NAMESPACE,
            "HEADRACE_AWS_QUEUE_PREFIX": QUEUE_PREFIX,
            "HEADRACE_AWS_ENDPOINT_URLS": moto.endpoint_url,
            "AWS_ACCESS_KEY_ID": "AKIAOPERATOR",
            "AWS_SECRET_ACCESS_KEY": "the-operators-own",
            "AWS_EC2_METADATA_DISABLED": "true",
        },
    )
    operator.install()
    operator.start()
    try:
        yield operator
    finally:
        status = operator.stop()
        print(operator.read_log()[-20000:])
    assert status == 0
    assert not operator.has_failed()


@pytest.fixture
async def world(worlds: Callable[[str], AbstractAsyncContextManager[World]]) -> AsyncIterator[World]:
    """A namespace and a database of the test's own, with the operator at work."""
    async with worlds("") as world:
        yield world


@pytest.fixture
async def rival(worlds: Callable[[str], AbstractAsyncContextManager[World]]) -> AsyncIterator[World]:
    """Another namespace with another database."""
    async with worlds("-rival") as world:
        yield world


@pytest.fixture
def worlds(
    control_plane: ControlPlane, operator_process: OperatorProcess, postgres_dsn: str, request: pytest.FixtureRequest
) -> Callable[[str], AbstractAsyncContextManager[World]]:
    """Make worlds, named by the test and a suffix."""
    # Cases of one test differ at the end only, and what is cut off of a long name must not make two the same.
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())
    name = f"{words[:40].strip('-')}-{secrets.token_hex(3)}"

    @asynccontextmanager
    async def make(suffix: str) -> AsyncIterator[World]:
        kubectl = Kubectl(
            binary=control_plane._commands / "kubectl",
            kubeconfig=control_plane.kubeconfig,
            namespace=f"{name}{suffix}",
        )
        kubectl.apply(restricted_namespace(kubectl.namespace))
        async with postgres.fresh_database(postgres_dsn) as dsn:
            world = World(kubectl=kubectl, operator=operator_process, dsn=dsn)
            try:
                yield world
            finally:
                world.remove()

    return make
