"""Files are taken as `kubectl apply` takes them, and what it would refuse is refused, with the field and the fix."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace_operator.core.model import ObjectKey
from headrace_operator.core.spec import JobQueue, JobWorkerPool, ScalingMode, parse
from headrace_operator.local.databases import embedded_queues
from headrace_operator.local.errors import InputError
from headrace_operator.local.manifests import Manifests, read_manifests
from headrace_operator.local.meaning import as_decided_here, meaningless_fields
from support.in_cluster import EXAMPLES, job_queue, worker_pool

if TYPE_CHECKING:
    from pathlib import Path

EXEC: dict[str, Any] = {"handler": {"exec": {"command": ["cat"]}}}
QUEUE = job_queue("orders")
POOL = worker_pool("workers", "orders", **EXEC)


def with_worker(**container: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "worker", **container}]}}


def written(directory: Path, *manifests: object, name: str = "all.yaml") -> str:
    file = directory / name
    file.write_text("---\n".join(yaml.safe_dump(manifest) for manifest in manifests))
    return str(file)


def read(directory: Path, *manifests: object) -> Manifests:
    return read_manifests([written(directory, *manifests)], namespace="shop")


def refusal(directory: Path, *manifests: object) -> str:
    with pytest.raises(InputError) as refused:
        read(directory, *manifests)
    assert refused.value.exit_status == 2
    return str(refused.value)


def test_documents_lists_json_folders_and_standard_input_are_all_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [QUEUE, POOL]}
    typed = {"apiVersion": "headrace.dev/v1alpha1", "kind": "JobQueueList", "items": [QUEUE]}
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "queue.yml").write_text(yaml.safe_dump(QUEUE))
    (folder / "pool.json").write_text(json.dumps(POOL))
    (folder / "README.md").write_text("no manifest")
    ways = [
        [written(tmp_path, QUEUE, None, POOL)],
        [written(tmp_path, listed, name="list.yaml")],
        [written(tmp_path, typed, name="typed.yaml"), written(tmp_path, POOL, name="pool.yaml")],
        [str(folder)],
    ]
    for sources in ways:
        found = read_manifests(sources, namespace="shop")
        assert [queue["metadata"]["name"] for queue in found.queues] == ["orders"], sources
        assert [pool["metadata"]["name"] for pool in found.pools] == ["workers"], sources

    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(listed)))
    assert len(read_manifests(["-"], namespace="shop").pools) == 1


def test_the_examples_are_taken_as_they_stand() -> None:
    for example in ("quickstart", "thumbnails"):
        files = [str(EXAMPLES / example / f"{name}.yaml") for name in ("jobqueue", "jobworkerpool-direct")]
        assert len(read_manifests(files, namespace="default").pools) == 1


def test_what_is_taken_has_the_defaults_of_the_definitions(tmp_path: Path) -> None:
    found = read(tmp_path, QUEUE, worker_pool("workers", "orders", **EXEC, autoscaling={"maxReplicas": 4}))

    queue, pool = parse(found.queues[0], JobQueue), parse(found.pools[0], JobWorkerPool)
    assert (queue.key, pool.key) == (ObjectKey("shop", "orders"), ObjectKey("shop", "workers"))
    assert queue.spec.max_retries == 3
    assert (pool.spec.autoscaling.mode, pool.spec.autoscaling.max_replicas) == (ScalingMode.HPA, 4)
    assert found.pools[0]["spec"]["autoscaling"]["scaleToZeroAfterSeconds"] == 60


def test_an_explicit_null_is_a_default_too(tmp_path: Path) -> None:
    found = read(tmp_path, job_queue("orders", maxRetries=None), POOL)
    assert found.queues[0]["spec"]["maxRetries"] == 3


@pytest.mark.parametrize("none", [None, ""])
def test_no_namespace_is_the_usual_one(tmp_path: Path, none: str | None) -> None:
    found = read_manifests(
        [written(tmp_path, {**QUEUE, "metadata": {"name": "orders", "namespace": none}})], namespace="shop"
    )
    assert found.queues[0]["metadata"]["namespace"] == "shop"


def test_an_object_is_the_same_one_in_the_next_run(tmp_path: Path) -> None:
    first, second = read(tmp_path, QUEUE, POOL), read(tmp_path, QUEUE, POOL)
    assert first.queues[0]["metadata"]["uid"] == second.queues[0]["metadata"]["uid"]
    assert first.queues[0]["metadata"]["uid"] != first.pools[0]["metadata"]["uid"]


def test_secrets_are_decoded_and_plain_text_goes_before(tmp_path: Path) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "pg", "namespace": "other"},
        "data": {"dsn": base64.b64encode(b"encoded").decode(), "user": base64.b64encode(b"me").decode()},
        "stringData": {"dsn": "plain"},
    }
    found = read(tmp_path, QUEUE, POOL, secret)
    assert found.secrets == {ObjectKey("other", "pg"): {"dsn": b"plain", "user": b"me"}}


def test_a_character_that_json_escapes_is_the_one_that_it_was(tmp_path: Path) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pg"}, "stringData": {"dsn": "p\N{SNAKE}"}}
    file = tmp_path / "all.json"
    file.write_text(json.dumps({"kind": "List", "items": [QUEUE, POOL, secret]}))
    found = read_manifests([str(file)], namespace="shop")
    assert found.secrets[ObjectKey("shop", "pg")] == {"dsn": "p\N{SNAKE}".encode()}


def test_of_two_of_one_name_the_later_one_counts(tmp_path: Path) -> None:
    found = read(tmp_path, QUEUE, POOL, job_queue("orders", maxRetries=7))
    assert [queue["spec"]["maxRetries"] for queue in found.queues] == [7]
    assert found.notes == ["JobQueue orders is given twice, and the later one counts"]


def test_what_is_not_ours_is_passed_over_and_named(tmp_path: Path) -> None:
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {}}
    assert [note for note in read(tmp_path, QUEUE, POOL, deployment).notes if "Deployment web" in note]


@pytest.mark.parametrize(
    ("manifests", "told"),
    [
        (
            [job_queue("orders", maxRetrys=5)],
            r"JobQueue orders: spec\.maxRetrys: there is no such field, but maxRetries",
        ),
        ([job_queue("orders", maxRetries="many")], r"spec\.maxRetries: 'many' is not of type 'integer'"),
        ([job_queue("orders", maxRetries=-1)], r"spec\.maxRetries: -1 is less than the minimum of 0"),
        ([job_queue("orders", postgres={})], r"spec\.postgres\.connection: is required"),
        ([{**QUEUE, "metadata": {}}], r"JobQueue: metadata\.name is missing"),
        ([job_queue("Orders")], r"metadata\.name must be at most 52 lower-case letters"),
        ([{**QUEUE, "apiVersion": "headrace.dev/v9"}], r"no such kind in headrace\.dev/v9; there are JobQueue in"),
        ([POOL], r"no JobQueue orders in namespace shop among the manifests: give its file, too \(-f\)"),
        ([QUEUE, worker_pool("workers", "orders")], r"spec\.handler: is required"),
        (
            [QUEUE, worker_pool("workers", "orders", handler={"exec": {"command": ["cat"]}, "python": {"app": "a:b"}})],
            "both python and exec are given",
        ),
        (
            [QUEUE, worker_pool("workers", "orders", **EXEC, autoscaling={"mode": False})],
            r"spec\.autoscaling\.mode: a plain On, Off, yes or no is a boolean in YAML: put it in quotes",
        ),
        (
            [QUEUE, worker_pool("workers", "orders", **EXEC, autoscaling={"minReplicas": 5, "maxReplicas": 2})],
            r"spec\.autoscaling\.minReplicas: autoscaling\.minReplicas must not be above autoscaling\.maxReplicas",
        ),
        (
            [QUEUE, {**POOL, "metadata": {"name": "workers", "annotations": {"headrace.dev/paused": True}}}],
            r"metadata\.annotations\.headrace\.dev/paused: must be a text: put 'true' in quotes",
        ),
        (
            [{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pg"}, "data": {"dsn": "postgresql://x"}}],
            r"Secret pg: data\.dsn is not in base64: plain text belongs in stringData",
        ),
        (
            [QUEUE, worker_pool("workers", "orders", **EXEC, template=with_worker(env=[{"name": "N", "value": 5}]))],
            r"spec\.template\.spec\.containers\[0\]\.env\[0\]\.value: 5 is a number: put it in quotes",
        ),
        ([{**QUEUE, "metadata": {"name": "orders", "namespace": "../.."}}], r"metadata\.namespace: must be at most 63"),
        (
            [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files"}, "data": {"../../evil": "x"}}],
            r"ConfigMap files: data\.\.\./\.\./evil: a key must be letters, digits, hyphens",
        ),
        (["just a text"], "must be a mapping with apiVersion and kind"),
    ],
)
def test_what_an_api_server_would_refuse_is_refused(tmp_path: Path, manifests: list[object], told: str) -> None:
    message = refusal(tmp_path, *manifests)
    assert re.search(told, message), message
    assert str(tmp_path / "all.yaml") in message or "among the manifests" in message


def test_a_queue_in_sqs_is_refused_with_what_would_run_here(tmp_path: Path) -> None:
    queue = {**QUEUE, "spec": {"provider": "AwsSqs", "awsSqs": {"region": "eu-west-1"}}}
    told = refusal(tmp_path, queue, POOL)
    assert "JobQueue orders: provider AwsSqs does not run here yet" in told
    assert "provider Postgres" in told


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, job_queue("orders", maxRetries=-1, color="red"), worker_pool("workers", "orders"))
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "is neither YAML nor JSON"),
        ("", "holds no object"),
        ("kind: A\nkind: B\n", "duplicate key kind"),
        ('{"kind": "A", "kind": "B"}', "duplicate key kind"),
        ('{"kind": "\\ud800"}', "a character that is none"),
        ("[" * 100_000, "is nested too deeply"),
        ("- " * 3000 + "a", "is nested too deeply"),
        (json.dumps(POOL)[:-2] + ', "template": ' + '{"spec":' * 600 + "{}" + "}" * 602, "is nested too deeply"),
        ("a: &a [*a]", "is neither YAML nor JSON: Circular reference"),
        ("9" * 5000, "is neither YAML nor JSON: Exceeds the limit"),
    ],
)
def test_a_file_that_holds_no_object_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=told) as refused:
        read_manifests([str(file)], namespace="shop")
    assert "bad.yaml" in str(refused.value)


@pytest.mark.parametrize(("name", "why"), [("nowhere.yaml", "No such file"), ("n" * 300, "File name too long")])
def test_a_file_that_can_not_be_read_is_named(name: str, why: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: can't be read \({why}"):
        read_manifests([name], namespace="shop")


def places(value: Any, *path: Any) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, *path, key))]


FULL = [
    QUEUE,
    worker_pool(
        "workers",
        "orders",
        **EXEC,
        autoscaling={"mode": "Direct"},
        template={
            "metadata": {"labels": {"a": "b"}},
            "spec": {
                "volumes": [{"name": "v", "secret": {"secretName": "s", "items": [{"key": "k", "path": "p"}]}}],
                "containers": [
                    {
                        "name": "worker",
                        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                        "envFrom": [{"secretRef": {"name": "s"}}],
                        "volumeMounts": [{"name": "v", "mountPath": "/bindings/v"}],
                    }
                ],
            },
        },
    ),
    {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "v"}},
]
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
MAPPINGS = st.dictionaries(st.sampled_from(["name", "key", "x"]), SCALARS, max_size=2)
ANYTHING = SCALARS | MAPPINGS | st.lists(SCALARS | MAPPINGS, max_size=2)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from([place for place in places(FULL) if place]), value=ANYTHING)
def test_whatever_stands_anywhere_is_taken_or_refused_in_words(
    tmp_path: Path, place: tuple[Any, ...], value: Any
) -> None:
    manifests = copy.deepcopy(FULL)
    target: Any = manifests
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    file = tmp_path / "any.json"
    file.write_text(json.dumps({"kind": "List", "items": manifests}))
    with suppress(InputError):
        found = read_manifests([str(file)], namespace="shop")
        for pool in found.pools:
            meaningless_fields(pool)
            parse(as_decided_here(pool), JobWorkerPool)
        for queue in found.queues:
            parse(queue, JobQueue)
            embedded_queues(found)
