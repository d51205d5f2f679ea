"""Where queues live: a folder for each provider, and the one table of them.

A new provider fills `core.provider.Provider`, and gets its line here, its name in the enumeration of
``crds/headrace.dev_jobqueues.yaml`` and its block beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace_operator.providers.postgres import PostgresProvider

if TYPE_CHECKING:
    from headrace_operator.core.provider import Providers

PROVIDERS: Providers = {provider.name: provider for provider in (PostgresProvider(),)}
