"""Queues in this process's memory: the reference for every backend, and a real queue for tests of handlers.

Nothing survives the process, and nothing is shared beyond it. All calls belong to one event loop.
"""
