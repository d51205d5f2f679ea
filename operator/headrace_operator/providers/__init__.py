"""Where queues live: a folder for each provider, and the one table of them.

A new provider fills `core.provider.Provider`, and gets its line here, its name in the enumeration of
``crds/headrace.dev_jobqueues.yaml`` and its block beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace_operator.providers.aws_sqs import AwsSqsProvider
from headrace_operator.providers.postgres import PostgresProvider
from headrace_operator.settings import Settings

if TYPE_CHECKING:
    from headrace_operator.core.provider import AnyProvider, Providers


def providers(settings: Settings) -> Providers:
    """The table, as the operator's settings have it."""
    made: tuple[AnyProvider, ...] = (PostgresProvider(), AwsSqsProvider(settings.aws))
    return {provider.name: provider for provider in made}


PROVIDERS: Providers = providers(Settings())
"""The table where nothing is set."""
