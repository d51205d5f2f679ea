"""Secrets by name: how often they are read, and who is told that one has changed."""

from __future__ import annotations

import asyncio

import pytest

from headrace_operator.core.model import ObjectKey, PassingError, TransientError
from headrace_operator.core.provider import SecretKey
from headrace_operator.reconcile.objects import ObjectStore
from headrace_operator.reconcile.secrets import Secrets, SecretUser
from support.jumping_loop import run_jumping
from support.memory_cluster import MemoryCluster, SetClock

DATABASE = ObjectKey("shop", "pg")
MAIL = SecretUser("JobQueue", ObjectKey("shop", "mail"))
THUMBNAILS = SecretUser("JobQueue", ObjectKey("shop", "thumbnails"))


class Scene:
    """A Secret and who reads it."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.cluster = MemoryCluster(ObjectStore())
        self.told: list[SecretUser] = []
        self.secrets = Secrets(self.cluster, self.clock, self.told.append)
        self.put(b"first")

    def put(self, dsn: bytes) -> None:
        self.cluster.secrets[DATABASE] = {"dsn": dsn, "other": b"x"}

    async def read(self, user: SecretUser = MAIL, *, refresh: bool = False) -> bytes:
        return (await self.secrets.read(user, "pg", "dsn", refresh=refresh)).content

    @property
    def reads(self) -> int:
        return len(self.cluster.secrets_read)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_secret_is_read_once_a_minute_whoever_asks_and_however_often(scene: Scene) -> None:
    for _ in range(40):
        assert await scene.read(MAIL) == await scene.read(THUMBNAILS) == b"first"
        scene.clock.move(1)
    assert scene.reads == 1
    scene.put(b"rotated")
    scene.clock.move(20)
    assert await scene.read() == b"rotated"


async def test_those_who_ask_at_the_same_time_share_one_reading(scene: Scene) -> None:
    await asyncio.gather(*(scene.read(user) for user in (MAIL, THUMBNAILS) for _ in range(50)))
    assert scene.reads == 1


async def test_whoever_was_refused_reads_anew_and_a_hundred_of_them_once(scene: Scene) -> None:
    await scene.read()
    scene.put(b"rotated")
    scene.clock.move(2)
    assert await scene.read(refresh=True) == b"rotated"
    await asyncio.gather(*(scene.read(refresh=True) for _ in range(100)))
    assert scene.reads == 2


async def test_another_key_is_read_though_the_secret_is_known(scene: Scene) -> None:
    await scene.read()
    assert (await scene.secrets.read(MAIL, "pg", "other")).content == b"x"


async def test_a_key_that_may_be_missing_is_none_and_the_secret_is_read_no_more_often_for_it(scene: Scene) -> None:
    token = SecretKey("pg", "token", is_optional=True)
    for _ in range(40):
        assert await scene.secrets.find(MAIL, token) is None
        assert await scene.read() == b"first"
        scene.clock.move(1)
    assert scene.reads == 2
    scene.cluster.secrets[DATABASE]["token"] = b"temporary"
    scene.clock.move(60)
    found = await scene.secrets.find(MAIL, token)
    assert found is not None
    assert found.content == b"temporary"


async def test_a_key_that_is_optional_to_one_and_needed_by_another_is_needed(scene: Scene) -> None:
    assert await scene.secrets.find(MAIL, SecretKey("pg", "token", is_optional=True)) is None
    with pytest.raises(TransientError, match="has no key token"):
        await scene.secrets.find(THUMBNAILS, SecretKey("pg", "token"))
    assert await scene.secrets.find(MAIL, SecretKey("pg", "token", is_optional=True)) is None


async def test_a_version_tells_whether_the_secret_has_changed(scene: Scene) -> None:
    first = await scene.secrets.read(MAIL, "pg", "dsn")
    scene.clock.move(60)
    assert await scene.secrets.read(MAIL, "pg", "dsn") == first
    scene.put(b"rotated")
    scene.clock.move(60)
    assert (await scene.secrets.read(MAIL, "pg", "dsn")).version != first.version


async def test_what_a_secret_holds_shows_in_no_repr(scene: Scene) -> None:
    value = await scene.secrets.read(MAIL, "pg", "dsn")
    content = await scene.cluster.secret(DATABASE)
    assert "first" not in f"{value!r}{value}"
    assert "first" not in repr(vars(scene.secrets))
    assert content is not None
    assert "data" not in repr(content)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "SecretNotFound"), ({}, "SecretKeyMissing"), ({"dsn": b""}, "SecretKeyMissing")]
)
async def test_what_is_missing_has_a_reason_and_is_looked_for_soon(
    scene: Scene, content: dict[str, bytes] | None, reason: str
) -> None:
    del scene.cluster.secrets[DATABASE]
    if content is not None:
        scene.cluster.secrets[DATABASE] = content
    with pytest.raises(TransientError) as missing:
        await scene.read()
    assert missing.value.reason == reason
    scene.put(b"there")
    scene.clock.move(10)
    assert await scene.read() == b"there"


async def test_an_api_that_is_away_takes_nothing_from_those_who_know(scene: Scene) -> None:
    await scene.read()
    scene.cluster.secret_failure = PassingError("ApiServerTimeout", "no answer")
    assert await scene.read() == b"first"
    scene.clock.move(60)
    with pytest.raises(PassingError):
        await scene.read()


def watched(scene: Scene, *, seconds: float) -> None:
    """Let time go by with the Secrets watched."""

    async def story() -> None:
        await scene.read(MAIL)
        await scene.read(THUMBNAILS)
        async with scene.secrets.watching():
            for _ in range(round(seconds)):
                scene.clock.move(1)
                await asyncio.sleep(1)

    run_jumping(story())


def test_a_rotated_secret_is_told_to_all_who_use_it_within_a_minute_and_once(scene: Scene) -> None:
    async def story() -> None:
        await scene.read(MAIL)
        await scene.read(THUMBNAILS)
        async with scene.secrets.watching():
            scene.put(b"rotated")
            for _ in range(200):
                scene.clock.move(1)
                await asyncio.sleep(1)
                if scene.clock.time.minute == 1 and not scene.told:
                    pytest.fail("a minute is over")

    run_jumping(story())
    assert scene.told == [MAIL, THUMBNAILS]


def test_a_secret_in_use_is_read_once_a_minute_and_one_that_nobody_uses_never(scene: Scene) -> None:
    watched(scene, seconds=600)
    assert 10 <= scene.reads <= 15
    scene.secrets.forget(MAIL)
    scene.secrets.forget(THUMBNAILS)

    async def story() -> None:
        async with scene.secrets.watching():
            for _ in range(600):
                scene.clock.move(1)
                await asyncio.sleep(1)

    before = scene.reads
    run_jumping(story())
    assert scene.reads == before


def test_whoever_names_another_secret_is_told_of_that_one_for_ever(scene: Scene) -> None:
    scene.cluster.secrets[ObjectKey("shop", "pg-2")] = {"dsn": b"first"}

    async def story() -> None:
        await scene.read(MAIL)
        async with scene.secrets.watching():
            for second in range(3650):
                if second % 600 == 0:
                    await scene.secrets.read(MAIL, "pg-2", "dsn")
                scene.clock.move(1)
                await asyncio.sleep(1)
            scene.cluster.secrets[ObjectKey("shop", "pg-2")] = {"dsn": b"rotated"}
            for _ in range(60):
                scene.clock.move(1)
                await asyncio.sleep(1)

    run_jumping(story())
    assert scene.told == [MAIL]
    assert scene.cluster.secrets_read.count(DATABASE) < 80, "the one before is read no more"


def test_one_that_will_not_do_is_read_again_soon_and_less_and_less_often(scene: Scene) -> None:
    async def story() -> None:
        await scene.read(MAIL)
        async with scene.secrets.watching():
            moments = []
            for second in range(300):
                scene.secrets.doubt(MAIL)
                before = scene.reads
                scene.clock.move(1)
                await asyncio.sleep(1)
                if scene.reads > before:
                    moments.append(second)
            assert moments[0] <= 6
            assert moments[1] - moments[0] <= 11
            assert 43 <= moments[-1] - moments[-2] <= 58

    run_jumping(story())


def test_whoever_fails_now_and_then_has_it_read_once_a_minute_in_the_end(scene: Scene) -> None:
    async def story() -> None:
        await scene.read(MAIL)
        async with scene.secrets.watching():
            reads: list[int] = []
            for second in range(600):
                if second % 15 == 0:
                    scene.secrets.doubt(MAIL)
                scene.clock.move(1)
                await asyncio.sleep(1)
                reads.append(scene.reads)
            assert reads[-1] - reads[300] <= 7

    run_jumping(story())


def test_what_will_not_do_after_a_change_is_read_again_soon(scene: Scene) -> None:
    async def story() -> None:
        await scene.read(MAIL)
        async with scene.secrets.watching():
            for second in range(300):
                scene.secrets.doubt(MAIL)
                if second == 230:
                    scene.put(b"wrong, too")
                scene.clock.move(1)
                await asyncio.sleep(1)
                if scene.told:
                    break
            before = scene.reads
            for _ in range(6):
                scene.secrets.doubt(MAIL)
                scene.clock.move(1)
                await asyncio.sleep(1)
            assert scene.reads > before

    run_jumping(story())


def test_an_api_that_is_away_does_not_end_the_watch(scene: Scene) -> None:
    async def story() -> None:
        await scene.read(MAIL)
        async with scene.secrets.watching():
            scene.cluster.secret_failure = PassingError("ApiServerTimeout", "no answer")
            for _ in range(120):
                scene.clock.move(1)
                await asyncio.sleep(1)
            scene.cluster.secret_failure = None
            scene.put(b"rotated")
            for _ in range(10):
                scene.clock.move(1)
                await asyncio.sleep(1)

    run_jumping(story())
    assert scene.told == [MAIL]
