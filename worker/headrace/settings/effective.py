"""The settings that hold, as the file that would say the same, each with where it comes from. Secrets are masked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.settings.table import QUEUES, ROOT, TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headrace.settings.reader import Resolved
    from headrace.settings.scope import Effective
    from headrace.settings.table import Setting


def as_yaml(resolved: Resolved) -> str:
    """Fed back as a file, once the secrets are filled in, it makes the same settings."""
    shared = [setting for setting in TABLE if not setting.is_per_queue]
    own = [setting for setting in TABLE if setting.is_per_queue]
    lines = [f"{ROOT}:"]
    if len(resolved.queues) == 1:
        lines += _lines(TABLE, {**resolved.shared, **resolved.queues[0]})
    else:
        lines += [*_lines(shared, resolved.shared), f"  {QUEUES}:"]
        for queue in resolved.queues:
            first, *others = _lines(own, queue)
            lines += [f"    - {first.strip()}", *(f"    {line}" for line in others)]
    return "\n".join(lines) + "\n"


def _lines(settings: tuple[Setting[Any], ...] | list[Setting[Any]], values: Mapping[str, Effective]) -> Iterator[str]:
    """Lines of a mapping that stands two deep; what stands in sections comes after the rest, a section together."""
    import yaml  # noqa: PLC0415 - only who looks at settings needs it

    open_sections: list[str] = []
    for setting in sorted(settings, key=lambda setting: setting.section):
        effective = values.get(setting.key)
        if effective is None:
            continue
        *sections, name = setting.path.split(".")
        for depth, section in enumerate(sections):
            if open_sections[: depth + 1] != sections[: depth + 1]:
                yield f"{'  ' * (depth + 1)}{section}:"
        open_sections = sections
        plain = setting.kind.plain(effective.value)
        # On one line, with its origin behind it.
        texts = [plain] if isinstance(plain, str) else plain if isinstance(plain, list) else []
        style = None if all(text.isprintable() for text in texts) else '"'
        value = yaml.safe_dump(plain, default_flow_style=True, default_style=style, allow_unicode=True, width=2**31)
        value = value.removesuffix("\n").removesuffix("\n...")
        yield f"{'  ' * (len(sections) + 1)}{name}: {value}  # {effective.origin}"
