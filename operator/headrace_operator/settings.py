"""The operator's settings, read from the environment in one place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAMESPACE_OR_ALL = re.compile(rf"\*|{_NAMESPACE.pattern}")
_QUEUE_PREFIX = re.compile(r"[A-Za-z0-9_-]{0,20}")
_ENDPOINT_URL = re.compile(r"https?://[^/?#@\s]+/?")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):(?P<port>\d{1,5})")


class LogFormat(StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSettings:
    """For whom the operator uses its own identity in AWS, which may reach further than theirs."""

    ambient_namespaces: frozenset[str] = frozenset()
    """Namespaces whose JobQueues may do without credentials of their own; ``*`` is every one."""
    queue_prefix: str = ""
    """What the names of queues begin with, before their namespace."""
    endpoint_urls: frozenset[str] = frozenset()
    """Where else than to the regions' own addresses requests are sent that are signed with its identity."""

    def allows_ambient(self, namespace: str) -> bool:
        """Whether queues of this namespace may do without credentials of their own."""
        return not self.ambient_namespaces.isdisjoint({namespace, "*"})


class OperatorSettingsError(Exception):
    """Settings that can't be; the message names all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the operator is told from outside."""

    namespace: str = "headrace-system"
    """Its own namespace."""
    watch_namespaces: tuple[str, ...] = ()
    """Where it works; empty for everywhere."""
    worker_image: str = f"headrace/worker:{version('headrace')}"
    """What pools run that name no image."""
    worker_image_pull_policy: str | None = None
    """For `worker_image`; None leaves it to Kubernetes."""
    release_pools_at_once: int = 1
    """How many pools a new release may change at a time."""
    metrics_api_address: str | None = "0.0.0.0:8443"
    """Where external.metrics.k8s.io is served; None turns it off."""
    metrics_api_service: str = "headrace-operator-metrics-api"
    """The Service in front of it, and the name of the Secret with its certificate."""
    listen_address: str = "0.0.0.0:8080"
    """Where /healthz, /readyz and /metrics are served."""
    log_format: LogFormat = LogFormat.TEXT
    log_level: str = "INFO"
    aws: AwsSettings = AwsSettings()


def settings_from_env(environment: Mapping[str, str]) -> Settings:
    """Read the settings.

    Raises
    ------
    OperatorSettingsError
        When any of them can't be; the message names every one that can't.
    """
    problems: list[str] = []
    defaults = Settings()

    def text(name: str, default: str, pattern: re.Pattern[str] | None = None, form: str = "") -> str:
        value = environment.get(name, default).strip()
        if pattern is not None and not pattern.fullmatch(value):
            problems.append(f"{name}={value!r}: must be {form}")
        return value

    def number(name: str, default: int) -> int:
        value = text(name, str(default), re.compile(r"[1-9]\d{0,3}"), "an integer from 1 to 9999")
        return int(value) if value.isdecimal() else default

    def choice(name: str, default: str, choices: tuple[str, ...]) -> str:
        value = environment.get(name, "").strip() or default
        found = next((each for each in choices if each.lower() == value.lower()), None)
        if found is None:
            problems.append(f"{name}={value!r}: must be one of {', '.join(choices)}")
        return found or default

    def address(name: str, default: str | None) -> str | None:
        value = environment.get(name, default or "").strip()
        found = _ADDRESS.fullmatch(value)
        if value and (found is None or int(found["port"]) > 65535):
            problems.append(f"{name}={value!r}: must be HOST:PORT, such as 0.0.0.0:8080")
        return value or None

    def several(name: str, pattern: re.Pattern[str], what: str) -> tuple[str, ...]:
        values = tuple(each.strip() for each in environment.get(name, "").split(",") if each.strip())
        problems.extend(f"{name}: {each!r} is no {what}" for each in values if not pattern.fullmatch(each))
        return values

    listen_address = address("HEADRACE_LISTEN_ADDRESS", defaults.listen_address)
    if listen_address is None:
        problems.append("HEADRACE_LISTEN_ADDRESS='': must be HOST:PORT, such as 0.0.0.0:8080")
    settings = Settings(
        namespace=text("HEADRACE_NAMESPACE", defaults.namespace, _NAMESPACE, "a namespace's name"),
        watch_namespaces=several("HEADRACE_WATCH_NAMESPACES", _NAMESPACE, "namespace's name"),
        worker_image=text("HEADRACE_WORKER_IMAGE", defaults.worker_image, re.compile(r"\S+"), "an image reference"),
        worker_image_pull_policy=choice("HEADRACE_WORKER_IMAGE_PULL_POLICY", "", ("", *_PULL_POLICIES)) or None,
        release_pools_at_once=number("HEADRACE_RELEASE_POOLS_AT_ONCE", defaults.release_pools_at_once),
        metrics_api_address=address("HEADRACE_METRICS_API_ADDRESS", defaults.metrics_api_address),
        metrics_api_service=text(
            "HEADRACE_METRICS_API_SERVICE", defaults.metrics_api_service, _NAMESPACE, "a Service's name"
        ),
        listen_address=listen_address or "",
        log_format=LogFormat(choice("HEADRACE_LOG_FORMAT", defaults.log_format, tuple(LogFormat))),
        log_level=choice("HEADRACE_LOG_LEVEL", defaults.log_level, _LOG_LEVELS),
        aws=AwsSettings(
            ambient_namespaces=frozenset(
                several("HEADRACE_AWS_AMBIENT_NAMESPACES", _NAMESPACE_OR_ALL, "namespace's name, nor *")
            ),
            queue_prefix=text(
                "HEADRACE_AWS_QUEUE_PREFIX", "", _QUEUE_PREFIX, "at most 20 letters, digits, hyphens and underscores"
            ),
            endpoint_urls=frozenset(
                url.rstrip("/") for url in several("HEADRACE_AWS_ENDPOINT_URLS", _ENDPOINT_URL, "http(s)://HOST[:PORT]")
            ),
        ),
    )
    if problems:
        raise OperatorSettingsError("\n".join(problems))
    return settings
