"""docs/sqs-provisioning.md: what it prints is what is printed, and it knows every word that a condition may say."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from click.testing import CliRunner

from headrace.queues.sqs.documents import parse_policy
from headrace.queues.sqs.spec import FindingReason
from headrace_operator.cli import main

PAGE = (Path(__file__).parents[3] / "docs" / "sqs-provisioning.md").read_text()
COMMANDS = re.findall(
    r"^```console\n\$ headrace-operator (iam [^\n]*)\n(\{.*?^\})\n```$", PAGE, re.MULTILINE | re.DOTALL
)


def test_there_is_a_policy_for_everybody() -> None:
    assert [shlex.split(command)[1] for command, _ in COMMANDS] == ["operator", "worker", "producer"]


@pytest.mark.parametrize(("command", "printed"), COMMANDS)
def test_each_policy_is_the_one_that_is_printed(command: str, printed: str) -> None:
    result = CliRunner().invoke(main, shlex.split(command))
    assert result.exit_code == 0, result.output
    assert result.output == f"{printed}\n"


def test_printing_a_policy_needs_no_client_of_aws() -> None:
    program = "import sys, headrace_operator.providers.aws_sqs.iam; print('botocore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_every_finding_has_its_line() -> None:
    told = {
        reason
        for cell in re.findall(r"^\| (`[A-Z].*?`) \|", PAGE, re.MULTILINE)
        for reason in re.findall(r"`([A-Za-z]+)`", cell)
    }
    assert set(get_args(FindingReason)) <= told


def test_the_example_of_a_policy_is_one() -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    policy = parse_policy(yaml.safe_load(example)["spec"]["awsSqs"]["policy"])
    assert len(policy["Statement"]) == 4


def test_the_other_documents_are_json() -> None:
    for document in re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        json.loads(document)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--account", "1", "--queue", "orders"], "--account: '1': give the twelve digits"),
        (["--account", "123456789012"], "--queue: say which queues"),
        (["--account", "123456789012", "--queue", "*"], "--queue: '*': give 1 to 80"),
        (["--account", "123456789012", "--queue", "o", "--kms-key", "alias/x"], "--kms-key: 'alias/x': give the key's"),
    ],
)
def test_what_cant_be_is_told_by_its_option(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(main, ["iam", "worker", "--region", "eu-central-1", *arguments])
    assert result.exit_code == 1
    assert told in result.output
