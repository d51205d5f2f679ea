"""Runs the operator: first all that kopf could trip over, then kopf, which is the watch."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import kopf

from headrace_operator.clock import SystemClock
from headrace_operator.composition import Operator
from headrace_operator.core.model import FIELD_MANAGER, GROUP
from headrace_operator.handlers import jobqueues, jobworkerpools

if TYPE_CHECKING:
    from headrace_operator.settings import Settings


async def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT.

    Raises
    ------
    OperatorError
        When the operator can't even start.
    """
    operator = Operator(SystemClock())
    registry = kopf.OperatorRegistry()
    jobqueues.register(registry, operator)
    jobworkerpools.register(registry, operator)
    _register_login(registry)
    async with operator.running(settings):
        watching = asyncio.Event()
        # Without one kopf asks for the user's name, and a container's bare UID has none.
        identity: Any = FIELD_MANAGER
        watch = asyncio.create_task(
            kopf.operator(
                registry=registry,
                settings=_kopf_settings(),
                # One operator at a time is the Deployment's business (Recreate): peering would pause both.
                standalone=True,
                identity=identity,
                clusterwide=not settings.watch_namespaces,
                namespaces=settings.watch_namespaces,
                ready_flag=watching,
            ),
            name="kopf",
        )
        ready = asyncio.create_task(_be_ready(operator, watching, watch), name="be-ready")
        try:
            # Also returns where kopf gives up: the process ends, and is started anew.
            await asyncio.wait([watch])
        finally:
            ready.cancel()
        if not watch.cancelled():
            watch.result()


async def _be_ready(operator: Operator, watching: asyncio.Event, watch: asyncio.Task[None]) -> None:
    await watching.wait()
    operator.is_watching = True
    # On a signal kopf would wait five seconds for tasks that are not its own, such as open connections to our servers.
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, watch.cancel)


def _register_login(registry: kopf.OperatorRegistry) -> None:
    @kopf.on.login(registry=registry)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        # In the order of our own client.
        if not os.environ.get("KUBECONFIG") and (account := kopf.login_with_service_account(**kwargs)):
            return account
        return kopf.login_with_kubeconfig(**kwargs)


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    # Events tell transitions, in the words of the conditions; kopf's would tell its own doings.
    settings.posting.enabled = False
    # New kinds and namespaces are not waited for: that would take rights on all of them.
    settings.scanning.disabled = True
    # Nothing of kopf's is stored; should a later handler need it, it stands under our name.
    settings.persistence.finalizer = f"{GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP, key="last-handled")
    settings.networking.error_backoffs = (1, 2, 3, 5, 5, 5, 5, 5, 5, 5)
    settings.networking.request_timeout = 30
    return settings
