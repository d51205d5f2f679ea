"""Queues: the ports in `base`, one module or package per backend. Imports of the worker only ``headrace.job``."""
