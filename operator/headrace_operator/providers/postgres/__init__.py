"""Queues in PostgreSQL, by the worker's own code: there is one definition of the tables.

``spec``, ``place``, ``binding``, ``limits`` and ``status`` are pure; ``provisioning`` and ``backlog`` are the bridge to
`headrace.queues.postgres`, and ``errors`` tells its failures as conditions do. No message holds a DSN.
"""

from headrace_operator.providers.postgres.provider import PostgresProvider

__all__ = ["PostgresProvider"]
