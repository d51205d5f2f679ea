"""The definitions' rules are evaluated as by an API server, as far as the library knows their words."""

from __future__ import annotations

from typing import Any

import cel
import pytest

from headrace_operator.local.schemas import admit, definitions

Schema = dict[str, Any]


def all_rules(schema: Any) -> list[dict[str, str]]:
    if isinstance(schema, list):
        return [rule for item in schema for rule in all_rules(item)]
    if not isinstance(schema, dict):
        return []
    return [
        *schema.get("x-kubernetes-validations", ()),
        *(rule for inner in schema.values() for rule in all_rules(inner)),
    ]


RULES = [rule for schema in definitions().values() for rule in all_rules(schema)]


def test_the_definitions_of_both_kinds_are_found() -> None:
    assert set(definitions()) == {("headrace.dev/v1alpha1", "JobQueue"), ("headrace.dev/v1alpha1", "JobWorkerPool")}


@pytest.mark.parametrize("rule", [rule["rule"] for rule in RULES])
def test_every_rule_is_one_that_the_library_can_read(rule: str) -> None:
    cel.compile(rule)


def number_schema(rule: dict[str, str], **extra: Any) -> Schema:
    inner = {"type": "object", "properties": {"n": {"type": "number"}}, "x-kubernetes-validations": [rule], **extra}
    return {"type": "object", "properties": {"spec": inner}}


def test_a_broken_rule_is_told_with_its_field() -> None:
    schema = number_schema({"rule": "self.n < 2.0", "message": "n must be\nbelow 2", "fieldPath": ".n"})
    assert admit({"spec": {"n": 1}}, schema).problems == []
    assert admit({"spec": {"n": 3}}, schema).problems == ["spec.n: n must be below 2"]


def test_a_rule_on_changes_has_nothing_to_compare_with() -> None:
    assert admit({"spec": {"n": 1}}, number_schema({"rule": "self == oldSelf"})).problems == []


def test_a_rule_that_only_an_api_server_knows_is_left_to_it_and_told() -> None:
    admission = admit({"spec": {"n": 1}}, number_schema({"rule": "quantity('1Gi').isInteger()"}))
    assert admission.problems == []
    assert "left to the API server" in admission.unchecked[0]


def test_rules_are_not_evaluated_over_a_wrong_shape() -> None:
    schema = number_schema({"rule": "self.n < 2.0", "message": "below 2"})
    assert admit({"spec": {"n": "three"}}, schema).problems == ["spec.n: 'three' is not of type 'number'"]


def test_what_is_given_is_left_as_it_is() -> None:
    given: dict[str, Any] = {"spec": {}}
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"n": {"default": {"a": 1}}}}}}
    admitted = admit(given, schema).manifest
    admitted["spec"]["n"]["a"] = 2
    assert given == {"spec": {}}
    assert admit(given, schema).manifest == {"spec": {"n": {"a": 1}}}
