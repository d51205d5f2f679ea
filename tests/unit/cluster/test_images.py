from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cluster import images
from cluster.places import REPOSITORY


def test_package_indexes_come_from_the_environment_and_from_nowhere_else() -> None:
    environment = {"PIP_INDEX_URL": "https://index.example/simple", "PIP_TRUSTED_HOST": "", "HOME": "/root"}

    arguments = images.index_arguments(environment)

    assert arguments["PIP_INDEX_URL"] == "https://index.example/simple"
    assert "PIP_TRUSTED_HOST" not in arguments
    assert "HOME" not in arguments


def test_the_certificates_are_those_of_the_base_image_whatever_they_are_called_on_the_machine() -> None:
    arguments = images.index_arguments({"PIP_CERT": "/home/someone/company.pem"})

    assert arguments["PIP_CERT"] == "/etc/ssl/certs/ca-certificates.crt"


@pytest.mark.parametrize("package", ["worker", "operator"])
def test_an_image_is_built_from_its_lock_and_runs_as_nobody_in_particular(package: str) -> None:
    dockerfile = (REPOSITORY / package / "Dockerfile").read_text()

    assert f"--require-hashes --requirement locks/{package}.txt" in dockerfile
    assert "USER 10001:10001" in dockerfile
    assert "://" not in dockerfile


def test_postgres_refuses_to_start_without_a_password(tmp_path: Path) -> None:
    entrypoint = REPOSITORY / "tests" / "cluster" / "postgres" / "entrypoint"

    done = subprocess.run(
        ["sh", entrypoint],
        env={"PGDATA": str(tmp_path / "data"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert "give the password of the superuser in POSTGRES_PASSWORD" in done.stderr
