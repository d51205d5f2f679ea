"""The images that ours are built from: pulled where a registry answers, else made from Debian's packages."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster.engine import docker
from cluster.packages import provide
from cluster.places import cache, fingerprint, locked
from cluster.processes import pipe, run, succeeds
from cluster.progress import step

_PYTHON = "python:3.13-slim"
_DEBIAN = "debian:bookworm-slim"
_SUITE = "bookworm"
_UNREAD = ("doc", "info", "locale", "man")
# Where Debian, and so every image here, keeps the authorities it trusts.
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
# As in Debian's own slim images: what nobody reads inside a container is neither installed nor cached.
_SLIM = {
    "etc/dpkg/dpkg.cfg.d/slim": "".join(f"path-exclude /usr/share/{name}/*\n" for name in _UNREAD),
    "etc/apt/apt.conf.d/slim": (
        'Acquire::Languages "none";\n'
        'Dir::Cache::pkgcache "";\n'
        'Dir::Cache::srcpkgcache "";\n'
        'DPkg::Post-Invoke {"rm -f /var/cache/apt/archives/*.deb";};\n'
    ),
}
# A registry that can be reached answers in less; one that can't should cost no more.
_REGISTRY_TIMEOUT_SECONDS = 5.0


def debian() -> str:
    """Return a Debian image; one made here has the machine's own certificate authorities."""
    return pulled(_DEBIAN) or _bootstrapped()


def python() -> str:
    """Return an image with Python and its venv module."""
    return pulled(_PYTHON) or build_image(
        "headrace/python-base",
        f"FROM {debian()}\n"
        "RUN apt-get update && DEBIAN_FRONTEND=noninteractive"
        " apt-get install -y --no-install-recommends ca-certificates python3 python3-venv"
        " && rm -rf /var/lib/apt/lists/*\n",
    )


def exists(image: str) -> bool:
    """Whether the engine has the image."""
    return succeeds(["docker", "image", "inspect", image])


def pulled(image: str) -> str | None:
    """Return `image` once the engine has it, or None where no registry gives it."""
    if exists(image):
        return image
    if not succeeds(["docker", "manifest", "inspect", image], timeout_seconds=_REGISTRY_TIMEOUT_SECONDS):
        return None
    with step(f"pull {image}"):
        docker("pull", "--quiet", image)
    return image


def build_image(
    repository: str, dockerfile: str | Path, *, context: Path | None = None, arguments: Mapping[str, str] | None = None
) -> str:
    """Build an image unless the engine has it already, tagged by a hash of all that goes into it; return its name.

    Parameters
    ----------
    dockerfile
        The text of a Dockerfile, or a file.
    context
        The folder it copies from. Defaults to none.
    """
    given = arguments or {}
    parts = [dockerfile, *([context] if context else []), *(f"{name}={value}" for name, value in sorted(given.items()))]
    image = f"{repository}:{fingerprint(*parts)}"
    if not exists(image):
        with step(f"build {image}"), tempfile.TemporaryDirectory() as empty:
            file = dockerfile if isinstance(dockerfile, Path) else Path(empty) / "Dockerfile"
            if isinstance(dockerfile, str):
                file.write_text(dockerfile)
            docker_build(image, file, context=context or Path(empty), arguments=given)
    return image


def docker_build(image: str, dockerfile: Path, *, context: Path, arguments: Mapping[str, str]) -> None:
    """Run `docker build` with BuildKit where Docker has it, else with the builder it had before."""
    buildkit = "1" if succeeds(["docker", "buildx", "version"]) else "0"
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    run(
        # The machine's own network: package indexes are reached as the machine reaches them.
        ["docker", "build", "--quiet", "--network=host", f"--tag={image}", f"--file={dockerfile}", *words, context],
        environment={"DOCKER_BUILDKIT": buildkit},
        failure=f"{image} can't be built from {dockerfile}",
    )


def _bootstrapped() -> str:
    bundle = CA_BUNDLE if CA_BUNDLE.exists() else ""
    image = f"headrace/debian:{_SUITE}-{fingerprint(bundle, *_SLIM.values())}"
    with locked("debian-image"):
        if not exists(image):
            provide(("debootstrap",), packages=("debootstrap",), why=f"{_DEBIAN} can't be pulled, so it is made here")
            with (
                step(f"make a Debian {_SUITE} image from its packages", hint="about a minute"),
                tempfile.TemporaryDirectory(prefix=".debian-", dir=cache()) as folder,
            ):
                _bootstrap(Path(folder), image)
    return image


def _bootstrap(root: Path, image: str) -> None:
    debootstrap: list[str | Path] = [
        "debootstrap",
        "--variant=minbase",
        "--include=ca-certificates",
        _SUITE,
        root,
        *_mirror(),
    ]
    run(
        # In a mount namespace of its own: what it mounts in there is gone with it, however it ends.
        ["unshare", "--mount", *debootstrap],
        failure="debootstrap can't fetch Debian's packages: see that apt-get works on this machine",
    )
    for unread in (*(f"usr/share/{name}" for name in _UNREAD), "var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / unread)
        (root / unread).mkdir()
    for name, content in _SLIM.items():
        (root / name).write_text(content)
    if CA_BUNDLE.exists():
        shutil.copy(CA_BUNDLE, root / CA_BUNDLE.relative_to("/"))
    pipe(["tar", "-C", root, "-c", "."], ["docker", "import", "-", image], failure=f"Docker can't import {image}")


def _mirror() -> list[str]:
    """Return the mirror that the machine itself uses for this suite, if it does; else debootstrap has its own."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {_SUITE}", "Component: main"]
    return run(command).split()[:1] if succeeds(command) else []
