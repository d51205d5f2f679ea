"""A DSN means to the operator what it means to the pods of its JobQueue's namespace."""

from __future__ import annotations

import pytest

from headrace_operator.core.hosts import seen_from_elsewhere
from headrace_operator.providers.postgres.place import with_hosts


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("postgresql://u:p%40@pg:5432/d?sslmode=require", "postgresql://u:p%40@pg.shop.svc:5432/d?sslmode=require"),
        ("postgresql://u:p@pg/d", "postgresql://u:p@pg.shop.svc/d"),
        ("postgresql://one:5432,two:5433/d", "postgresql://one.shop.svc:5432,two.shop.svc:5433/d"),
        ("postgresql://pg.data/d", "postgresql://pg.data/d"),
        ("postgresql://db.example.com:5432/d", "postgresql://db.example.com:5432/d"),
        ("postgresql://10.0.0.7:5432/d", "postgresql://10.0.0.7:5432/d"),
        ("postgresql://[fd00::7]:5432/d", "postgresql://[fd00::7]:5432/d"),
        ("postgresql://localhost/d", "postgresql://localhost/d"),
        ("postgresql:///d?host=/run/postgresql", "postgresql:///d?host=/run/postgresql"),
    ],
)
def test_short_names_are_those_of_the_namespace(written: str, seen: str) -> None:
    assert with_hosts(written, lambda host: seen_from_elsewhere(host, "shop")) == seen
