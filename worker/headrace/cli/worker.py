"""``headrace worker``: run jobs until told to stop."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from headrace import logs
from headrace.cli.common import EXIT_FAILED, EXIT_USAGE, with_exit_statuses
from headrace.cli.options import block
from headrace.queues.errors import QueueError
from headrace.settings import CONFIG_VARIABLE, as_yaml, resolve
from headrace.settings.table import COMMAND, GROUPS, TABLE, default_words

if TYPE_CHECKING:
    from headrace.settings import WorkerSettings
    from headrace.settings.table import Setting

log = logging.getLogger(__name__)


def _parameter(setting: Setting[Any]) -> str:
    return setting.key.replace(".", "_")


class _SettingOption(click.Option):
    """An option that is a setting's."""

    def __init__(self, setting: Setting[Any]) -> None:
        assert setting.option is not None, "it has one"
        default = default_words(setting)
        text = setting.meaning + (f" Defaults to {default}." if default else "")
        super().__init__([setting.option, _parameter(setting)], help=text, metavar=setting.kind.metavar)
        self.setting = setting


class _WorkerCommand(click.Command):
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """In the groups of the settings' table."""
        groups: dict[str, list[tuple[str, str]]] = {title: [] for title in GROUPS}
        others: list[tuple[str, str]] = []
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if isinstance(option, _SettingOption) and record:
                title = next(title for title, settings in GROUPS.items() if option.setting in settings)
                groups[title].append(record)
            elif record:
                others.append(record)
        for title, records in {**groups, "Settings as a whole": others}.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


@click.command(
    "worker",
    cls=_WorkerCommand,
    params=[_SettingOption(setting) for setting in TABLE if setting.option],
    short_help="Run jobs.",
    epilog=block(
        "Example",
        "headrace worker --queue thumbnails --app shop.jobs:app",
        "headrace worker --queue mails --exec '/bin/send --from shop@example.com' --concurrency 4",
        "headrace worker --config worker.yaml",
        "headrace worker --config worker.yaml --print-config",
    )
    + block(
        "Exit status",
        "0  stopped as told, or the settings printed or checked",
        "1  failed; its jobs go back",
        "2  wrong settings: each is named, where it stands, with its fix",
    ),
)
@click.option(
    "--config",
    metavar="FILE",
    help=f"YAML or JSON, with BackgroundJobs at its root. Several queues are listed there. Defaults to "
    f"${CONFIG_VARIABLE}.",
)
@click.option(
    "--print-config",
    is_flag=True,
    help="Print the settings that hold, as such a file, each with where it comes from and secrets masked; then leave.",
)
@click.option(
    "--check", is_flag=True, help="Load the settings and the handlers, tell what is wrong with them, and leave."
)
@with_exit_statuses
def worker(*, config: str | None, print_config: bool, check: bool, **texts: str | None) -> None:
    """Run the jobs of a queue, or of several.

    Every setting can come from an option, the environment (BACKGROUND_JOBS__MAXCONCURRENTJOBS) or a file, and the
    first of these holds. SIGTERM drains: no new jobs, running ones may finish; a second SIGTERM hands them back at
    once.
    """
    options = {setting.path: texts[_parameter(setting)] for setting in TABLE if setting.option}
    if command := options[COMMAND.path]:
        options[COMMAND.path] = json.dumps(_words(command))
    resolved = resolve(os.environ | ({CONFIG_VARIABLE: config} if config else {}), options)
    if print_config:
        click.echo(as_yaml(resolved), nl=False)
    else:
        _run(resolved.settings, checks_alone=check)


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise click.UsageError(f"{COMMAND.option}: {error}; quote it as for a shell") from None


def _run(settings: WorkerSettings, *, checks_alone: bool) -> None:
    logs.configure(settings.log_level, settings.log_format)
    # Only now: the SDK's other commands need none of the worker's packages.
    import prometheus_client  # noqa: PLC0415
    import uvloop  # noqa: PLC0415

    from headrace.composition import handler_of, run  # noqa: PLC0415
    from headrace.health import HealthServerError  # noqa: PLC0415
    from headrace.idempotency.base import IdempotencyConfigurationError  # noqa: PLC0415
    from headrace.metrics import Metrics  # noqa: PLC0415
    from headrace.otel import TelemetryError, exporting  # noqa: PLC0415
    from headrace.runtime.handlers import HandlerError  # noqa: PLC0415
    from headrace.runtime.process import leave  # noqa: PLC0415

    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        handlers = [handler_of(queue) for queue in settings.queues]
        if checks_alone:
            return
        metrics = Metrics()
        with exporting(os.environ, metrics.registry, instance=settings.worker_name) as tracer:
            uvloop.run(run(settings, handlers, metrics, tracer))
    except (HandlerError, HealthServerError, IdempotencyConfigurationError, TelemetryError) as error:
        click.echo(f"headrace: {error}", err=True)
        sys.exit(EXIT_USAGE)
    except QueueError:
        raise  # A URL that leads to no queue; whatever happens to a backend later, the worker waits.
    except Exception:
        log.critical("the worker failed; its jobs go back", exc_info=True)
        leave(EXIT_FAILED)
