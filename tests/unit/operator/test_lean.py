"""What is held of a JobQueue or a JobWorkerPool, of which there may be thousands."""

from __future__ import annotations

import json
from typing import Any

from headrace_operator.core.lean import lean
from headrace_operator.core.model import ObjectKey
from headrace_operator.reconcile.objects import ObjectStore

_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def manifest(version: int = 1, **metadata: Any) -> dict[str, Any]:
    """As the API server sends it, and JSON makes it: each time with words of its own."""
    made = {
        "kind": "JobQueue",
        "metadata": {
            "namespace": "shop",
            "name": "thumbnails",
            "uid": "1",
            "resourceVersion": str(version),
            "annotations": {_APPLIED: "{}", "headrace.dev/paused": "true"},
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:provider": {}}}}],
            **metadata,
        },
        "spec": {"provider": "Postgres", "postgres": {"connection": {"secretRef": {"name": "postgres"}}}},
        "status": {"conditions": [{"type": "Ready", "status": "True", "message": "m" * 100}]},
    }
    return dict(json.loads(json.dumps(made)))


def test_nothing_is_lost_but_who_wrote_which_field_and_what_was_applied_last() -> None:
    wanted = manifest(annotations={"headrace.dev/paused": "true"})
    del wanted["metadata"]["managedFields"]
    assert lean(manifest()) == wanted


def test_words_that_many_have_are_held_once() -> None:
    first, second = lean(manifest()), lean(manifest())
    for one, other in zip(first["spec"], second["spec"], strict=True):
        assert one is other
    assert first["spec"]["provider"] is second["spec"]["provider"]


def test_the_store_holds_no_more_whoever_has_shown_it() -> None:
    store, key = ObjectStore(), ObjectKey("shop", "thumbnails")
    assert store.seen(manifest())
    assert "managedFields" not in (store.get("JobQueue", key) or {})["metadata"]
    store.written(manifest(2, annotations={_APPLIED: "{}"}), 0.0, guarded=True)
    assert (store.get("JobQueue", key) or {})["metadata"]["annotations"] == {}
    assert not store.seen(manifest(2, annotations={_APPLIED: "{}"})), "our own write is no news"
