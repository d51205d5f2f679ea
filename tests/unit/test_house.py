"""Rules of the house that no tool checks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import headrace

ROOT = Path(__file__).parents[2]
CODE = [*ROOT.glob("worker/headrace/**/*.py"), *ROOT.glob("operator/headrace_operator/**/*.py")]
POSTGRES = ROOT / "worker" / "headrace" / "queues" / "postgres"

LONGEST_CLASS = 250
MOST_ATTRIBUTES = 20


def test_the_folder_operator_is_no_package_or_it_would_shadow_pythons_own() -> None:
    assert (ROOT / "operator").is_dir()
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_tests_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("package", ["kopf", "kubernetes"])
def test_the_workers_lock_holds_nothing_of_the_operators(package: str) -> None:
    locked = (ROOT / "locks" / "worker.txt").read_text()
    assert re.search(r"^asyncpg==", locked, re.MULTILINE), "it is the lock"
    assert not re.search(rf"^{package}\b", locked, re.MULTILINE)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("headrace.cli", ("kopf", "kubernetes", "headrace_operator", "asyncpg", "prometheus_client", "uvloop", "yaml")),
        ("headrace.runtime.worker", ("kopf", "kubernetes", "headrace_operator")),
        ("headrace", ("kopf", "kubernetes", "headrace_operator", "asyncpg", "prometheus_client", "click")),
    ],
)
def test_importing_the_worker_imports_no_more_than_it_needs(module: str, unwanted: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print(*(name for name in {unwanted!r} if name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []


def test_the_public_names_are_sorted_and_there() -> None:
    assert list(headrace.__all__) == sorted(headrace.__all__)
    assert all(hasattr(headrace, name) for name in headrace.__all__)
    public = {name for name, value in vars(headrace).items() if not name.startswith("_") and callable(value)}
    assert public == set(headrace.__all__)


# Whoever mends one of these takes it off its list; nobody adds to them.
TOO_LARGE = {
    "QueueMetrics",  # a counter an attribute
    "Replica",
}
NAMED_ALIKE = {
    # What a handler raises, what a worker settles, and a field of a manifest.
    "DeadLetter",
    "Retry",
    # A field of a manifest, and what it means for a worker.
    "ExecHandler",
    "Handler",
    "HttpHandler",
    "Idempotency",
    "PythonHandler",
    # The operator's and the worker's: neither knows the other's.
    "JsonFormatter",
    "Finding",
    "Pace",
    "Provisioned",
    "Removed",
    "Witness",
    "_Run",
    # Private to their modules.
    "Place",
    "Process",
    "_Server",
}
SQL_IN_PYTHON = {
    "operator/headrace_operator/local/postgres.py",
    "worker/headrace/queues/postgres/migrate.py",
    "worker/headrace/queues/postgres/roles.py",
    "worker/headrace/queues/postgres/transactions.py",
}
JOBS_INSERTED_IN = {
    "functions/enqueue.sql",
    "functions/inspect.sql",
    "functions/jobs.sql",
    "functions/settle.sql",
    "queries/enqueue.sql",
}


@cache
def classes() -> list[tuple[Path, ast.ClassDef]]:
    return [
        (file, node)
        for file in CODE
        for node in ast.walk(ast.parse(file.read_text(), file.name))
        if isinstance(node, ast.ClassDef)
    ]


def lines(node: ast.ClassDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def attributes(node: ast.ClassDef) -> set[str]:
    """What its instances hold: fields, and what methods set on them."""
    fields = {
        field.target.id for field in node.body if isinstance(field, ast.AnnAssign) if isinstance(field.target, ast.Name)
    }
    return fields | {
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute)
        and isinstance(part.ctx, ast.Store)
        and isinstance(part.value, ast.Name)
        and part.value.id == "self"
    }


def test_a_class_fits_in_a_head() -> None:
    too_large = {
        node.name for _, node in classes() if lines(node) > LONGEST_CLASS or len(attributes(node)) > MOST_ATTRIBUTES
    }
    assert too_large == TOO_LARGE


def test_a_class_has_a_name_of_its_own() -> None:
    homes: dict[str, list[Path | None]] = defaultdict(list)
    for file, node in classes():
        # What is of one backend alone: rooms of the same name have classes of the same name.
        homes[node.name].append(file.parent if file.parent.parent.name == "queues" else None)
    alike = {
        name for name, found in homes.items() if len(found) > 1 and (None in found or len(set(found)) < len(found))
    }
    assert alike == NAMED_ALIKE


def sql() -> Iterator[tuple[str, str]]:
    for file in sorted(POSTGRES.rglob("*.sql")):
        yield str(file.relative_to(POSTGRES)), file.read_text()


def test_the_list_of_a_jobs_columns_stands_in_few_files() -> None:
    inserting = {
        name for name, text in sql() if re.search(r"INSERT\s+INTO\s+(?:\S*\.)?\w*jobs\s*\(", text, re.IGNORECASE)
    }
    assert inserting == JOBS_INSERTED_IN


def texts(file: Path) -> Iterator[str]:
    """What a module holds of text, but for its docstrings; of an f-string its parts, each hole as X."""
    tree = ast.parse(file.read_text(), file.name)
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.value


QUERY = re.compile(
    r"\s*(?:SELECT\b.+\bFROM|INSERT INTO|UPDATE\b.+\bSET|DELETE FROM|WITH\b.+\bAS \(|CREATE|ALTER|DROP) ", re.DOTALL
)


def test_sql_stands_in_files_of_its_own() -> None:
    speaking_sql = {str(file.relative_to(ROOT)) for file in CODE if any(map(QUERY.match, texts(file)))}
    assert speaking_sql == SQL_IN_PYTHON
