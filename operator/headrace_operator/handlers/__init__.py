"""Kopf's side of the operator, and the only importer of kopf: what it sees is handed on as plain manifests.

Handlers are for events alone: no state of kopf's in the objects, no finalizer, no retry of its own. Each names group
and version: otherwise kopf would scan every API group, meet our own external metrics API there, and depend on it.
"""
