"""Our own images, built in Docker from this working tree."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster import base_images, engine
from cluster.places import REPOSITORY
from cluster.progress import step
from support.elasticmq import jars

# How pip reaches its package index: from the environment of who builds, and never from a file of ours.
_INDEX_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")

OPERATOR = "headrace/operator:dev"
WORKER = "headrace/worker:dev"
POSTGRES = "headrace/postgres:dev"
REDIS = "headrace/redis:dev"
ELASTICMQ = "headrace/elasticmq:dev"
BACKENDS = (POSTGRES, REDIS, ELASTICMQ)
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image to build.

    Attributes
    ----------
    context
        The folder that the Dockerfile copies from.
    dockerfile
        Defaults to `Dockerfile` in the context.
    base
        The image that is given as BASE_IMAGE.
    """

    name: str
    context: Path
    dockerfile: Path | None = None
    base: str


def build_images(extra: Mapping[str, Path] | None = None, *, backends: Collection[str] = BACKENDS) -> list[str]:
    """Build the images of operator, worker and what they work on; return the names of all that were built.

    Parameters
    ----------
    extra
        Further images on top of the worker's, by name: the folders of their Dockerfiles.
    backends
        Which of the tests' own servers to build. Defaults to all.
    """
    engine.ensure()
    python = base_images.python()
    wanted = [
        Image(name=OPERATOR, context=REPOSITORY, dockerfile=REPOSITORY / "operator" / "Dockerfile", base=python),
        Image(name=WORKER, context=REPOSITORY, dockerfile=REPOSITORY / "worker" / "Dockerfile", base=python),
        *(_backend(name) for name in backends),
        *(Image(name=name, context=folder, base=WORKER) for name, folder in (extra or {}).items()),
    ]
    for image in wanted:
        build_one(image)
    return [image.name for image in wanted]


def _backend(name: str) -> Image:
    folder = _HERE / name.removeprefix("headrace/").removesuffix(":dev")
    context = jars() if name == ELASTICMQ else folder
    return Image(name=name, context=context, dockerfile=folder / "Dockerfile", base=base_images.debian())


def build_one(image: Image) -> None:
    """Build one image; Docker's own cache makes it quick where nothing changed."""
    with step(f"build {image.name}"):
        base_images.docker_build(
            image.name,
            image.dockerfile or image.context / "Dockerfile",
            context=image.context,
            arguments={"BASE_IMAGE": image.base, **index_arguments(os.environ)},
        )


def index_arguments(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the build arguments by which pip reaches its package index as it does on this machine."""
    arguments = {name: environment[name] for name in _INDEX_VARIABLES if environment.get(name)}
    # The machine's own bundle has a path of its own; in the base image its content stands where Debian keeps it.
    return {**arguments, "PIP_CERT": str(base_images.CA_BUNDLE)}
