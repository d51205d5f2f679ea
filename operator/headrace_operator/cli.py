"""``headrace-operator``: the operator's command line."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys

import click

_NEEDED = ("aiohttp", "asyncpg", "cryptography", "kopf", "kubernetes", "msgspec", "prometheus_client")

_ENVIRONMENT = """\b
Settings are environment variables:
  HEADRACE_NAMESPACE                 its own namespace (headrace-system)
  HEADRACE_WATCH_NAMESPACES          where to work, separated by commas; empty: everywhere
  HEADRACE_WORKER_IMAGE              what pools run that name no image (headrace/worker:VERSION)
  HEADRACE_WORKER_IMAGE_PULL_POLICY  for that image: Always, IfNotPresent or Never
  HEADRACE_METRICS_API_ADDRESS       where to serve external.metrics.k8s.io (0.0.0.0:8443); empty: nowhere
  HEADRACE_METRICS_API_SERVICE       the Service in front of it (headrace-operator-metrics-api)
  HEADRACE_LISTEN_ADDRESS            where to serve /healthz, /readyz and /metrics (0.0.0.0:8080)
  HEADRACE_LOG_FORMAT                text or json (text)
  HEADRACE_LOG_LEVEL                 debug, info, warning or error (info)
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
    _require_extra()
    # Only now: without the extra these can't be imported.
    from headrace_operator.core.model import OperatorError  # noqa: PLC0415
    from headrace_operator.handlers import lifecycle  # noqa: PLC0415
    from headrace_operator.logs import configure_logging  # noqa: PLC0415
    from headrace_operator.settings import SettingsError, settings_from_env  # noqa: PLC0415

    options = {
        "HEADRACE_WATCH_NAMESPACES": ",".join(namespaces),
        "HEADRACE_LOG_LEVEL": log_level,
        "HEADRACE_LOG_FORMAT": log_format,
    }
    try:
        settings = settings_from_env({**os.environ, **{name: value for name, value in options.items() if value}})
    except SettingsError as error:
        raise click.ClickException(f"these settings can't be:\n{error}") from None
    configure_logging(settings.log_format, settings.log_level)
    try:
        asyncio.run(lifecycle.run(settings))
    except OperatorError as error:
        raise click.ClickException(f"{error.reason}: {error.message}") from None
    except KeyboardInterrupt:
        sys.exit(130)


def _require_extra() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise click.ClickException(
            f"{', '.join(missing)} not installed: the operator needs its extra, pip install 'headrace[operator]'"
        )
