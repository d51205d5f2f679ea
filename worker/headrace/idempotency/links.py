"""Ways to a Redis: one server, that which the Sentinels name, or a Cluster. And what the client's errors mean.

The client library keeps the connections and follows a Cluster's redirections; the time limits and the second try are
ours, since its own would outlast a lease.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Protocol

from redis import exceptions as redis_errors
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from headrace.idempotency.base import IdempotencyConfigurationError, IdempotencyError, IdempotencyUnavailableError
from headrace.idempotency.place import RedisMode, RedisPlace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from headrace.idempotency.scripts import Script

ANSWER_SECONDS = 1.5
"""How long one try waits to be connected, and for an answer."""
SENTINEL_ANSWER_SECONDS = 0.5
"""The same of a Sentinel: two of three may be silent before the third is asked."""

MAX_CONNECTIONS = 4
"""To one server, of one worker: it claims, extends and settles at the same time, each in one call for many jobs."""

BROKEN = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
    redis_errors.RedisClusterException,
    OSError,
)
"""After these a new connection may do better: it may lead to another server, too (a failover behind one name)."""

CLIENT_ERRORS = (redis_errors.RedisError, OSError, TimeoutError, redis_errors.RedisClusterException)
"""All that a call of the client library's may fail with."""

_COMMANDS = "+evalsha +eval +set +get +pexpire +pttl +del"
_CLUSTER_COMMANDS = " +cluster|slots +asking +command"


class Link(Protocol):
    """An open way to a Redis."""

    async def run(self, script: Script, keys: Sequence[str], tokens: Sequence[str], milliseconds: int) -> list[int]:
        """Run a script over the keys, in one round trip (one a shard)."""
        ...

    async def memory(self) -> list[Mapping[str, Any]]:
        """What each primary says of its memory."""
        ...

    async def renew(self) -> None:
        """Let go of idle connections, and of what is known of the servers: something has broken."""
        ...

    async def close(self) -> None:
        """Close everything."""
        ...


def open_link(place: RedisPlace) -> Link:
    """A way to this place; the first call connects."""
    match place.mode:
        case RedisMode.CLUSTER:
            nodes = [ClusterNode(host, port) for host, port in place.addresses]
            return _Shards(RedisCluster(startup_nodes=nodes, **_no_retry(), **_connection(place, ANSWER_SECONDS)))
        case RedisMode.SENTINEL:
            return _SentinelServer(place)
        case RedisMode.STANDALONE:
            ((host, port),) = place.addresses
            options = {"db": place.database, "max_connections": MAX_CONNECTIONS, **_connection(place, ANSWER_SECONDS)}
            return _Server(Redis(host=host, port=port, **_no_retry(), **options))


def _connection(place: RedisPlace, answer_seconds: float) -> dict[str, Any]:
    """What each connection to a data server needs."""
    return {
        "username": place.username,
        "password": place.password,
        **_transport(place, answer_seconds),
    }


def _transport(place: RedisPlace, answer_seconds: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        # The older protocol asks for nothing but our commands: no greeting, no notifications, no client's name.
        "protocol": 2,
        "driver_info": None,
        "socket_timeout": answer_seconds,
        "socket_connect_timeout": answer_seconds,
        "socket_keepalive": True,
    }
    if place.has_tls:
        options |= {"ssl": True, "ssl_ca_data": place.ca_certificates, "ssl_cert_reqs": "required"}
    return options


def _no_retry() -> dict[str, Any]:
    return {"retry": Retry(NoBackoff(), 0)}


class _Server:
    """One server: one script takes all keys."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def run(self, script: Script, keys: Sequence[str], tokens: Sequence[str], milliseconds: int) -> list[int]:
        arguments = (len(keys), *keys, milliseconds, *tokens)
        try:
            answers = await self._client.execute_command("EVALSHA", script.sha, *arguments)
        except redis_errors.NoScriptError:
            answers = await self._client.execute_command("EVAL", script.text, *arguments)
        return list(answers)

    async def memory(self) -> list[Mapping[str, Any]]:
        return [await self._client.info("memory")]

    async def renew(self) -> None:
        await self._client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        await self._client.aclose()


class _SentinelServer(_Server):
    """The server that Sentinels name, asked for with each new connection."""

    def __init__(self, place: RedisPlace) -> None:
        self._sentinels = _Sentinels(place)
        pool = SentinelConnectionPool(
            place.sentinel_master,
            self._sentinels,
            db=place.database,
            max_connections=MAX_CONNECTIONS,
            **_no_retry(),
            **_connection(place, ANSWER_SECONDS),
        )
        super().__init__(Redis.from_pool(pool))

    async def close(self) -> None:
        await super().close()
        await self._sentinels.aclose()


class _Sentinels(Sentinel):
    """Asks for the primary as Sentinel's own documentation says, which tells an unknown name from a silent Sentinel."""

    def __init__(self, place: RedisPlace) -> None:
        options = {
            "username": place.sentinel_username,
            "password": place.sentinel_password,
            "max_connections": MAX_CONNECTIONS,
            **_no_retry(),
            **_transport(place, SENTINEL_ANSWER_SECONDS),
        }
        super().__init__(place.addresses, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        self._place = place

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Host and port of the primary.

        Raises
        ------
        IdempotencyConfigurationError
            When the Sentinels that answer know no such name, or refuse the credentials.
        """
        failure: redis_errors.RedisError | None = None
        knows_others = False
        for number, sentinel in enumerate(self.sentinels):
            try:
                found = await sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service_name)
            except (redis_errors.AuthenticationError, redis_errors.NoPermissionError):
                raise IdempotencyConfigurationError(
                    f"{self._place}: the Sentinels refuse us: their credentials are ?sentinel_username=…&"
                    "sentinel_password=… in the URL (those before the @ are the servers'), and their user needs "
                    "+sentinel|get-master-addr-by-name"
                ) from None
            except redis_errors.ResponseError:
                raise IdempotencyConfigurationError(
                    f"{self._place}: what answers is no Sentinel: name the Sentinels (port 26379), or set the mode to "
                    "Standalone or Cluster"
                ) from None
            except (redis_errors.ConnectionError, redis_errors.TimeoutError) as error:
                failure = error
                continue
            if found is not None:
                self.sentinels[0], self.sentinels[number] = sentinel, self.sentinels[0]
                host, port = found
                return host.decode(), int(port)
            knows_others = True
        if knows_others:
            raise IdempotencyConfigurationError(
                f"{self._place}: the Sentinels know no such primary: set the sentinel master to the name in their "
                "`sentinel monitor`"
            )
        raise MasterNotFoundError("no Sentinel answers") from failure


class _Shards:
    """A Cluster: one script a key, sent to each shard at once."""

    def __init__(self, client: RedisCluster) -> None:
        self._client = client

    async def run(self, script: Script, keys: Sequence[str], tokens: Sequence[str], milliseconds: int) -> list[int]:
        try:
            return await self._run("EVALSHA", script.sha, keys, tokens, milliseconds)
        except redis_errors.NoScriptError:
            return await self._run("EVAL", script.text, keys, tokens, milliseconds)

    async def _run(
        self, command: str, script: str, keys: Sequence[str], tokens: Sequence[str], milliseconds: int
    ) -> list[int]:
        pipeline = self._client.pipeline()
        for key, token in zip(keys, tokens, strict=True):
            # Queued, and sent by execute(); that it can be awaited, too, is of no use here.
            _ = pipeline.execute_command(command, script, 1, key, milliseconds, token)
        return [answer for (answer,) in await pipeline.execute()]

    async def memory(self) -> list[Mapping[str, Any]]:
        answers = await self._client.info("memory", target_nodes=RedisCluster.PRIMARIES)
        # One primary's answer comes bare.
        return [answers] if "maxmemory" in answers else list(answers.values())

    async def renew(self) -> None:
        await self._client.aclose()

    async def close(self) -> None:
        await self._client.aclose()


def translated(error: BaseException, place: RedisPlace) -> IdempotencyError:
    """What an error of the client's means to us. Its own words are not repeated: they may hold keys and tokens."""
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, IdempotencyError):
            return cause
    advice = next(filter(None, (_advice(cause, place) for cause in causes)), None)
    if advice is not None:
        return IdempotencyConfigurationError(f"{place} {advice}")
    trouble = next(filter(None, (_trouble(cause) for cause in causes)), "has broken the connection off")
    return IdempotencyUnavailableError(f"{place} {trouble}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _advice(error: BaseException, place: RedisPlace) -> str | None:
    """What to mend, where trying again won't help."""
    text = str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"has a certificate that can't be verified ({error.verify_message}): give the CA certificates that signed "
            "it, and connect by a name that it is made for"
        )
    if isinstance(error, ssl.SSLError):
        return f"refuses our TLS ({error.reason}): it must take TLS 1.2 or later, and clients without certificates"
    if isinstance(error, redis_errors.AuthenticationError):
        if error.status_code == "NOAUTH" or place.password is None:
            return "wants a password: put it into the URL, as in redis://USER:PASSWORD@HOST"
        if "without any password" in text:
            return "knows no password for its default user: name the user in the URL, or leave the password out"
        return "refuses the user or the password: mend the URL (in a password, write % as %25, @ as %40, / as %2F)"
    if isinstance(error, redis_errors.NoPermissionError) or "ACL failure" in text or "can't run this command" in text:
        commands = _COMMANDS + (_CLUSTER_COMMANDS if place.mode is RedisMode.CLUSTER else "")
        return (
            f"forbids its user {place.username or 'default'!r} what idempotency needs: ACL SETUSER … {commands}, and "
            "~ with the prefix of the keys and an asterisk"
        )
    if isinstance(error, redis_errors.MovedError | redis_errors.AskError | redis_errors.ClusterCrossSlotError):
        return "is one node of a Cluster: set the mode to Cluster"
    if "Cluster mode is not enabled" in text or "cluster support disabled" in text:
        return "is no Cluster: set the mode to Standalone"
    if "unknown command" in text.lower():
        return f"lacks a command that idempotency needs ({_COMMANDS}): use a server or a proxy that has them"
    if "WRONGTYPE" in text:
        return "has values of another kind under our keys: let nothing else use the prefix"
    if "DB index is out of range" in text:
        return "has no database of that number: mend the number at the end of the URL"
    if "DENIED" in text:
        return "is in protected mode and takes local connections alone: give it a password, or bind it"
    return None


_TROUBLES = {
    "LOADING": "is loading its data",
    "READONLY": "is a replica, and takes no writes",
    "OOM": "is out of memory (maxmemory): give it more, or fewer days to remember",
    "MISCONF": "can't save its data, and takes no writes",
    "NOREPLICAS": "has too few replicas, and takes no writes",
    "MASTERDOWN": "is a replica that has lost its primary",
    "CLUSTERDOWN": "is down as a whole",
    "TRYAGAIN": "is moving keys between shards",
    "BUSY": "is busy with a script",
}


def _trouble(error: BaseException) -> str | None:
    """Why there is no answer now."""
    if isinstance(error, redis_errors.RedisError):
        code = error.status_code or str(error).partition(" ")[0]
        if code in _TROUBLES:
            return _TROUBLES[code]
        if "max number of clients" in str(error):
            return "has as many clients as it takes (maxclients)"
    if isinstance(error, redis_errors.TimeoutError | TimeoutError):
        return "does not answer in time"
    if isinstance(error, OSError) and error.strerror:
        return f"can't be reached: {error.strerror}"
    return None
