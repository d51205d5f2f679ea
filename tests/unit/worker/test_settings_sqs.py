"""Settings of workers whose queue is in SQS: the names of the original system, a binding, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from headrace.queues.base import QueueSettings
from headrace.settings import QueueWorkerSettings, SettingsError, as_yaml, queue_binding, resolve, worker_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

QUEUE_URL = "https://sqs.eu-central-1.amazonaws.com/123456789012/orders"
SQS_URL = "sqs://sqs.eu-central-1.amazonaws.com/123456789012/orders"
POSTGRES = "postgresql://me:secret@db/jobs"
NAMED = {"BACKGROUND_JOBS__QUEUENAME": "orders"}
APP = {"BACKGROUND_JOBS__HANDLER__PYTHON__APP": "shop.jobs:app"}
ENOUGH = {"BACKGROUND_JOBS__PROVIDER": "AwsSqs", "BACKGROUND_JOBS__AWSSQS__QUEUEURL": QUEUE_URL} | APP


def only(environ: Mapping[str, str], **options: str) -> QueueWorkerSettings:
    (queue,) = worker_settings(environ, {name.replace("__", "."): text for name, text in options.items()}).queues
    return queue


def complaints(environ: Mapping[str, str], **options: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        worker_settings(environ, {name.replace("__", "."): text for name, text in options.items()})
    return caught.value.problems


def bind(root: Path, directory: str, **entries: str) -> Path:
    place = root / directory
    place.mkdir(parents=True)
    for name, value in entries.items():
        (place / name.replace("_", "-")).write_text(value + "\n")
    return place


def bound(root: Path, **entries: str) -> dict[str, str]:
    bind(root, "queue", type="sqs", **entries)
    return {"SERVICE_BINDING_ROOT": str(root)}


def test_a_queue_url_is_enough_and_names_the_queue() -> None:
    queue = only(ENOUGH)
    assert (queue.binding.dsn, queue.binding.queue) == (SQS_URL, "orders")
    assert queue.binding.queue_options == {}, "what isn't given, the URL may say, and else has the backend's defaults"
    assert only({name: text for name, text in ENOUGH.items() if not name.endswith("PROVIDER")}) == queue


def test_every_name_of_the_original_systems_block_is_read() -> None:
    queue = only(
        ENOUGH
        | {
            "BACKGROUND_JOBS__AWSSQS__DEADLETTERQUEUEURL": f"{QUEUE_URL}-dead",
            "BACKGROUND_JOBS__AWSSQS__REGION": "eu-central-1",
            "BACKGROUND_JOBS__AWSSQS__WAITTIMESECONDS": "5",
            "BACKGROUND_JOBS__AWSSQS__MAXNUMBEROFMESSAGES": "3",
            "BACKGROUND_JOBS__AWSSQS__USEFIFOQUEUE": "false",
            "BACKGROUND_JOBS__AWSSQS__ENDPOINTURL": "https://vpce-1.sqs.eu-central-1.vpce.amazonaws.com",
            "BACKGROUND_JOBS__AWSSQS__CLIENT": "Boto",
            "BACKGROUND_JOBS__AWSSQS__COUNTINTERVALSECONDS": "0",
            "BACKGROUND_JOBS__MAXRETRIES": "5",
            "BACKGROUND_JOBS__QUEUENAME": "thumbnails",
        }
    )
    assert queue.binding.queue == "thumbnails"
    assert queue.binding.queue_options == {
        "dead_letter_queue_url": f"{QUEUE_URL}-dead",
        "region": "eu-central-1",
        "wait_time_seconds": 5,
        "max_number_of_messages": 3,
        "endpoint_url": "https://vpce-1.sqs.eu-central-1.vpce.amazonaws.com",
        "client": "boto",
        "count_interval_seconds": 0,
        "max_retries": 5,
    }
    assert queue.binding.inspector_options == {
        "queue": "thumbnails",
        "dead_letter_queue_url": f"{QUEUE_URL}-dead",
        "region": "eu-central-1",
        "endpoint_url": "https://vpce-1.sqs.eu-central-1.vpce.amazonaws.com",
        "client": "boto",
    }


@pytest.mark.parametrize("url", [SQS_URL, f"{SQS_URL}?wait_time_seconds=5"])
def test_a_url_of_ours_by_option_or_variable_says_which_provider_it_is(url: str) -> None:
    assert only(APP | {"HEADRACE_DSN": url}).binding.dsn == url
    assert only(APP | {"HEADRACE_DSN": POSTGRES}, Postgres__ConnectionString=url).binding.dsn == url
    assert queue_binding({"HEADRACE_DSN": url}, queue="orders").dsn == url


def test_an_endpoint_of_plain_http_keeps_its_scheme() -> None:
    url = {"BACKGROUND_JOBS__AWSSQS__QUEUEURL": "http://127.0.0.1:5000/123456789012/orders"}
    region = {"BACKGROUND_JOBS__AWSSQS__REGION": "eu-central-1"}
    assert only(ENOUGH | url | region).binding.dsn == "sqs+http://127.0.0.1:5000/123456789012/orders"


@pytest.mark.parametrize(
    ("setting", "value", "fix"),
    [
        ("MODE", "Polling", "MODE=Polling: .* set Mode to MessageQueue, which is how"),
        ("AWSSQS__USEFIFOQUEUE", "true", "USEFIFOQUEUE=true: .* leave it out, and name a standard"),
        ("AWSSQS__QUEUEURL", f"{QUEUE_URL}.fifo", "QUEUEURL: .*FIFO queues can't be used"),
        ("AWSSQS__QUEUEURL", "orders", "QUEUEURL: must be the URL of a queue in SQS, such as https"),
        ("AWSSQS__QUEUEURL", "https://sqs.eu-central-1.amazonaws.com", "QUEUEURL: .*must end with a"),
        ("AWSSQS__QUEUEURL", "https://me:hunter2@host/1/orders", "QUEUEURL: .* leave them out"),
        ("AWSSQS__WAITTIMESECONDS", "21", "WAITTIMESECONDS=21: .* at least 0 and at most 20"),
        ("AWSSQS__MAXNUMBEROFMESSAGES", "11", "MESSAGES=11: .* at least 1 and at most 10"),
        ("AWSSQS__REGION", "Frankfurt", "region 'Frankfurt': must be the name of a region"),
        ("AWSSQS__ENDPOINTURL", "localhost", "ENDPOINTURL: must be https://HOST:PORT or http://"),
        ("AWSSQS__CLIENT", "requests", "CLIENT=requests: must be signed or boto"),
        ("AWSSQS__COUNTINTERVALSECONDS", "-1", "COUNTINTERVALSECONDS=-1: must be a number, at least"),
        ("AWSSQS__SECRETACCESSKEY", "hunter2", "SECRETACCESSKEY: credentials are no settings: .* AWS's"),
        ("VISIBILITYTIMEOUTSECONDS", "60", "SECONDS=60: is shorter than the 1800 s .* set it to 1800"),
        ("VISIBILITYTIMEOUTSECONDS", "43201", "43201: SQS hides a message for 43200 s at most; lower"),
        ("JOBTIMEOUTMINUTES", "721", "MINUTES=721: SQS lets nobody hold a job for longer than 43200"),
    ],
)
def test_what_sqs_can_not_do_is_refused_with_the_place_and_the_fix(setting: str, value: str, fix: str) -> None:
    with pytest.raises(SettingsError, match=fix) as caught:
        worker_settings(ENOUGH | {f"BACKGROUND_JOBS__{setting}": value})
    assert len(caught.value.problems) == 1
    assert "hunter2" not in str(caught.value)


def test_a_url_of_sqs_beside_another_provider_is_refused() -> None:
    assert complaints(ENOUGH | {"BACKGROUND_JOBS__PROVIDER": "Postgres", "HEADRACE_DSN": SQS_URL} | NAMED) == (
        "HEADRACE_DSN: leads to SQS, and BACKGROUND_JOBS__PROVIDER is Postgres; leave one of the two out",
    )


def test_a_visibility_timeout_that_covers_the_jobs_is_taken() -> None:
    covering = {"BACKGROUND_JOBS__VISIBILITYTIMEOUTSECONDS": "1800", "BACKGROUND_JOBS__JOBTIMEOUTMINUTES": "30"}
    assert only(ENOUGH | covering).expected_visibility_timeout_seconds == 1800


def test_without_a_queue_url_all_ways_to_give_one_are_said() -> None:
    environ = {name: text for name, text in ENOUGH.items() if not name.endswith("QUEUEURL")}
    assert complaints(environ | {"HEADRACE_DSN": POSTGRES}) == (
        (
            "no queue URL: give AwsSqs.QueueUrl (BACKGROUND_JOBS__AWSSQS__QUEUEURL), --dsn "
            "sqs://sqs.REGION.amazonaws.com/ACCOUNT/NAME, or SERVICE_BINDING_ROOT with a binding of type sqs"
        ),
    )


# Which provider


def test_the_sections_of_both_may_be_there_where_the_provider_is_said() -> None:
    both = ENOUGH | {"HEADRACE_DSN": POSTGRES, "BACKGROUND_JOBS__QUEUENAME": "orders"}
    assert only(both).binding.dsn == SQS_URL
    assert only(both | {"BACKGROUND_JOBS__PROVIDER": "Postgres"}).binding.dsn == POSTGRES
    del both["BACKGROUND_JOBS__PROVIDER"]
    assert complaints(both) == (
        (
            "HEADRACE_DSN, BACKGROUND_JOBS__AWSSQS__QUEUEURL: a PostgreSQL and a queue in SQS; set Provider "
            "(BACKGROUND_JOBS__PROVIDER) to Postgres or AwsSqs, or leave one of them out"
        ),
    )


def test_without_a_provider_the_stronger_source_decides() -> None:
    environ = {"BACKGROUND_JOBS__AWSSQS__QUEUEURL": QUEUE_URL, "BACKGROUND_JOBS__QUEUENAME": "orders"} | APP
    assert only(environ, Postgres__ConnectionString=POSTGRES).binding.dsn == POSTGRES


def test_an_option_that_leads_elsewhere_than_the_provider_is_refused() -> None:
    assert complaints(ENOUGH, Postgres__ConnectionString=POSTGRES) == (
        "--dsn: leads to PostgreSQL, and BACKGROUND_JOBS__PROVIDER is AwsSqs; leave one of the two out",
    )


def test_what_is_a_databases_alone_is_refused_as_an_option_and_else_left_alone() -> None:
    assert complaints(ENOUGH, Postgres__Schema="jobs") == ("--schema: a queue in SQS has none; leave it out",)
    assert only(ENOUGH | {"BACKGROUND_JOBS__POSTGRES__SCHEMA": "jobs"}).binding.queue_options == {}


def test_each_of_several_queues_may_be_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text(f"""
BackgroundJobs:
  AwsSqs: {{WaitTimeSeconds: 10}}
  Postgres: {{ConnectionString: "{POSTGRES}"}}
  Handler: {{Python: {{App: "a:b"}}}}
  Queues:
    - QueueName: orders
    - AwsSqs: {{QueueUrl: "{QUEUE_URL}"}}
      QueueName: mails
""")
    orders, mails = worker_settings({"HEADRACE_CONFIG": str(file)}).queues
    assert (orders.binding.dsn, orders.binding.sqs) == (POSTGRES, None)
    assert (mails.binding.dsn, mails.binding.queue_options) == (SQS_URL, {"wait_time_seconds": 10})


def test_a_queue_url_of_its_own_takes_no_dead_letter_queue_of_anothers(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text(f"""
BackgroundJobs:
  AwsSqs: {{QueueUrl: "{QUEUE_URL}", DeadLetterQueueUrl: "{QUEUE_URL}-dead", Region: eu-central-1}}
  Handler: {{Python: {{App: "a:b"}}}}
  Queues:
    - QueueName: orders
    - AwsSqs: {{QueueUrl: "{QUEUE_URL}-2"}}
      QueueName: others
""")
    orders, others = worker_settings({"HEADRACE_CONFIG": str(file)}).queues
    assert orders.binding.queue_options["dead_letter_queue_url"] == f"{QUEUE_URL}-dead"
    assert others.binding.queue_options == {"region": "eu-central-1"}


# A binding


def test_a_binding_of_type_sqs_says_all_that_there_is_to_say(tmp_path: Path) -> None:
    environ = bound(
        tmp_path,
        uri=SQS_URL,
        queue="thumbnails",
        queue_url=QUEUE_URL,
        dead_letter_queue_url=f"{QUEUE_URL}-dead",
        region="eu-central-1",
        endpoint_url="https://localhost:4566",
        access_key_id="AKIA1",
        secret_access_key="hunter2",
        session_token="hunter3",
    )
    queue = only(environ | APP)
    assert (queue.binding.dsn, queue.binding.queue) == (SQS_URL, "thumbnails")
    place = {
        "dead_letter_queue_url": f"{QUEUE_URL}-dead",
        "region": "eu-central-1",
        "endpoint_url": "https://localhost:4566",
        "access_key_id": "AKIA1",
        "secret_access_key": "hunter2",
        "session_token": "hunter3",
    }
    assert queue.binding.queue_options == place
    assert queue_binding(environ, needs_queue=False).inspector_options == place | {"queue": "thumbnails"}
    assert "hunter" not in repr(queue)
    shown = as_yaml(resolve(environ | APP))
    assert "hunter" not in shown
    assert f"Provider: AwsSqs  # by binding {tmp_path}/queue" in shown


def test_a_bindings_directory_itself_may_be_named_and_its_queue_url_is_enough(tmp_path: Path) -> None:
    place = bind(tmp_path, "queue", type="sqs", queue_url=QUEUE_URL)
    assert queue_binding({"SERVICE_BINDING_ROOT": str(place)}, queue="orders").dsn == SQS_URL


def test_of_bindings_of_both_types_the_queues_own_is_taken(tmp_path: Path) -> None:
    bind(tmp_path, "a", type="postgresql", uri=POSTGRES, queue="a")
    bind(tmp_path, "b", type="sqs", uri=SQS_URL, queue="b")
    environ = {"SERVICE_BINDING_ROOT": str(tmp_path)}
    assert queue_binding(environ, queue="a").dsn == POSTGRES
    assert queue_binding(environ, queue="b").dsn == SQS_URL
    with pytest.raises(SettingsError, match="several bindings of type postgresql or sqs; say which queue"):
        queue_binding(environ, needs_queue=False)
    provider = {"BACKGROUND_JOBS__PROVIDER": "AwsSqs"}
    assert queue_binding(environ | provider, needs_queue=False).dsn == SQS_URL


# Which queue


def test_a_url_leads_to_one_queue_and_what_is_asked_of_another_never_reaches_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="HEADRACE_DSN: leads to queue orders, not to mails; name that queue, or"):
        queue_binding({"HEADRACE_DSN": SQS_URL}, queue="mails")
    environ = bound(tmp_path, uri=SQS_URL, queue="thumbnails")
    assert queue_binding(environ, queue="thumbnails").queue == "thumbnails"
    assert queue_binding(environ, queue="orders").queue == "orders", "its own name will do"
    with pytest.raises(SettingsError, match="leads to queue thumbnails, not to mails"):
        queue_binding(environ, queue="mails")
    with pytest.raises(SettingsError, match="leads to queue thumbnails, not to mails"):
        worker_settings(environ | APP | {"BACKGROUND_JOBS__QUEUENAME": "mails"})


def test_a_name_that_the_environment_gives_the_queue_is_known_to_commands() -> None:
    environ = {"BACKGROUND_JOBS__AWSSQS__QUEUEURL": QUEUE_URL, "BACKGROUND_JOBS__QUEUENAME": "thumbnails"}
    assert queue_binding(environ, queue="thumbnails").queue == "thumbnails"
    assert queue_binding(environ, needs_queue=False).queue == "thumbnails"


def test_what_the_queue_says_otherwise_is_mended_in_its_jobqueue_alone() -> None:
    assert only(ENOUGH | {"BACKGROUND_JOBS__MAXRETRIES": "5"}).disagreements(QueueSettings()) == [
        (
            "MaxRetries is 5 in the settings and 3 in the queue, and the queue's holds: leave it out here, and set "
            "spec.maxRetries of its JobQueue"
        )
    ]


def test_what_holds_is_shown_with_its_defaults() -> None:
    shown = as_yaml(resolve(ENOUGH))
    assert f"    QueueUrl: {QUEUE_URL}  # variable BACKGROUND_JOBS__AWSSQS__QUEUEURL" in shown
    assert "  QueueName: orders  # the queue's URL, variable BACKGROUND_JOBS__AWSSQS__QUEUEURL" in shown
    assert "    WaitTimeSeconds: 20  # default" in shown
    assert "    Client: signed  # default" in shown
    assert "Postgres:" not in shown
