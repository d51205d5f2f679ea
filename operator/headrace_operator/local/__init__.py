"""One machine instead of a cluster: processes for pods, files for the API server; the same reconcilers and decisions.

Nothing here decides on a number of workers, nor on what a worker is told: both come from `reconcile` and `core`.
"""
