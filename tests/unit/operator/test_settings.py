from __future__ import annotations

import pytest

from headrace_operator.settings import AwsSettings, LogFormat, OperatorSettingsError, Settings, settings_from_env


def test_nothing_set_is_the_defaults() -> None:
    assert settings_from_env({}) == Settings()


def test_everything_can_be_set() -> None:
    settings = settings_from_env(
        {
            "HEADRACE_NAMESPACE": "jobs",
            "HEADRACE_WATCH_NAMESPACES": "shop, mail,",
            "HEADRACE_WORKER_IMAGE": "example.com/worker:2",
            "HEADRACE_WORKER_IMAGE_PULL_POLICY": "ifnotpresent",
            "HEADRACE_RELEASE_POOLS_AT_ONCE": "5",
            "HEADRACE_METRICS_API_ADDRESS": "",
            "HEADRACE_METRICS_API_SERVICE": "metrics",
            "HEADRACE_LISTEN_ADDRESS": "[::]:9090",
            "HEADRACE_LOG_FORMAT": "JSON",
            "HEADRACE_LOG_LEVEL": "debug",
            "HEADRACE_AWS_AMBIENT_NAMESPACES": "shop, mail",
            "HEADRACE_AWS_QUEUE_PREFIX": "prod-",
            "HEADRACE_AWS_ENDPOINT_URLS": "https://vpce.example.com/",
        }
    )
    assert settings == Settings(
        namespace="jobs",
        watch_namespaces=("shop", "mail"),
        worker_image="example.com/worker:2",
        worker_image_pull_policy="IfNotPresent",
        release_pools_at_once=5,
        metrics_api_address=None,
        metrics_api_service="metrics",
        listen_address="[::]:9090",
        log_format=LogFormat.JSON,
        log_level="DEBUG",
        aws=AwsSettings(
            ambient_namespaces=frozenset({"shop", "mail"}),
            queue_prefix="prod-",
            endpoint_urls=frozenset({"https://vpce.example.com"}),
        ),
    )


def test_all_that_is_wrong_is_told_at_once_with_what_would_be_right() -> None:
    with pytest.raises(OperatorSettingsError) as refused:
        settings_from_env(
            {
                "HEADRACE_NAMESPACE": "No Such",
                "HEADRACE_WATCH_NAMESPACES": "shop,Mail",
                "HEADRACE_WORKER_IMAGE_PULL_POLICY": "Sometimes",
                "HEADRACE_RELEASE_POOLS_AT_ONCE": "none",
                "HEADRACE_METRICS_API_ADDRESS": "8443",
                "HEADRACE_LISTEN_ADDRESS": "0.0.0.0:99999",
                "HEADRACE_LOG_FORMAT": "xml",
                "HEADRACE_LOG_LEVEL": "loud",
                "HEADRACE_AWS_AMBIENT_NAMESPACES": "shop,Mail",
                "HEADRACE_AWS_QUEUE_PREFIX": "of our own",
                "HEADRACE_AWS_ENDPOINT_URLS": "sqs.example.com",
            }
        )
    lines = str(refused.value).splitlines()
    assert {line.partition("=")[0].partition(":")[0] for line in lines} == {
        "HEADRACE_NAMESPACE",
        "HEADRACE_WATCH_NAMESPACES",
        "HEADRACE_WORKER_IMAGE_PULL_POLICY",
        "HEADRACE_RELEASE_POOLS_AT_ONCE",
        "HEADRACE_METRICS_API_ADDRESS",
        "HEADRACE_LISTEN_ADDRESS",
        "HEADRACE_LOG_FORMAT",
        "HEADRACE_LOG_LEVEL",
        "HEADRACE_AWS_AMBIENT_NAMESPACES",
        "HEADRACE_AWS_QUEUE_PREFIX",
        "HEADRACE_AWS_ENDPOINT_URLS",
    }
    assert all("must be" in line or "is no" in line for line in lines)
