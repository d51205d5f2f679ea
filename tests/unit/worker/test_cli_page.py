"""docs/cli.md and the commands' own help know the same commands, options and states."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click
import pytest
from click.testing import CliRunner

from headrace.cli import main
from headrace.queues.inspection import JobState
from headrace.settings.table import GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


ALL = list(commands(main))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_every_command_is_on_the_page_and_teaches_by_an_example(path: tuple[str, ...], command: click.Command) -> None:
    group, name = path[0], path[-1]
    assert any(f"headrace {group}" in line and name in line for line in PAGE.splitlines() if line.startswith("| `"))
    assert command.epilog is not None
    assert f"headrace {' '.join(path)}" in command.epilog


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_every_option_says_what_it_is_for(path: tuple[str, ...], command: click.Command) -> None:
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_the_page_has_every_option_of_enqueue_and_of_the_dead_letter_queue() -> None:
    for command in (command for path, command in ALL if path[0] in {"enqueue", "dlq"}):
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in PAGE


def test_whoever_changes_something_can_say_why() -> None:
    changes = {"pause", "resume", "cancel", "retry", "redrive", "purge", "recover-stuck"}
    takes_why = {path[-1] for path, command in ALL if any("--why" in parameter.opts for parameter in command.params)}
    assert takes_why == changes
    assert "--why" in PAGE


def test_the_page_has_every_state() -> None:
    assert [state for state in get_args(JobState) if f"`{state}`" not in PAGE] == []


def test_the_workers_help_has_every_option_in_its_group() -> None:
    shown = CliRunner().invoke(main, ["worker", "--help"]).output
    for title, settings in GROUPS.items():
        options = [setting.option for setting in settings if setting.option]
        section = shown.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        assert [option for option in options if option not in section] == []
    assert "--print-config" in shown
