from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster import engine
from cluster.errors import ClusterError

STATUS = "Name:\tpython\nCapInh:\t0000000000000000\nCapBnd:\t{}\nCapAmb:\t0000000000000000\n"


@pytest.mark.parametrize(
    ("bounding_set", "lacks"),
    [
        ("000001ffffffffff", False),
        ("000001fffeffffff", True),
        ("00000000a80425fb", True),
        ("0000000001000000", False),
    ],
)
def test_the_capability_is_read_from_the_bounding_set(bounding_set: str, lacks: bool) -> None:
    assert engine.lacks_sys_resource(STATUS.format(bounding_set)) is lacks


def test_a_kernel_that_tells_no_bounding_set_withholds_nothing() -> None:
    assert not engine.lacks_sys_resource("Name:\tpython\n")


def test_our_engine_keeps_its_data_and_run_time_files_apart() -> None:
    configuration = engine.daemon_configuration(data=Path("/cache/data"), runtime=None)

    assert configuration["data-root"] == "/cache/data"
    assert configuration["pidfile"] != "/var/run/docker.pid"
    assert configuration["exec-root"] != "/var/run/docker"
    assert "default-runtime" not in configuration


def test_a_machine_without_the_capability_gets_the_runtime_that_does_not_ask_for_it() -> None:
    configuration = engine.daemon_configuration(data=Path("/cache/data"), runtime=Path("/cache/runc-lesscaps"))

    assert configuration["default-runtime"] == "lesscaps"
    assert configuration["runtimes"] == {"lesscaps": {"path": "/cache/runc-lesscaps"}}
    json.dumps(configuration)


def test_an_engine_named_by_the_user_is_not_replaced_by_ours(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")

    with pytest.raises(ClusterError, match=r"no Docker engine answers at DOCKER_HOST=.*: start it, or unset"):
        engine.ensure()
