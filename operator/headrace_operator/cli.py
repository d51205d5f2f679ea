"""``headrace-operator``: the operator's command line."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from pathlib import Path
from typing import Literal

import click

_NEEDED = ("aioboto3", "aiohttp", "asyncpg", "cryptography", "kopf", "kubernetes", "msgspec", "prometheus_client")

_NEEDED_ON_A_LAPTOP = (
    "aiohttp",
    "asyncpg",
    "cel",
    "msgspec",
    "openapi_schema_validator",
    "rich",
    "uvloop",
    "watchfiles",
    "yaml",
)

_ENVIRONMENT = """\b
Settings are environment variables:
  HEADRACE_NAMESPACE                 its own namespace (headrace-system)
  HEADRACE_WATCH_NAMESPACES          where to work, separated by commas; empty: everywhere
  HEADRACE_WORKER_IMAGE              what pools run that name no image (headrace/worker:VERSION)
  HEADRACE_WORKER_IMAGE_PULL_POLICY  for that image: Always, IfNotPresent or Never
  HEADRACE_RELEASE_POOLS_AT_ONCE     how many pools' workers a new release replaces at a time (1)
  HEADRACE_METRICS_API_ADDRESS       where to serve external.metrics.k8s.io (0.0.0.0:8443); empty: nowhere
  HEADRACE_METRICS_API_SERVICE       the Service in front of it (headrace-operator-metrics-api)
  HEADRACE_LISTEN_ADDRESS            where to serve /healthz, /readyz and /metrics (0.0.0.0:8080)
  HEADRACE_LOG_FORMAT                text or json (text)
  HEADRACE_LOG_LEVEL                 debug, info, warning or error (info)
  HEADRACE_AWS_AMBIENT_NAMESPACES    whose JobQueues may have it use its own AWS identity: names, or *; empty: nobody's
  HEADRACE_AWS_QUEUE_PREFIX          what the names of queues in SQS begin with, before their namespace
  HEADRACE_AWS_ENDPOINT_URLS         where else than to AWS its own identity may sign requests, separated by commas
  KUBECONFIG                         how to log in; without it, as the pod's ServiceAccount
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headrace")
def main() -> None:
    """The operator of Headrace: background jobs for Kubernetes."""


@main.command(epilog=_ENVIRONMENT)
@click.option("--namespace", "namespaces", multiple=True, help="Work in this namespace only; may be repeated.")
@click.option("--log-level", help="debug, info, warning or error.")
@click.option("--log-format", help="text or json.")
def run(namespaces: tuple[str, ...], log_level: str | None, log_format: str | None) -> None:
    """Look after JobQueues and JobWorkerPools until told to stop (SIGTERM).

    Options come before the environment. Needs the custom resource definitions to be there, and rights as in the chart.
    """
    _require_extra("operator", _NEEDED)
    # Only now: without the extra these can't be imported.
    from headrace_operator.core.model import OperatorError  # noqa: PLC0415
    from headrace_operator.handlers import lifecycle  # noqa: PLC0415
    from headrace_operator.logs import configure_logging  # noqa: PLC0415
    from headrace_operator.settings import OperatorSettingsError, settings_from_env  # noqa: PLC0415

    options = {
        "HEADRACE_WATCH_NAMESPACES": ",".join(namespaces),
        "HEADRACE_LOG_LEVEL": log_level,
        "HEADRACE_LOG_FORMAT": log_format,
    }
    try:
        settings = settings_from_env({**os.environ, **{name: value for name, value in options.items() if value}})
    except OperatorSettingsError as error:
        raise click.ClickException(f"these settings can't be:\n{error}") from None
    configure_logging(settings.log_format, settings.log_level)
    try:
        asyncio.run(lifecycle.run(settings))
    except OperatorError as error:
        raise click.ClickException(f"{error.reason}: {error.message}") from None
    except KeyboardInterrupt:
        sys.exit(130)


@main.command(
    epilog="""\b
Examples:
  headrace-operator dev -f queue.yaml -f pool.yaml --reload
  kubectl get jobq,jwp -o yaml | headrace-operator dev -f -
"""
)
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    required=True,
    metavar="FILE",
    help="A file or folder of manifests, as for kubectl apply; - is standard input. May be repeated.",
)
@click.option("-n", "--namespace", default="default", show_default=True, help="Of manifests that name none.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where the embedded PostgreSQL keeps its data, which stays there. Defaults to a temporary folder.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Where the embedded PostgreSQL listens. Defaults to where it did before in this --data-dir, or any free port.",
)
@click.option("--reload", "reloads", is_flag=True, help="Restart the workers when Python files here change.")
@click.option("-q", "--quiet", "is_quiet", is_flag=True, help="Leave out what the workers write.")
@click.option(
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="A live table (plain lines where there is no terminal), or an object a line.",
)
def dev(
    files: tuple[str, ...],
    namespace: str,
    data_dir: Path | None,
    port: int | None,
    reloads: bool,
    is_quiet: bool,
    output: str,
) -> None:
    """Run JobQueues and JobWorkerPools on this machine, without Kubernetes.

    Workers are processes, scaled by the very code that decides in a cluster. A queue whose Secret is not among the
    manifests lives in an embedded PostgreSQL. Ctrl-C lets the workers finish; a second one kills them.
    """
    _require_extra("dev", _NEEDED_ON_A_LAPTOP)
    # Only now: without the extra these can't be imported.
    from headrace_operator.local.errors import DevError  # noqa: PLC0415
    from headrace_operator.local.supervisor import Options, run  # noqa: PLC0415

    options = Options(
        files=files,
        namespace=namespace,
        data_dir=data_dir,
        port=port,
        reloads=reloads,
        is_quiet=is_quiet,
        output=output,
    )
    try:
        sys.exit(run(options))
    except DevError as error:
        for problem in str(error).splitlines():
            click.echo(f"headrace-operator: {problem}", err=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        # Before there was anything to stop.
        sys.exit(130)


@main.command(
    epilog="""\b
Examples:
  headrace-operator iam operator --region eu-central-1 --account 123456789012 --prefix shop_
  headrace-operator iam worker --region eu-central-1 --account 123456789012 --queue shop_orders
"""
)
@click.argument("role", type=click.Choice(["operator", "worker", "producer"]))
@click.option("--region", required=True, help="Where the queues are, such as eu-central-1.")
@click.option("--account", required=True, help="Whose they are: twelve digits.")
@click.option("--queue", "queues", multiple=True, help="A queue's name in SQS; may be repeated.")
@click.option("--prefix", help="All queues whose names begin so.")
@click.option("--kms-key", "keys", multiple=True, help="ARN of a key that queues are encrypted with; may be repeated.")
@click.option("--partition", help="Such as aws-cn. Defaults to the region's.")
def iam(
    role: Literal["operator", "worker", "producer"],
    region: str,
    account: str,
    queues: tuple[str, ...],
    prefix: str | None,
    keys: tuple[str, ...],
    partition: str | None,
) -> None:
    """Print the IAM policy with the fewest rights that ROLE needs on queues in SQS, as JSON.

    The dead-letter queue beside each queue is meant, too. See docs/sqs-provisioning.md.
    """
    # Only now: what else this command line does needs none of it.
    from headrace_operator.core.model import OperatorError  # noqa: PLC0415
    from headrace_operator.providers.aws_sqs.iam import policy_json  # noqa: PLC0415

    try:
        document = policy_json(
            role, region=region, account=account, partition=partition, queues=queues, prefix=prefix, keys=keys
        )
    except OperatorError as error:
        raise click.ClickException(error.message) from None
    click.echo(document)


def _require_extra(extra: str, needed: tuple[str, ...]) -> None:
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise click.ClickException(
            f"{', '.join(missing)} not installed: this needs the extra {extra}, pip install 'headrace[{extra}]'"
        )
