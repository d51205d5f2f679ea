"""What docs/idempotency.md tells people to type, for tests that it is right."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "idempotency.md"


def documented_rule(title: str, password: str) -> str:
    """What follows ``ACL SETUSER headrace`` under this title."""
    found = re.search(rf"<!-- {title} -->\n```\nACL SETUSER headrace (.*?)\n```", PAGE.read_text(), re.DOTALL)
    assert found, f"{PAGE.name} has no rule {title}"
    return found[1].replace("PASSWORD", password)
