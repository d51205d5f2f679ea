"""The harness as a command: `python -m cluster --help`."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from cluster import build, deploy, engine, kind, tools, versions
from cluster.errors import ClusterError
from cluster.images import build_images
from cluster.places import BUILD, KUBECONFIG, cache

# As systemd's tools say of a service that isn't running.
_NOT_RUNNING = 3

_DESCRIPTION = f"""\
A real Kubernetes {versions.KUBERNETES} on this machine, for the demo and the tests.

What the machine has is used: a Docker engine that answers, kind, kubectl and helm on PATH, images that a registry
gives. What it lacks is made: on Debian as root an engine of our own is started (Debian's docker.io), and Kubernetes,
kind, CoreDNS and helm are compiled from their Go modules into {cache()}.
"""

_EPILOG = """\
examples:
  python -m cluster up                        a cluster, with its kubeconfig in build/kubeconfig
  python -m cluster images                    headrace/operator:dev, headrace/worker:dev, and what the tests run on
  python -m cluster load headrace/worker:dev  an image from Docker into the cluster
  python -m cluster control-plane             an API server with its controllers, no nodes, no root, in seconds
  python -m cluster down                      nothing is left running

Every command may be run again at any time, also after one that was killed.
"""


def main() -> int:
    """Run the command that the arguments name; return its exit status."""
    arguments = _parser().parse_args()
    # An orderly end of whatever runs, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status: int = arguments.run(arguments)
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cluster",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary)
        added.set_defaults(run=run)
        return added

    command("up", _up, "bring up the kind cluster, or find it healthy")
    command("down", _down, "delete the cluster and stop the Docker engine, if it is ours")
    command("status", _status, f"say what runs; exit status {_NOT_RUNNING} where the cluster is not up")

    load = command("load", _load, "copy images from Docker into the cluster")
    load.add_argument("images", nargs="+", metavar="IMAGE")

    images = command(
        "images", _images, "build the images of operator, worker and the tests' PostgreSQL and Redis in Docker"
    )
    images.add_argument(
        "--extra",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="also build an image on top of the worker's from FOLDER/Dockerfile (may be repeated)",
    )
    images.add_argument("--load", action="store_true", help="copy them into the cluster, too")

    command("deploy", _deploy, "bring up the cluster, build and load the images, install the chart")

    compiled = command("build", _build, "compile the tools without starting anything, and print where they are")
    compiled.add_argument("tools", nargs="*", metavar="TOOL", help=f"some of {', '.join(_BUILDS)}; all by default")

    plane = command("control-plane", _control_plane, "run an API server with etcd and controllers until Ctrl-C")
    plane.add_argument(
        "--kubeconfig",
        type=Path,
        default=BUILD / "control-plane.kubeconfig",
        help="where its administrator's kubeconfig is written (default: %(default)s)",
    )
    plane.add_argument("--without-controllers", action="store_true", help="etcd and the API server alone")
    plane.add_argument(
        "--autoscaler-period",
        type=int,
        default=2,
        metavar="SECONDS",
        help="how often HorizontalPodAutoscalers decide (default: %(default)s)",
    )
    return parser


def _up(_: argparse.Namespace) -> int:
    cluster = kind.up()
    print(f"The cluster is up. export KUBECONFIG={cluster.kubeconfig}; kubectl: {cluster.kubectl}")
    return 0


def _down(_: argparse.Namespace) -> int:
    kind.down()
    print("Nothing of the cluster is running.")
    return 0


def _status(_: argparse.Namespace) -> int:
    if engine.is_ours():
        engine_is = "our own"
    elif engine.answers():
        engine_is = "the machine's"
    elif engine.was_killed():
        engine_is = "our own was killed and left containers: `up` recovers it, `down` ends them"
    else:
        engine_is = "none"
    up = kind.is_up()
    print(f"Docker engine  {engine_is}")
    print(f"cluster        {'up' if up else 'not up'}")
    if up:
        print(f"kubeconfig     {KUBECONFIG}")
        print(f"kubectl        {tools.kubectl()}")
    return 0 if up else _NOT_RUNNING


def _load(arguments: argparse.Namespace) -> int:
    kind.load_images(arguments.images)
    return 0


def _images(arguments: argparse.Namespace) -> int:
    extra = {}
    for item in arguments.extra:
        name, equals, folder = item.partition("=")
        if not equals:
            raise ClusterError(f"--extra {item} is no NAME=FOLDER: give the image's name and its Dockerfile's folder")
        extra[name] = Path(folder)
    built = build_images(extra)
    if arguments.load:
        kind.load_images(built)
    print("\n".join(built))
    return 0


def _deploy(_: argparse.Namespace) -> int:
    access = deploy.deploy()
    print(f"Headrace is ready in {deploy.NAMESPACE}. export KUBECONFIG={access.kubeconfig}; kubectl: {access.kubectl}")
    return 0


_BUILDS: dict[str, Callable[[], Path]] = {
    "kubernetes": build.kubernetes,
    "coredns": build.coredns,
    "kind": build.kind,
    "helm": build.helm,
}


def _build(arguments: argparse.Namespace) -> int:
    for name in arguments.tools or _BUILDS:
        if name not in _BUILDS:
            raise ClusterError(f"no tool is called {name}: choose from {', '.join(_BUILDS)}")
        print(_BUILDS[name]())
    return 0


def _control_plane(arguments: argparse.Namespace) -> int:
    # The one part that needs more than the standard library.
    from cluster.control_plane import ControlPlane  # noqa: PLC0415

    kubeconfig: Path = arguments.kubeconfig
    with ControlPlane(
        controllers=not arguments.without_controllers,
        horizontal_pod_autoscaler_sync_period_seconds=arguments.autoscaler_period,
    ) as running:
        kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(running.kubeconfig, kubeconfig)
        print(f"{running.url} is up; Ctrl-C ends it. export KUBECONFIG={kubeconfig}", flush=True)
        try:
            signal.pause()
        finally:
            kubeconfig.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
