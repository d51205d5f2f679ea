"""The client of SQS before real servers of its protocol, and through a proxy that does what networks and AWS do."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from headrace.queues.errors import QueueAccessError, QueueError, QueueNotFoundError, QueueUnavailableError
from headrace.queues.sqs.client import open_client, shared_client
from headrace.queues.sqs.errors import SqsAccessError, ThrottledError
from headrace.queues.sqs.place import Credentials, Place
from support.aws_proxy import AwsProxy
from support.postgres import free_port
from support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from headrace.queues.sqs.client import SqsClient
    from headrace.queues.sqs.place import ClientKind
    from support.elasticmq import ElasticMq
    from support.moto import Moto

KEYS = Credentials(access_key_id="AKIAHEADRACE", secret_access_key="geheim")
KINDS: list[ClientKind] = ["signed", "boto"]


def place_at(endpoint_url: str, credentials: Credentials | None = KEYS) -> Place:
    return Place(region="eu-central-1", endpoint_url=endpoint_url, credentials=credentials)


@pytest.fixture(params=["moto", "elasticmq"])
def server(request: pytest.FixtureRequest) -> Moto | ElasticMq:
    found: Moto | ElasticMq = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def proxy(elasticmq: ElasticMq) -> AsyncIterator[AwsProxy]:
    async with AwsProxy(elasticmq.endpoint_url).running() as running:
        yield running


@asynccontextmanager
async def through(proxy: AwsProxy, kind: ClientKind = "signed") -> AsyncIterator[tuple[SqsClient, str]]:
    """A client behind the proxy, and the URL of a queue."""
    async with open_client(place_at(proxy.endpoint_url), client=kind) as client:
        yield client, await made(client)


async def made(client: SqsClient) -> str:
    answer = await client.call("CreateQueue", {"QueueName": f"client-{uuid4().hex}"})
    url: str = answer["QueueUrl"]
    return url


async def sent(client: SqsClient, queue_url: str, bodies: list[str], **options: Any) -> dict[str, Any]:
    entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)]
    return await client.call("SendMessageBatch", {"QueueUrl": queue_url, "Entries": entries}, **options)


async def received(client: SqsClient, queue_url: str, wait_seconds: int = 1) -> list[dict[str, Any]]:
    answer = await client.call(
        "ReceiveMessage",
        {
            "QueueUrl": queue_url,
            "MaxNumberOfMessages": 10,
            "WaitTimeSeconds": wait_seconds,
            "MessageAttributeNames": ["All"],
            "AttributeNames": ["All"],
        },
    )
    messages: list[dict[str, Any]] = answer.get("Messages", [])
    return messages


async def count(client: SqsClient, queue_url: str) -> str:
    answer = await client.call("GetQueueAttributes", {"QueueUrl": queue_url, "AttributeNames": ["All"]})
    number: str = answer["Attributes"]["ApproximateNumberOfMessages"]
    return number


@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_goes_through_its_life(server: Moto | ElasticMq, kind: ClientKind) -> None:
    async with open_client(place_at(server.endpoint_url), client=kind) as client:
        queue_url = await made(client)
        body = 'Grüße, "漢字" 🚀\t\n<&>'
        attribute = {"headrace": {"DataType": "String", "StringValue": '{"a":"ü\\u0000"}'}}
        entry = {"Id": "one", "MessageBody": body, "MessageAttributes": attribute}
        answer = await client.call("SendMessageBatch", {"QueueUrl": queue_url, "Entries": [entry]})
        assert [done["Id"] for done in answer["Successful"]] == ["one"]
        (message,) = await received(client, queue_url)
        assert message["Body"] == body
        assert message["MessageAttributes"]["headrace"]["StringValue"] == '{"a":"ü\\u0000"}'
        assert message["Attributes"]["ApproximateReceiveCount"] == "1"
        handle = {"Id": "0", "ReceiptHandle": message["ReceiptHandle"]}
        again = {"QueueUrl": queue_url, "Entries": [handle | {"VisibilityTimeout": 0}]}
        assert (await client.call("ChangeMessageVisibilityBatch", again))["Successful"] == [{"Id": "0"}]
        (message,) = await received(client, queue_url)
        handle = {"Id": "0", "ReceiptHandle": message["ReceiptHandle"]}
        await client.call("DeleteMessageBatch", {"QueueUrl": queue_url, "Entries": [handle]})
        assert await received(client, queue_url) == []
        assert await count(client, queue_url) == "0"


@pytest.mark.parametrize("kind", KINDS)
async def test_both_clients_give_one_error_for_a_queue_that_is_gone(server: Moto | ElasticMq, kind: ClientKind) -> None:
    async with open_client(place_at(server.endpoint_url), client=kind) as client:
        gone = (await made(client)).replace("client-", "gone-")
        for operation in ("GetQueueAttributes", "ListQueueTags"):
            with pytest.raises(QueueNotFoundError) as caught:
                await client.call(operation, {"QueueUrl": gone})
            assert caught.value.code == "QueueDoesNotExist"  # type: ignore[attr-defined]
            assert caught.value.operation == operation  # type: ignore[attr-defined]


async def test_what_is_no_call_is_refused_in_our_words(elasticmq: ElasticMq) -> None:
    async with open_client(place_at(elasticmq.endpoint_url)) as client:
        with pytest.raises(QueueError, match=r"TagQueue of SQS can't be made: .*Missing required parameter"):
            await client.call("TagQueue", {"QueueUrl": elasticmq.queue_url("orders")})


async def test_a_server_that_checks_signatures_takes_ours_and_no_other_secrets(moto: Moto) -> None:
    # moto does so once it checks rights (moto/iam/access_control.py); ElasticMQ checks none.
    everything = {"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}
    key_id, secret = await moto.user({"Version": "2012-10-17", "Statement": [everything]})
    theirs = Credentials(access_key_id=key_id, secret_access_key=secret)
    wrong = Credentials(access_key_id=key_id, secret_access_key="another")
    moto.require_rights()
    try:
        async with (
            open_client(place_at(moto.endpoint_url, theirs)) as client,
            open_client(place_at(moto.endpoint_url, wrong)) as impostor,
        ):
            queue_url = await made(client)
            await sent(client, queue_url, ["signed"])
            with pytest.raises(SqsAccessError, match="mend the secret access key") as caught:
                await received(impostor, queue_url)
            assert caught.value.code == "SignatureDoesNotMatch"
            assert [message["Body"] for message in await received(client, queue_url)] == ["signed"]
    finally:
        moto.require_no_rights()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [500, 503])
async def test_what_the_service_can_t_do_now_is_tried_again(proxy: AwsProxy, kind: ClientKind, status: int) -> None:
    async with through(proxy, kind) as (client, queue_url):
        proxy.answer(status, "InternalFailure", operation="SendMessageBatch", times=2)
        await sent(client, queue_url, ["once"])
        assert proxy.calls["SendMessageBatch"] == 3
        assert [message["Body"] for message in await received(client, queue_url)] == ["once"]


@pytest.mark.parametrize("kind", KINDS)
async def test_three_tries_are_made_and_then_it_is_told(proxy: AwsProxy, kind: ClientKind) -> None:
    async with through(proxy, kind) as (client, queue_url):
        proxy.answer(500, "InternalFailure", operation="SendMessageBatch", times=9)
        with pytest.raises(QueueUnavailableError, match="can't serve now"):
            await sent(client, queue_url, ["never"])
        assert proxy.calls["SendMessageBatch"] == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_throttling_is_tried_again_and_told_as_such(proxy: AwsProxy, kind: ClientKind) -> None:
    async with through(proxy, kind) as (client, queue_url):
        proxy.answer(400, "RequestThrottled", "Rate exceeded", operation="SendMessageBatch", times=9)
        with pytest.raises(ThrottledError, match="fewer calls, or later"):
            await sent(client, queue_url, ["never"])
        assert proxy.calls["SendMessageBatch"] == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_is_not_tried_again(proxy: AwsProxy, kind: ClientKind) -> None:
    async with through(proxy, kind) as (client, queue_url):
        denied = "User: arn:aws:iam::1:user/w is not authorized to perform: sqs:sendmessage on resource: x"
        proxy.answer(403, "AccessDenied", denied, operation="SendMessageBatch", times=9)
        with pytest.raises(SqsAccessError, match="allow sqs:SendMessage") as caught:
            await sent(client, queue_url, ["never"])
        assert caught.value.action == "sqs:SendMessage"
        assert proxy.calls["SendMessageBatch"] == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_connection_that_is_cut_is_made_anew(proxy: AwsProxy, kind: ClientKind) -> None:
    async with through(proxy, kind) as (client, queue_url):
        proxy.cut(operation="SendMessageBatch", times=2)
        await sent(client, queue_url, ["once"])
        assert proxy.calls["SendMessageBatch"] == 3
        assert len(await received(client, queue_url)) == 1


async def test_a_batch_whose_answer_was_lost_is_sent_twice_rather_than_not_at_all(proxy: AwsProxy) -> None:
    async with through(proxy) as (client, queue_url):
        proxy.cut(operation="SendMessageBatch", is_done=True)
        await sent(client, queue_url, ["twice"])
        assert [message["Body"] for message in await received(client, queue_url)] == ["twice", "twice"]


async def test_entries_that_fail_are_given_to_the_caller(proxy: AwsProxy) -> None:
    async with through(proxy) as (client, queue_url):
        proxy.fail_entries("SendMessageBatch", lambda entry: entry["Id"] == "1")
        answer = await sent(client, queue_url, ["a", "b", "c"])
        assert [done["Id"] for done in answer["Successful"]] == ["0", "2"]
        assert [(failed["Id"], failed["Code"]) for failed in answer["Failed"]] == [("1", "InternalError")]


@pytest.mark.parametrize("operation", ["GetQueueUrl", "GetQueueAttributes"])
async def test_an_answer_without_an_end_is_not_read_to_its_end(operation: str) -> None:
    sent = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            while sent < 256 * 1024 * 1024:
                writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                await writer.drain()
                sent += 0x10000
        writer.close()

    port = free_port()
    async with (
        await asyncio.start_server(endless, "127.0.0.1", port),
        open_client(place_at(f"http://127.0.0.1:{port}")) as client,
    ):
        with pytest.raises(QueueUnavailableError):
            await client.call(operation, {"QueueName": "a"} if operation == "GetQueueUrl" else {"QueueUrl": "a"})
    # Three tries, and what is on its way.
    assert sent < 64 * 1024 * 1024


@pytest.mark.parametrize("operation", ["GetQueueUrl", "GetQueueAttributes"])
async def test_an_answer_that_is_cut_short_is_none(operation: str) -> None:
    async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()

    port = free_port()
    async with (
        await asyncio.start_server(cut, "127.0.0.1", port),
        open_client(place_at(f"http://127.0.0.1:{port}")) as client,
    ):
        with pytest.raises(QueueUnavailableError):
            await client.call(operation, {"QueueName": "a"} if operation == "GetQueueUrl" else {"QueueUrl": "a"})


@pytest.mark.parametrize("page", ["<html>Bad gateway</html>", "[]", '{"__type": 5}'])
async def test_a_page_of_a_proxy_on_the_way_is_no_answer(proxy: AwsProxy, page: str) -> None:
    async with through(proxy) as (client, queue_url):
        proxy.answer_page(502, page, operation="GetQueueAttributes", times=9)
        with pytest.raises(QueueUnavailableError):
            await count(client, queue_url)
        assert proxy.calls["GetQueueAttributes"] == 3


async def test_a_page_that_looks_like_success_is_none(proxy: AwsProxy) -> None:
    async with through(proxy) as (client, queue_url):
        proxy.answer_page(200, "<html>Please log in</html>", operation="SendMessageBatch", times=9)
        with pytest.raises(QueueUnavailableError, match="what answered was not SQS"):
            await sent(client, queue_url, ["never"])


@pytest.mark.parametrize("kind", KINDS)
async def test_who_has_little_patience_waits_no_longer(proxy: AwsProxy, kind: ClientKind) -> None:
    async with through(proxy, kind) as (client, queue_url):
        proxy.slow(60, operation="SendMessageBatch", times=9)
        with pytest.raises(QueueUnavailableError, match="not answered in time"):
            await sent(client, queue_url, ["late"], patience_seconds=0.3)


async def test_a_long_poll_may_take_longer_than_the_patience_with_it(proxy: AwsProxy) -> None:
    async with through(proxy) as (client, queue_url):
        parameters = {"QueueUrl": queue_url, "WaitTimeSeconds": 2}
        answer = await client.call("ReceiveMessage", parameters, patience_seconds=1)
        assert answer.get("Messages", []) == []
        assert proxy.calls["ReceiveMessage"] == 1


async def test_many_polls_go_on_side_by_side_and_hold_nobody_up(proxy: AwsProxy) -> None:
    async with through(proxy) as (client, queue_url):
        polls = [asyncio.create_task(received(client, queue_url, wait_seconds=20)) for _ in range(150)]
        await proxy.until_under_way("ReceiveMessage", len(polls))
        await sent(client, queue_url, ["through"], patience_seconds=5)
        done, others = await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
        assert [message["Body"] for poll in done for message in poll.result()] == ["through"]
        for poll in others:
            poll.cancel()
        await asyncio.wait(others)


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_at_the_endpoint_is_unavailability(kind: ClientKind) -> None:
    async with open_client(place_at(f"http://127.0.0.1:{free_port()}"), client=kind) as client:
        with pytest.raises(QueueUnavailableError, match="can't be reached"):
            await count(client, "http://127.0.0.1:9/000000000000/orders")


async def test_an_endpoint_that_falls_silent_is_given_up(elasticmq: ElasticMq) -> None:
    tcp = TcpProxy(elasticmq.port)
    async with tcp.running(), open_client(place_at(f"http://127.0.0.1:{tcp.port}")) as client:
        queue_url = await made(client)
        tcp.silence(new_ones_too=True)
        with pytest.raises(QueueUnavailableError, match="not answered in time"):
            await client.call("GetQueueAttributes", {"QueueUrl": queue_url}, patience_seconds=0.3)
        tcp.cut()
        tcp.resume()
        assert await count(client, queue_url) == "0"


@pytest.mark.parametrize("ahead_seconds", [-3600.0, 3600.0])
async def test_a_wrong_clock_is_corrected_by_the_services_own(
    proxy: AwsProxy, ahead_seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    async with through(proxy) as (client, queue_url):
        proxy.clock_ahead_seconds = ahead_seconds
        with caplog.at_level(logging.WARNING):
            await sent(client, queue_url, ["a"])
            await sent(client, queue_url, ["b"])
        assert proxy.calls["SendMessageBatch"] == 3, "the second one was signed with the service's time at once"
        (record,) = caplog.records
        # A header's time is of whole seconds, and the answer was on its way.
        assert re.search(r"the clock here is (359\d|360\d) s", record.getMessage())
        assert ("behind" if ahead_seconds > 0 else "ahead of") in record.getMessage()
        # And back: it was set meanwhile.
        proxy.clock_ahead_seconds = 0.0
        await sent(client, queue_url, ["c"])


async def test_a_wrong_clock_is_corrected_for_all_calls_that_were_under_way(proxy: AwsProxy) -> None:
    async with through(proxy) as (client, queue_url):
        proxy.clock_ahead_seconds = 3600.0
        await asyncio.gather(*[sent(client, queue_url, [f"{number}"]) for number in range(16)])


@pytest.mark.parametrize("kind", KINDS)
async def test_credentials_that_were_replaced_serve_all_calls_that_were_under_way(
    proxy: AwsProxy, kind: ClientKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(key_id: str) -> None:
        (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id={key_id}\naws_secret_access_key=geheim\n")

    monkeypatch.setattr("headrace.queues.sqs.boto._RENEWAL_SECONDS", 0.0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    write("AKIAOLD")
    async with open_client(place_at(proxy.endpoint_url, credentials=None), client=kind) as client:
        queue_url = await made(client)
        write("AKIANEW")
        proxy.refused_keys["AKIAOLD"] = "ExpiredToken"
        await asyncio.gather(*[sent(client, queue_url, [f"{number}"]) for number in range(16)])


async def test_a_wrong_clock_that_botocore_signs_with_is_told_precisely(proxy: AwsProxy) -> None:
    async with through(proxy, "boto") as (client, queue_url):
        proxy.clock_ahead_seconds = 3600.0
        with pytest.raises(SqsAccessError, match=r"the clock here is (359\d|360\d) s behind: set it"):
            await sent(client, queue_url, ["a"])


@pytest.mark.parametrize("kind", KINDS)
async def test_credentials_that_expired_are_told_where_there_are_no_others(proxy: AwsProxy, kind: ClientKind) -> None:
    async with through(proxy, kind) as (client, queue_url):
        proxy.refused_keys[KEYS.access_key_id] = "ExpiredToken"
        with pytest.raises(QueueAccessError, match="have expired: renew them") as caught:
            await sent(client, queue_url, ["never"])
        assert "geheim" not in str(caught.value)
        assert proxy.calls["SendMessageBatch"] == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_credentials_that_were_replaced_in_a_file_are_taken_up_once_the_old_ones_are_refused(
    proxy: AwsProxy, kind: ClientKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(key_id: str) -> None:
        (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id={key_id}\naws_secret_access_key=geheim\n")

    monkeypatch.setattr("headrace.queues.sqs.boto._RENEWAL_SECONDS", 0.0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    write("AKIAOLD")
    async with open_client(place_at(proxy.endpoint_url, credentials=None), client=kind) as client:
        queue_url = await made(client)
        await sent(client, queue_url, ["by the old ones"])
        proxy.refused_keys["AKIAOLD"] = "InvalidClientTokenId"
        with pytest.raises(SqsAccessError, match="the access key is unknown"):
            await sent(client, queue_url, ["by nobody"])
        write("AKIANEW")
        await sent(client, queue_url, ["by the new ones"])
        assert await count(client, queue_url) == "2"


@pytest.mark.parametrize("kind", KINDS)
async def test_who_has_no_credentials_is_told_and_finds_them_later(
    proxy: AwsProxy, kind: ClientKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    async with open_client(place_at(proxy.endpoint_url, credentials=None), client=kind) as client:
        with pytest.raises(QueueAccessError, match="needs credentials: give access_key_id"):
            await sent(client, "http://127.0.0.1:9/000000000000/orders", ["never"])
        (tmp_path / "credentials").write_text("[default]\naws_access_key_id=AKIA\naws_secret_access_key=geheim\n")
        await sent(client, await made(client), ["found"])


@pytest.mark.parametrize("kind", KINDS)
async def test_all_users_of_a_place_share_a_client_until_the_last_one_leaves(
    elasticmq: ElasticMq, kind: ClientKind
) -> None:
    place = place_at(elasticmq.endpoint_url)
    async with shared_client(place, client=kind) as one:
        async with (
            shared_client(place_at(elasticmq.endpoint_url), client=kind) as two,
            shared_client(place_at(elasticmq.endpoint_url, credentials=None), client=kind) as stranger,
        ):
            assert one is two
            assert one is not stranger
        await made(one)
    async with shared_client(place, client=kind) as three:
        assert three is not one
        await made(three)


async def test_those_who_come_at_the_same_time_open_one_client(elasticmq: ElasticMq) -> None:
    place = place_at(elasticmq.endpoint_url)
    found: list[SqsClient] = []
    is_enough = asyncio.Event()

    async def use() -> None:
        async with shared_client(place) as client:
            found.append(client)
            if len(found) == 10:
                is_enough.set()
            await is_enough.wait()

    await asyncio.gather(*(use() for _ in range(10)))
    assert len({id(client) for client in found}) == 1


async def test_another_event_loop_has_a_client_of_its_own(elasticmq: ElasticMq) -> None:
    place = place_at(elasticmq.endpoint_url)
    others: list[SqsClient] = []

    async def elsewhere() -> None:
        async with shared_client(place) as client:
            await made(client)
            others.append(client)

    async with shared_client(place) as client:
        thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert others[0] is not client
        await made(client)
