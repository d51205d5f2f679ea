"""How a queue is reached: which backend holds it, and what that takes, given outright or by a binding's directory.

Whoever names a provider decides. Else the strongest of a connection, a queue URL and a binding does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from headrace.queues.errors import QueueError
from headrace.queues.sqs.capabilities import MAX_VISIBILITY_SECONDS
from headrace.queues.sqs.place import EXAMPLE, SCHEMES, parse_url, queue_url_to_sqs
from headrace.settings import table
from headrace.settings.model import Binding, SqsBinding
from headrace.settings.sources import from_binding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.settings.scope import Scope
    from headrace.settings.sources import Given
    from headrace.settings.table import Setting

Provider: TypeAlias = Literal["Postgres", "AwsSqs"]

_BINDINGS: dict[Provider, tuple[str, ...]] = {"Postgres": ("postgresql",), "AwsSqs": ("sqs",)}

# The options of `from_url` that they are.
_PLACE: dict[str, Setting[Any]] = {
    "region": table.REGION,
    "endpoint_url": table.ENDPOINT_URL,
    "dead_letter_queue_url": table.DEAD_LETTER_QUEUE_URL,
    "access_key_id": table.ACCESS_KEY_ID,
    "secret_access_key": table.SECRET_ACCESS_KEY,
    "session_token": table.SESSION_TOKEN,
    "client": table.SQS_CLIENT,
}
_RECEIVING: dict[str, Setting[Any]] = {
    "wait_time_seconds": table.WAIT_TIME,
    "max_number_of_messages": table.MAX_NUMBER_OF_MESSAGES,
    "max_retries": table.MAX_RETRIES,
    "count_interval_seconds": table.COUNT_INTERVAL,
}


def queue_connection(
    scope: Scope, environ: Mapping[str, str], *, needs_queue: bool = True, works: bool = False
) -> Binding:
    """The queue's connection; what is wrong with it is added to the scope's problems.

    Parameters
    ----------
    scope, environ
        Where it may be given; a binding's entries are added to the scope.
    needs_queue
        Whether a queue must be named, where the connection doesn't.
    works
        Whether it is for a worker: the settings that are a worker's alone are read, too.
    """
    provider = _provider(scope)
    if not _is_given(scope, provider):
        provider = _bound(scope, environ, provider)
    if provider == "AwsSqs":
        return _sqs(scope, works=works)
    given, queue = scope.given(table.CONNECTION), scope[table.QUEUE_NAME]
    if given is None:
        kinds = "postgresql" if scope.given(table.PROVIDER) else "postgresql or sqs"
        scope.problems.append(
            f"no connection: give --dsn, HEADRACE_DSN, or SERVICE_BINDING_ROOT with a binding of type {kinds}"
        )
    if not queue and needs_queue:
        scope.problems.append(f"no queue: give --queue, {table.QUEUE_NAME.variable}, or {table.QUEUES} in a file")
    return Binding(
        dsn=given.text if given is not None else "",
        queue=queue or "",
        schema=scope[table.SCHEMA],
        ca_certificates=scope.certificates(table.POSTGRES_CA),
        direct_dsn=scope[table.DIRECT_CONNECTION],
    )


def refuse_together(scope: Scope, binding: Binding, job_timeout_seconds: float) -> None:
    """Add to the scope's problems what a worker can't be told together with SQS."""
    if binding.sqs is None:
        return
    if (mode := scope.given(table.MODE)) is not None and scope[table.MODE] == "Polling":
        scope.problems.append(
            f"{mode.where}=Polling: with AwsSqs there is no table to poll; set {table.MODE.path} to MessageQueue, "
            "which is how its queues are received from"
        )
    if job_timeout_seconds > MAX_VISIBILITY_SECONDS:
        told = scope.given(table.JOB_TIMEOUT_SECONDS) or scope.given(table.JOB_TIMEOUT_MINUTES)
        assert told is not None, "the default is shorter"
        scope.problems.append(
            f"{told.where}={told.text}: SQS lets nobody hold a job for longer than {MAX_VISIBILITY_SECONDS:g} s; make "
            "it shorter, and let a longer job enqueue the rest of its work"
        )
    visibility = scope.given(table.VISIBILITY_TIMEOUT)
    seconds = scope[table.VISIBILITY_TIMEOUT]
    if visibility is None or seconds is None:
        return
    if seconds > MAX_VISIBILITY_SECONDS:
        scope.problems.append(
            f"{visibility.where}={seconds:g}: SQS hides a message for {MAX_VISIBILITY_SECONDS:g} s at most; lower "
            "it, or leave it out"
        )
    elif seconds < job_timeout_seconds:
        scope.problems.append(
            f"{visibility.where}={seconds:g}: is shorter than the {job_timeout_seconds:g} s that an attempt may run "
            f"({table.JOB_TIMEOUT_MINUTES.path}): to whoever sends no heartbeats, a job would be given again while it "
            f"runs; set it to {min(job_timeout_seconds, MAX_VISIBILITY_SECONDS):g} or more, or leave it out: workers "
            "extend it by themselves"
        )


def _provider(scope: Scope) -> Provider | None:
    """Who holds the queue, where that is given."""
    connection, queue_url = scope.given(table.CONNECTION), scope.given(table.QUEUE_URL)
    named = scope[table.PROVIDER]
    if named is not None:
        _refuse_contradiction(scope, named)
        return "AwsSqs" if named == "AwsSqs" else "Postgres"
    if connection is None and queue_url is None:
        return None
    if connection is None or _leads_to_sqs(connection) or scope.is_stronger(table.QUEUE_URL, table.CONNECTION):
        return _concluded(scope, "AwsSqs", queue_url or connection)
    if queue_url is not None and not scope.is_stronger(table.CONNECTION, table.QUEUE_URL):
        scope.problems.append(
            f"{connection.where}, {queue_url.where}: a PostgreSQL and a queue in SQS; set {table.PROVIDER.path} "
            f"({table.PROVIDER.variable}) to Postgres or AwsSqs, or leave one of them out"
        )
    return _concluded(scope, "Postgres", connection)


def _refuse_contradiction(scope: Scope, named: str) -> None:
    """A section of another provider may be there, in a file for all; what can be meant for this one alone may not."""
    connection, provider = scope.given(table.CONNECTION), scope.given(table.PROVIDER)
    if connection is None or provider is None or (named == "AwsSqs") == _leads_to_sqs(connection):
        return
    if _leads_to_sqs(connection) or connection.where == table.CONNECTION.option:
        leads_to = "SQS" if _leads_to_sqs(connection) else "PostgreSQL"
        scope.problems.append(
            f"{connection.where}: leads to {leads_to}, and {provider.where} is {named}; leave one of the two out"
        )


def _is_given(scope: Scope, provider: Provider | None) -> bool:
    """Whether the provider's connection is given outright."""
    if provider == "AwsSqs":
        return _sqs_url(scope) is not None
    return provider is not None and scope.given(table.CONNECTION) is not None


def _bound(scope: Scope, environ: Mapping[str, str], provider: Provider | None) -> Provider:
    """Who holds the queue by a binding, whose entries are added to the scope."""
    kinds = ("postgresql", "sqs") if provider is None else _BINDINGS[provider]
    wanted = scope.given(table.QUEUE_NAME)
    kind, layer = from_binding(environ, kinds, wanted.text if wanted else None, scope.problems)
    scope.add(layer)
    if provider is not None:
        return provider
    if kind == "sqs":
        return _concluded(scope, "AwsSqs", scope.given(table.QUEUE_URL))
    return _concluded(scope, "Postgres", scope.given(table.CONNECTION))


def _concluded(scope: Scope, provider: Provider, given: Given | None) -> Provider:
    scope.conclude(table.PROVIDER, provider, f"by {given.origin}" if given else "default")
    return provider


def _leads_to_sqs(connection: Given) -> bool:
    return connection.text.partition("://")[0] in SCHEMES


def _sqs_url(scope: Scope) -> Given | None:
    """The queue's URL, whichever way it is given: the stronger of the two."""
    connection, queue_url = scope.given(table.CONNECTION), scope.given(table.QUEUE_URL)
    if connection is None or not _leads_to_sqs(connection):
        return queue_url
    return queue_url if scope.is_stronger(table.QUEUE_URL, table.CONNECTION) else connection


def _sqs(scope: Scope, *, works: bool) -> Binding:
    given, queue = _sqs_url(scope), scope[table.QUEUE_NAME]
    for setting in (table.SCHEMA, table.POSTGRES_CA, table.DIRECT_CONNECTION):
        if (told := scope.given(setting)) is not None and told.where == setting.option:
            scope.problems.append(f"{told.where}: a queue in SQS has none; leave it out")
    options = _options(scope, _PLACE)
    if works:
        for receiving in (*_RECEIVING.values(), table.SQS_CLIENT):
            scope[receiving]  # So that defaults are shown.
        options |= _options(scope, _RECEIVING)
    if scope[table.USE_FIFO_QUEUE] and (fifo := scope.given(table.USE_FIFO_QUEUE)):
        scope.problems.append(
            f"{fifo.where}=true: FIFO queues can't be used yet; leave it out, and name a standard queue. Tenants take "
            "turns there by the fairness_key of their jobs"
        )
    if given is None:
        scope.problems.append(
            f"no queue URL: give {table.QUEUE_URL.path} ({table.QUEUE_URL.variable}), --dsn {EXAMPLE}, or "
            "SERVICE_BINDING_ROOT with a binding of type sqs"
        )
        return Binding(dsn="", queue=queue or "", sqs=SqsBinding(options))
    if given is scope.given(table.QUEUE_URL) and scope[table.QUEUE_URL] is None:
        return Binding(dsn="", queue=queue or "", sqs=SqsBinding(options))  # It is no URL, which was said.
    url = given.text if _leads_to_sqs(given) or "://" not in given.text else queue_url_to_sqs(given.text)
    try:
        address = parse_url(url, **options)
    except QueueError as error:
        scope.problems.append(f"{given.where}: {error}")
        return Binding(dsn=url, queue=queue or "", sqs=SqsBinding(options))
    _refuse_other_queue(scope, given, address.name, works=works)
    if not queue:
        scope.conclude(table.QUEUE_NAME, address.name, f"the queue's URL, {given.origin}")
    return Binding(dsn=url, queue=queue or address.name, sqs=SqsBinding(options))


def _options(scope: Scope, settings: Mapping[str, Setting[Any]]) -> dict[str, Any]:
    """What is given of these: what isn't, the URL may say."""
    values = {name: scope[setting] for name, setting in settings.items() if scope.given(setting)}
    dead_letters = values.get("dead_letter_queue_url")
    if dead_letters is not None and (scheme := dead_letters.partition("://")[0]) in SCHEMES:
        values["dead_letter_queue_url"] = dead_letters.replace(scheme, SCHEMES[scheme], 1)
    return values


def _refuse_other_queue(scope: Scope, url: Given, name: str, *, works: bool) -> None:
    """The URL leads to one queue: what is asked of another must not reach it.

    A worker may be told what name its queue goes by.
    """
    names = scope.every(table.QUEUE_NAME)
    if not names:
        return
    asked, known = names[0], [other.text for other in names[1:]]
    is_for_one = asked.where == table.QUEUE_NAME.option and not works
    is_bound = url.origin.startswith("binding") and bool(known)
    if (is_for_one or is_bound) and asked.text not in {name, *known}:
        scope.problems.append(
            f"{url.where}: leads to queue {known[-1] if known else name}, not to {asked.text}; name that queue, or "
            f"give the URL of {asked.text}"
        )
