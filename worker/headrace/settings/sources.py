"""Where settings are given: options, variables, a file, the directory of a binding. Each becomes a tree of texts."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.settings.kinds import Command, Url
from headrace.settings.table import (
    ACCESS_KEY_ID,
    BY_KEY,
    CONNECTION,
    DEAD_LETTER_QUEUE_URL,
    DIRECT_CONNECTION,
    ENDPOINT_URL,
    NO_SETTINGS,
    POSTGRES_CA,
    PREFIX,
    QUEUE_NAME,
    QUEUE_URL,
    QUEUES,
    REDIS_CA,
    REDIS_CONNECTION,
    REDIS_MODE,
    REGION,
    ROOT,
    SCHEMA,
    SECRET_ACCESS_KEY,
    SENTINEL_MASTER,
    SESSION_TOKEN,
    TABLE,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headrace.settings.table import Setting

# .NET itself would have a variable for `BackgroundJobs:` begin without the underscore.
_VARIABLE = re.compile(rf"BACKGROUND_?JOBS__(?:{QUEUES}__(?P<index>\d+)__)?(?P<name>.+)", re.IGNORECASE | re.ASCII)

_SECTIONS = {
    ".".join(words[:length])
    for words in (setting.key.split(".") for setting in TABLE)
    for length in range(1, len(words))
}

_BINDING_FILES: dict[str, dict[str, Setting[Any]]] = {
    "postgresql": {
        "uri": CONNECTION,
        "direct-uri": DIRECT_CONNECTION,
        "schema": SCHEMA,
        "queue": QUEUE_NAME,
        "ca.crt": POSTGRES_CA,
    },
    "sqs": {
        # The same with two schemes; ours holds.
        "queue-url": QUEUE_URL,
        "uri": QUEUE_URL,
        "dead-letter-queue-url": DEAD_LETTER_QUEUE_URL,
        "region": REGION,
        "endpoint-url": ENDPOINT_URL,
        "queue": QUEUE_NAME,
        "access-key-id": ACCESS_KEY_ID,
        "secret-access-key": SECRET_ACCESS_KEY,
        "session-token": SESSION_TOKEN,
    },
    "redis": {"uri": REDIS_CONNECTION, "mode": REDIS_MODE, "sentinel-master": SENTINEL_MASTER, "ca.crt": REDIS_CA},
}


@dataclass(frozen=True, slots=True)
class Given:
    """What somebody gave for a setting."""

    text: str = field(repr=False)
    where: str
    """Where it is to be mended: an option, a variable, a line of a file."""
    origin: str
    """Whom it comes from, in a few words."""


Layer = dict[str, Given]
"""By `Setting.key`."""


@dataclass(frozen=True, slots=True)
class Tree:
    """All that one source gives."""

    shared: Layer = field(default_factory=dict)
    queues: dict[int, Layer] = field(default_factory=dict)
    """By their place in the list of queues."""


def from_options(options: Mapping[str, str | None]) -> Tree:
    """What was given on the command line, by `Setting.path`. An empty text ends what others say."""
    tree = Tree()
    for path, text in options.items():
        if text is not None:
            setting = BY_KEY[path.lower()]
            tree.shared[setting.key] = Given(text.strip(), setting.option or path, f"option {setting.option}")
    return tree


def from_environment(environ: Mapping[str, str], problems: list[str]) -> Tree:
    """What variables say. Case says nothing, as in .NET."""
    tree = Tree()
    for variable, value in sorted(environ.items()):
        match = _VARIABLE.fullmatch(variable)
        if match is None:
            continue
        index, name = match["index"], match["name"]
        setting = _named(name)
        if setting is None or (index is not None and not setting.is_per_queue):
            names = [known.variable.removeprefix(PREFIX) for known in TABLE if known.is_per_queue or index is None]
            stem = variable[: len(variable) - len(name)]
            problems.append(f"{variable}: {_unknown(name, setting, names, stem)}")
        elif text := value.strip():
            layer = tree.shared if index is None else tree.queues.setdefault(int(index), {})
            if setting.key in layer and layer[setting.key].text != text:
                problems.append(f"{variable}, {layer[setting.key].where}: two variables for one setting; leave one out")
            layer[setting.key] = Given(text, variable, f"variable {variable}")
    for setting in TABLE:
        if setting.own_variable and (text := environ.get(setting.own_variable, "").strip()):
            tree.shared[setting.key] = Given(text, setting.own_variable, f"variable {setting.own_variable}")
    return tree


def _named(name: str) -> Setting[Any] | None:
    return BY_KEY.get(name.lower().replace("__", "."))


def is_secret_variable(variable: str) -> bool:
    """Whether a password may be in it: for what runs jobs as programs, whose environment it must stay out of."""
    match = _VARIABLE.fullmatch(variable)
    settings = [_named(match["name"])] if match else [known for known in TABLE if known.own_variable == variable]
    return any(setting is not None and isinstance(setting.kind, Url) for setting in settings)


def _unknown(name: str, setting: Setting[Any] | None, names: list[str], stem: str = "") -> str:
    if name.lower().replace("__", ".") in NO_SETTINGS:
        return (
            "credentials are no settings: give them by AWS's own variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), "
            "a role, or the files of a binding"
        )
    if setting is not None:
        return f"is one for all queues: give it beside {QUEUES}, not in it"
    spelled = {known.lower(): known for known in names}
    for known in names:
        # Of a name alone, the section may be what is missing.
        spelled.setdefault(known.lower().rpartition(".")[2], known)
    near = difflib.get_close_matches(name.lower(), spelled, n=1)
    return f"there is no such setting; did you mean {stem}{spelled[near[0]]}?" if near else "there is no such setting"


def from_file(path: str, problems: list[str]) -> Tree:
    """What a YAML or JSON file says below `ROOT`. Other roots are somebody else's."""
    tree = Tree()
    name = Path(path).name
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        problems.append(f"{path}: can't be read ({error.strerror}): --config or HEADRACE_CONFIG must name a file")
        return tree
    except UnicodeDecodeError:
        problems.append(f"{path}: can't be read: must be in UTF-8")
        return tree
    import yaml  # noqa: PLC0415 - a worker without a file starts without it

    try:
        # YAML takes JSON, but for the tabs between its tokens.
        loader = yaml.SafeLoader(text.replace("\t", " ") if text.lstrip().startswith("{") else text)
        document = loader.get_single_node()
        _FileReader(yaml, loader, name, problems).read(document, tree)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        # What it quotes may be a secret.
        complaint = re.sub(r"'[^']*'|\"[^\"]*\"", "…", error.problem or "")
        problems.append(f"{name}{line}: must be YAML or JSON: {complaint}")
    except yaml.YAMLError:
        problems.append(f"{name}: must be YAML or JSON, without control characters")
    except RecursionError:
        problems.append(f"{name}: is nested too deeply")
    return tree


class _FileReader:
    """Walks a file's nodes, which know their lines."""

    def __init__(self, yaml: Any, loader: Any, name: str, problems: list[str]) -> None:
        self._yaml = yaml
        self._loader = loader
        self._name = name
        self._problems = problems

    def read(self, document: Any, tree: Tree) -> None:
        if document is None:
            return
        roots = [value for _, key, value in self._entries(document, "") if key.lower() == ROOT.lower()]
        if not roots:
            self._problems.append(f"{self._name}: has no {ROOT}: at its root; put the settings below it")
        for root in roots:
            self._section(root, "", tree.shared, tree)

    def _section(self, node: Any, section: str, layer: Layer, tree: Tree | None) -> None:
        """Settings and sections below a section; `tree` where queues may be listed, so at the top alone."""
        for key_node, key, value in self._entries(node, section):
            path = f"{section}.{key}".lstrip(".")
            setting = BY_KEY.get(path.lower())
            if tree is not None and key.lower() == QUEUES.lower() and not section:
                self._queues(value, tree)
            elif path.lower() in _SECTIONS:
                self._section(value, path, layer, tree)
            elif setting is not None and (setting.is_per_queue or tree is not None):
                place = self._at(key_node)
                where = f"{place}: {setting.path}"
                text = self._text(setting, value)
                if text is None:
                    self._problems.append(f"{where}: must be {setting.kind.words}")
                elif text:
                    layer[setting.key] = Given(text, where, place)
            else:
                names = [known.path for known in TABLE if known.is_per_queue or tree is not None]
                complaint = _unknown(path, setting, [*names, *([QUEUES] if tree else [])])
                self._problems.append(f"{self._at(key_node)}: {path}: {complaint}")

    def _queues(self, node: Any, tree: Tree) -> None:
        if not isinstance(node, self._yaml.SequenceNode):
            self._problems.append(f"{self._at(node)}: {QUEUES}: must be a list, an item a queue")
            return
        for index, item in enumerate(node.value):
            self._section(item, "", tree.queues.setdefault(index, {}), None)

    def _entries(self, node: Any, section: str) -> Iterator[tuple[Any, str, Any]]:
        """The keys and values of a mapping."""
        if isinstance(node, self._yaml.ScalarNode) and node.tag.endswith(":null"):
            return
        if not isinstance(node, self._yaml.MappingNode):
            self._problems.append(f"{self._at(node)}: {section or ROOT}: must be a mapping, NAME: VALUE")
            return
        self._loader.flatten_mapping(node)
        found: dict[str, tuple[Any, str, Any]] = {}
        for key_node, value in node.value:
            key = key_node.value if isinstance(key_node, self._yaml.ScalarNode) else ""
            # What is merged in comes first, stands elsewhere, and gives way.
            before = found.get(key.lower())
            if before is not None and before[0].start_mark.index in range(node.start_mark.index, node.end_mark.index):
                self._problems.append(f"{self._at(key_node)}: {f'{section}.{key}'.lstrip('.')}: is given twice")
            found[key.lower()] = (key_node, key, value)
        yield from found.values()

    def _text(self, setting: Setting[Any], node: Any) -> str | None:
        """As a variable would have it; None where it is no value, or none of such a setting."""
        if isinstance(node, self._yaml.ScalarNode):
            return "" if node.tag.endswith(":null") else str(node.value).strip()
        if isinstance(node, self._yaml.SequenceNode) and isinstance(setting.kind, Command):
            items = [item.value if isinstance(item, self._yaml.ScalarNode) else None for item in node.value]
            return json.dumps(items, ensure_ascii=False)
        return None

    def _at(self, node: Any) -> str:
        return f"{self._name} line {node.start_mark.line + 1}"


def from_binding(
    environ: Mapping[str, str], kinds: tuple[str, ...], queue: str | None, problems: list[str]
) -> tuple[str, Layer]:
    """What a directory of the Service Binding specification says: of several for queues, that of the queue.

    Returns
    -------
    tuple[str, Layer]
        The binding's type, one of `kinds`; empty, with nothing, where there is none.
    """
    root = environ.get("SERVICE_BINDING_ROOT")
    if not root:
        return "", {}
    try:
        bindings = _bindings(Path(root))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not in UTF-8"
        problems.append(f"SERVICE_BINDING_ROOT={root}: can't be read ({reason})")
        return "", {}
    bindings = [(place, entries) for place, entries in bindings if entries.get("type") in kinds]
    own = [(place, entries) for place, entries in bindings if queue and entries.get("queue") == queue]
    if len(bindings) > 1 and not own:
        fix = f"give one, or set {REDIS_CONNECTION.variable}" if kinds == ("redis",) else "say which queue"
        problems.append(f"SERVICE_BINDING_ROOT={root}: several bindings of type {' or '.join(kinds)}; {fix}")
        return "", {}
    for place, entries in (own or bindings)[:1]:
        kind = entries["type"]
        return kind, {
            setting.key: Given(
                str(place / name) if setting.path.endswith("CaFile") else entries[name],
                f"{place / name}",
                f"binding {place}",
            )
            for name, setting in _BINDING_FILES[kind].items()
            if entries.get(name)
        }
    return "", {}


def _bindings(root: Path) -> list[tuple[Path, dict[str, str]]]:
    """The bindings below the root; or the root itself, where it is one, and whose it is goes without saying."""
    if (root / "uri").is_file() or (root / "queue-url").is_file():
        return [(root, {"type": "postgresql", **_entries(root)})]
    return [(directory, _entries(directory)) for directory in sorted(root.iterdir()) if directory.is_dir()]


def _entries(directory: Path) -> dict[str, str]:
    """A binding's entries: a file each. Kubernetes' own bookkeeping among them begins with dots."""
    files = (path for path in directory.iterdir() if not path.name.startswith(".") and path.is_file())
    return {path.name: path.read_text("utf-8").strip() for path in files}
