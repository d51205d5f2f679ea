from __future__ import annotations

import pytest

from cluster import versions
from cluster.errors import ClusterError


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go1.26.8", (1, 26, 8)),
        ("Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0\n", (1, 32, 4)),
        ("v4.3.1+gabc1234", (4, 3, 1)),
        ("kind v0.33.0 go1.26.8 linux/amd64", (0, 33, 0)),
        ("1.27", (1, 27, 0)),
    ],
)
def test_the_version_is_the_first_number_that_a_tool_tells(text: str, version: tuple[int, int, int]) -> None:
    assert versions.parse(text) == version


def test_a_text_without_a_version_is_an_error_that_shows_it() -> None:
    with pytest.raises(ClusterError, match="no version number in 'devel'"):
        versions.parse("devel\n")


@pytest.mark.parametrize(
    ("text", "oldest", "new_enough"),
    [
        ("Client Version: v1.32.4-dispatcher", versions.OLDEST_KUBECTL, False),
        ("Client Version: v1.36.0", versions.OLDEST_KUBECTL, True),
        ("Client Version: v1.100.0", versions.OLDEST_KUBECTL, True),
        ("go1.9.2", versions.OLDEST_GO, False),
        ("", versions.OLDEST_GO, False),
    ],
)
def test_versions_compare_as_numbers_and_a_tool_that_tells_none_is_too_old(
    text: str,
    oldest: str,
    new_enough: bool,
) -> None:
    assert versions.at_least(text, oldest) is new_enough
