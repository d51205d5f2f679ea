"""The Docker engine: the one that answers, else one of our own.

Ours is Debian's, started as root with data, pid file and run-time files of its own, on Docker's usual socket, which is
free, since no engine answers there. It is the only one that is ever stopped here.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from cluster.errors import ClusterError
from cluster.packages import provide
from cluster.places import NODE_SOURCES, cache, locked
from cluster.processes import end_those_naming, is_running, last_lines, naming, run, start_daemon, succeeds, wait_until
from cluster.progress import step

_NEEDED = ("docker", "dockerd", "iptables")
_PACKAGES = ("docker.io", "iptables")
# Gone after a restart of the machine, as are the processes that its files speak of.
_RUN = Path("/run/headrace-engine")
_CONFIGURATION = _RUN / "daemon.json"
_PID_FILE = _RUN / "dockerd.pid"
_CONTAINERD_PID_FILE = _RUN / "exec" / "containerd" / "containerd.pid"
_COMMAND = ("dockerd", f"--config-file={_CONFIGURATION}")
# The command line that no other engine has.
_OURS = " ".join(_COMMAND)
_SOCKET = "unix:///var/run/docker.sock"
_START_TIMEOUT_SECONDS = 60.0
# Docker gives its containers 15 s to end.
_STOP_TIMEOUT_SECONDS = 45.0
# From linux/capability.h: the number of CAP_SYS_RESOURCE.
_SYS_RESOURCE_BIT = 24


def ensure() -> None:
    """See to it that a Docker engine answers."""
    if answers():
        return
    with locked("engine"):
        if not answers():
            _require_that_we_may_start_one()
            provide(_NEEDED, packages=_PACKAGES, why="no Docker engine answers, so one of our own is started")
            # Where a service manager runs, the package has started one by now.
            if not answers():
                _start()


def answers() -> bool:
    """Whether the engine that the docker command talks to is up."""
    return succeeds(["docker", "version", "--format", "{{.Server.Version}}"])


def docker(*arguments: str | Path, stdin: str | None = None, failure: str | None = None) -> str:
    """Run one docker command and return what it printed."""
    return run(["docker", *arguments], stdin=stdin, failure=failure)


def is_ours() -> bool:
    """Whether an engine that we started runs."""
    return bool(naming(_OURS))


def was_killed() -> bool:
    """Whether our engine ended without its containers: containerd and they go on without it."""
    return not is_ours() and bool(naming(str(_RUN)))


def revive() -> None:
    """Start our engine again after it was killed: only an engine ends containers in good order."""
    with locked("engine"):
        if was_killed():
            _start()


def stop() -> None:
    """Stop our own engine, if it runs, with all its containers."""
    with locked("engine"):
        if is_ours():
            with step("stop our Docker engine"):
                end_those_naming(_OURS, timeout_seconds=_STOP_TIMEOUT_SECONDS)
        _unmount_leftovers()
        shutil.rmtree(_RUN, ignore_errors=True)


def lacks_sys_resource(process_status: str) -> bool:
    """Whether CAP_SYS_RESOURCE is missing from the bounding set in a text like /proc/self/status.

    No process can then be given it, and a privileged container must not ask for it.
    """
    for line in process_status.splitlines():
        name, _, value = line.partition(":")
        if name == "CapBnd":
            return not int(value, 16) >> _SYS_RESOURCE_BIT & 1
    return False


def machine_lacks_sys_resource() -> bool:
    """Whether this machine withholds CAP_SYS_RESOURCE from everybody."""
    status = Path("/proc/self/status")
    return status.exists() and lacks_sys_resource(status.read_text())


def daemon_configuration(*, data: Path, runtime: Path | None) -> dict[str, object]:
    """Return dockerd's configuration; `runtime` is what is called in runc's stead."""
    configuration: dict[str, object] = {
        "data-root": str(data),
        "exec-root": str(_RUN / "exec"),
        "pidfile": str(_PID_FILE),
        "hosts": [_SOCKET],
    }
    if runtime is not None:
        configuration |= {"runtimes": {"lesscaps": {"path": str(runtime)}}, "default-runtime": "lesscaps"}
    return configuration


def _require_that_we_may_start_one() -> None:
    if "DOCKER_HOST" in os.environ:
        raise ClusterError(
            f"no Docker engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}: start it, or unset the variable"
        )
    if sys.platform != "linux" or os.geteuid() != 0:
        raise ClusterError(
            "no Docker engine answers, and only root on Linux can start one: start Docker, or run this as root"
        )


def _start() -> None:
    home = cache() / "engine"
    home.mkdir(parents=True, exist_ok=True)
    _RUN.mkdir(parents=True, exist_ok=True)
    runtime = None
    if machine_lacks_sys_resource():
        # A copy: the engine may outlive this working tree.
        runtime = home / "runc-lesscaps"
        shutil.copy(NODE_SOURCES / "runc-lesscaps", runtime)
    _CONFIGURATION.write_text(json.dumps(daemon_configuration(data=_data(), runtime=runtime), indent=2))
    # One of ours that runs and doesn't answer is past help.
    end_those_naming(_OURS, timeout_seconds=_STOP_TIMEOUT_SECONDS)
    _PID_FILE.unlink(missing_ok=True)
    _forget_dead_containerd()
    log = home / "dockerd.log"
    log.unlink(missing_ok=True)

    with step("start a Docker engine of our own"):
        pid = start_daemon(_COMMAND, log=log)

        def answered() -> bool:
            if not is_running(pid):
                raise ClusterError(f"dockerd ended at once; its log is {log}\n{last_lines(log)}")
            return answers()

        wait_until("the Docker engine", answered, timeout_seconds=_START_TIMEOUT_SECONDS)


def _forget_dead_containerd() -> None:
    """Remove the pid file of a containerd that ended with its engine: a new engine would wait for it in vain.

    It looks for the process by number alone, and takes a dead one that nobody has noticed yet for a live one.
    """
    try:
        pid = int(_CONTAINERD_PID_FILE.read_text())
    except (OSError, ValueError):
        return
    if pid not in naming(str(_RUN)):
        _CONTAINERD_PID_FILE.unlink()


def _unmount_leftovers() -> None:
    """Unmount what an engine that was killed had mounted, the innermost first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in reversed(points):
        if any(Path(point).is_relative_to(ours) for ours in (_RUN, _data())):
            run(["umount", point])


def _data() -> Path:
    return cache() / "engine" / "data"
