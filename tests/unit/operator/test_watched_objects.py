"""What is kept of watched objects, and what the API server's answers mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace_operator.core.model import (
    ConflictError,
    ObjectKey,
    OperatorError,
    PassingError,
    RefusedError,
    TransientError,
)
from headrace_operator.kubernetes.errors import ExpiredError, error_from_answer
from headrace_operator.kubernetes.objects import (
    merge_patch,
    pool_by_scale_target,
    trim_autoscaler,
    trim_deployment,
    worker_pod,
)


def pod(*, metadata: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": "workers-1", **(metadata or {})}, "status": status}


def container(**status: Any) -> list[dict[str, Any]]:
    return [{"name": "sidecar", "state": {}}, {"name": "worker", "ready": False, "restartCount": 0, **status}]


READY = [{"type": "Ready", "status": "True"}]
NOT_CONVERTED = (
    "failed to convert new object (/p; apps/v1, Kind=Deployment) to proper version: "
    "unable to convert unstructured object to apps/v1, Kind=Deployment: "
)


def test_a_ready_pod_has_an_address() -> None:
    made = worker_pod(pod(podIP="10.0.0.7", conditions=READY, containerStatuses=container(ready=True)))
    assert (made.ready, made.address, made.waiting_reason) == (True, "http://10.0.0.7:8080", None)
    assert worker_pod(pod(podIP="fd00::7")).address == "http://[fd00::7]:8080"


def test_a_pod_that_is_leaving_is_neither_ready_nor_in_trouble() -> None:
    leaving = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    status = {"conditions": READY, "containerStatuses": container(state={"waiting": {"reason": "ErrImagePull"}})}
    made = worker_pod(pod(metadata=leaving, **status))
    assert (made.ready, made.waiting_reason) == (False, None)


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_a_pod_that_has_ended_is_no_trouble_of_its_pool(phase: str) -> None:
    evicted: dict[str, Any] = {"phase": phase, "reason": "Evicted", "message": "The node was low on resource: memory."}
    waited = container(state={"waiting": {"reason": "CrashLoopBackOff"}}, restartCount=4)
    made = worker_pod(pod(**evicted, conditions=READY, containerStatuses=waited))
    assert (made.ready, made.waiting_reason) == (False, None)
    killed = container(state={"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}})
    assert worker_pod(pod(**evicted, containerStatuses=killed)).waiting_reason is None


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        ({}, None, None),
        ({"containerStatuses": container(state={"waiting": {"reason": "ContainerCreating"}})}, None, None),
        ({"containerStatuses": container(state={"running": {}})}, None, None),
        (
            {"containerStatuses": container(state={"waiting": {"reason": "ErrImagePull", "message": "no such image"}})},
            "ErrImagePull",
            "no such image",
        ),
        (
            {
                "containerStatuses": container(
                    state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
                    lastState={"terminated": {"exitCode": 2, "message": "no module named shop\n"}},
                    restartCount=3,
                )
            },
            "CrashLoopBackOff",
            "the worker ended with status 2: no module named shop",
        ),
        (
            {
                "containerStatuses": container(
                    state={"running": {}}, lastState={"terminated": {"exitCode": 137}}, restartCount=1
                )
            },
            "CrashLoopBackOff",
            "the worker ended with status 137",
        ),
        (
            {"containerStatuses": container(state={"terminated": {"exitCode": 1, "message": "bye"}})},
            "CrashLoopBackOff",
            "the worker ended with status 1: bye",
        ),
        (
            {
                "initContainerStatuses": [
                    {"name": "migration", "ready": True, "state": {"terminated": {"exitCode": 0}}},
                    {
                        "name": "server",
                        "ready": False,
                        "restartCount": 1,
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": {"terminated": {"exitCode": 1, "message": "port in use"}},
                    },
                ],
                "containerStatuses": container(state={"waiting": {"reason": "PodInitializing"}}),
            },
            "CrashLoopBackOff",
            "container server ended with status 1: port in use",
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]},
            "Unschedulable",
            "0/3 nodes",
        ),
    ],
)
def test_what_keeps_a_worker_from_starting_has_a_reason_that_stays(
    status: dict[str, Any], reason: str | None, words: str | None
) -> None:
    made = worker_pod(pod(**status))
    assert (made.waiting_reason, made.waiting_message) == (reason, words)


@pytest.mark.parametrize(
    ("target", "pool"),
    [
        ({"apiVersion": "headrace.dev/v1alpha1", "kind": "JobWorkerPool", "name": "workers"}, "workers"),
        ({"apiVersion": "apps/v1", "kind": "Deployment", "name": "workers"}, "workers"),
        ({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "workers"}, None),
    ],
)
def test_an_autoscaler_concerns_the_pool_that_it_may_scale(target: dict[str, str], pool: str | None) -> None:
    manifest = {"metadata": {"namespace": "shop", "name": "any"}, "spec": {"scaleTargetRef": target}}
    assert pool_by_scale_target(manifest) == (ObjectKey("shop", pool) if pool else None)


def condition(type_: str, at: str) -> dict[str, str]:
    times = {"lastUpdateTime": at, "lastTransitionTime": at}
    return {"type": type_, "status": "True", "reason": "Told", "message": "", **times}


def test_a_deployment_that_differs_by_a_time_alone_is_worth_no_look() -> None:
    def deployment(at: str, ready: int = 1) -> dict[str, Any]:
        status = {"readyReplicas": ready, "observedGeneration": 1, "conditions": [condition("Progressing", at)]}
        return trim_deployment({"metadata": {"name": "workers"}, "spec": {"replicas": 1}, "status": status})

    assert deployment("1") == deployment("2")
    assert deployment("1") != deployment("2", ready=2)


def test_of_an_autoscaler_it_counts_whether_it_can_scale() -> None:
    def autoscaler(*conditions: dict[str, str]) -> dict[str, Any]:
        status = {"currentMetrics": [], "conditions": list(conditions)}
        return trim_autoscaler({"metadata": {"name": "any"}, "spec": {"scaleTargetRef": {}}, "status": status})

    able = condition("ScalingActive", "1")
    assert autoscaler(able) == autoscaler(condition("ScalingActive", "2"), condition("ScalingLimited", "1"))
    assert autoscaler(able) != autoscaler({**able, "status": "False"})


def test_of_an_autoscaler_that_may_be_ours_it_counts_what_it_asks_for() -> None:
    def autoscaler(kind: str, most: int) -> dict[str, Any]:
        target = {"apiVersion": "headrace.dev/v1alpha1", "kind": kind, "name": "workers"}
        spec = {"scaleTargetRef": target, "maxReplicas": most}
        return trim_autoscaler({"metadata": {"name": "any"}, "spec": spec})

    assert autoscaler("JobWorkerPool", 10) != autoscaler("JobWorkerPool", 40)
    assert autoscaler("Deployment", 10) == autoscaler("Deployment", 40)


@pytest.mark.parametrize(
    ("status", "message", "kind", "reason", "told"),
    [
        (422, "spec.x: Invalid value", RefusedError, "Invalid", "spec.x: Invalid value"),
        (
            500,
            "failed to create typed patch object (/p; apps/v1, Kind=Deployment): .spec.foo: field not declared",
            RefusedError,
            "Invalid",
            ".spec.foo: field not declared",
        ),
        (
            500,
            NOT_CONVERTED + "quantities must match the regular expression",
            RefusedError,
            "Invalid",
            "quantities must match the regular expression",
        ),
        (500, "etcd is away", PassingError, "ApiServerError", "the API server answered 500 (it): etcd is away"),
        (403, "no rights", TransientError, "Forbidden", "no rights"),
        (404, "nothing", TransientError, "NotFound", "nothing"),
        (409, "modified", ConflictError, "Conflict", "modified"),
        (410, "too old", ExpiredError, "Expired", "too old"),
    ],
)
def test_answers_become_failures_that_say_what_to_do(
    status: int, message: str, kind: type[OperatorError], reason: str, told: str
) -> None:
    error = error_from_answer(status, json.dumps({"message": message}).encode(), "it")
    assert type(error) is kind
    assert (error.reason, error.message) == (reason, told)


def test_an_answer_that_is_no_status_is_quoted_in_short() -> None:
    error = error_from_answer(502, b"<html>" + b"x" * 1000, "it")
    assert error.message.startswith("the API server answered 502 (it): <html>xxx")
    assert len(error.message) < 300


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), (None, None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None)]
)
def test_who_asks_to_be_left_alone_says_for_how_long(header: str | None, seconds: float | None) -> None:
    failure = error_from_answer(429, b"{}", "GET /x", retry_after=header)
    assert isinstance(failure, PassingError)
    assert failure.retry_after_seconds == seconds


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        (None, {"a": 1}, {"a": 1}),
        ({"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": None}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}, {"a": {"x": 1, "y": None}}),
        ({"a": 1}, 3, 3),
        ([{"a": 1}], [{"b": 1}], [{"b": 1}]),
    ],
)
def test_a_field_that_is_gone_is_said_to_be_none(before: Any, after: Any, patch: Any) -> None:
    assert merge_patch(before, after) == patch
