"""Enqueue from synchronous code, such as Django and Flask: within a transaction of the caller's own, or by itself.

Needs neither asyncpg nor an event loop: `enqueue_in` works with what the application has, `Producer` with psycopg.
"""

from __future__ import annotations

from headrace.queues.postgres.sync import Producer, enqueue_in

__all__ = ["Producer", "enqueue_in"]
