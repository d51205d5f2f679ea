"""Idempotency: the port in `base`, a store in memory. Imports nothing of the worker."""
