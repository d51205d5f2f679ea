"""Runs the operator: first all that kopf could trip over, then kopf, which is the watch."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import kopf

from headrace_operator.composition import Operator, SystemClock
from headrace_operator.core.model import GROUP
from headrace_operator.handlers import jobqueues, jobworkerpools

if TYPE_CHECKING:
    from headrace_operator.settings import Settings


async def run(settings: Settings, *, stop: asyncio.Event | None = None) -> None:
    """Run until SIGTERM or SIGINT, or until `stop` is set.

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
        note = asyncio.create_task(_note_watching(operator, watching), name="note-watching")
        try:
            await kopf.operator(
                registry=registry,
                settings=_kopf_settings(),
                # One operator at a time is the Deployment's business (Recreate): peering would pause both.
                standalone=True,
                clusterwide=not settings.watch_namespaces,
                namespaces=settings.watch_namespaces,
                ready_flag=watching,
                stop_flag=stop,
            )
        finally:
            note.cancel()


async def _note_watching(operator: Operator, watching: asyncio.Event) -> None:
    await watching.wait()
    operator.is_watching = True


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
