"""What every store of idempotency promises. A store is given as a bench, which can also let time pass."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import pytest

from headrace.idempotency.base import Claim, ClaimState, Hold

if TYPE_CHECKING:
    from headrace.idempotency.base import IdempotencyStore

LEASE_SECONDS = 20.0
TTL_SECONDS = 7 * 86_400.0

CLAIMED = Claim(ClaimState.CLAIMED, 0.0)
FINISHED = Claim(ClaimState.FINISHED, 0.0)

OURS, THEIRS = Hold("order-17", "ours"), Hold("order-17", "theirs")


class Bench(Protocol):
    """One place, and stores in it."""

    def store(self, *, prefix: str = "") -> IdempotencyStore:
        """One more client's; not yet open. The prefix comes after the bench's own."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let everything in the place be older by so much."""
        ...


async def claim(store: IdempotencyStore, *holds: Hold) -> list[Claim]:
    return await store.claim(holds, lease_seconds=LEASE_SECONDS)


async def extend(store: IdempotencyStore, *holds: Hold) -> list[bool]:
    return await store.extend(holds, lease_seconds=LEASE_SECONDS)


async def finish(store: IdempotencyStore, *holds: Hold) -> list[bool]:
    return await store.finish(holds, ttl_seconds=TTL_SECONDS)


async def states(store: IdempotencyStore, *holds: Hold) -> list[ClaimState]:
    return [answer.state for answer in await claim(store, *holds)]


class IdempotencyContract:
    async def test_a_free_key_is_claimed_and_then_in_progress_for_others(self, bench: Bench) -> None:
        async with bench.store() as mine, bench.store() as other:
            assert await claim(mine, OURS) == [CLAIMED]
            ((state, retry_after_seconds),) = await claim(other, THEIRS)
            assert state is ClaimState.IN_PROGRESS
            assert LEASE_SECONDS - 10 < retry_after_seconds <= LEASE_SECONDS

    async def test_a_finished_key_starts_no_run_for_anybody(self, bench: Bench) -> None:
        async with bench.store() as mine, bench.store() as other:
            await claim(mine, OURS)
            assert await finish(mine, OURS) == [True]
            assert await claim(other, THEIRS) == [FINISHED]
            assert await claim(mine, OURS) == [FINISHED]

    async def test_a_finished_key_is_remembered_for_its_time_and_no_longer(self, bench: Bench) -> None:
        async with bench.store() as store:
            await claim(store, OURS)
            await finish(store, OURS)
            await bench.pass_time(TTL_SECONDS - 60)
            assert await claim(store, THEIRS) == [FINISHED]
            await bench.pass_time(61)
            assert await claim(store, THEIRS) == [CLAIMED]

    async def test_a_released_key_can_be_claimed_at_once(self, bench: Bench) -> None:
        async with bench.store() as mine, bench.store() as other:
            await claim(mine, OURS)
            assert await mine.release([OURS]) == [True]
            assert await claim(other, THEIRS) == [CLAIMED]

    async def test_a_claim_ends_with_its_lease(self, bench: Bench) -> None:
        async with bench.store() as mine, bench.store() as other:
            await claim(mine, OURS)
            await bench.pass_time(LEASE_SECONDS - 5)
            assert await states(other, THEIRS) == [ClaimState.IN_PROGRESS]
            await bench.pass_time(6)
            assert await claim(other, THEIRS) == [CLAIMED]

    async def test_an_extended_claim_lasts_a_whole_lease_more(self, bench: Bench) -> None:
        async with bench.store() as mine, bench.store() as other:
            await claim(mine, OURS)
            await bench.pass_time(LEASE_SECONDS - 5)
            assert await extend(mine, OURS) == [True]
            await bench.pass_time(LEASE_SECONDS - 5)
            assert await states(other, THEIRS) == [ClaimState.IN_PROGRESS]

    async def test_what_is_not_held_is_not_extended(self, bench: Bench) -> None:
        async with bench.store() as store:
            assert await extend(store, OURS) == [False]
            await claim(store, OURS)
            assert await extend(store, THEIRS) == [False]
            await bench.pass_time(LEASE_SECONDS + 1)
            assert await extend(store, OURS) == [False]
            assert await claim(store, THEIRS) == [CLAIMED]
            assert await extend(store, OURS) == [False]
            await finish(store, THEIRS)
            assert await extend(store, THEIRS) == [False]

    async def test_an_extension_leaves_a_finished_key_its_days(self, bench: Bench) -> None:
        async with bench.store() as store:
            await claim(store, OURS)
            await finish(store, OURS)
            await extend(store, OURS)
            await bench.pass_time(LEASE_SECONDS + 1)
            assert await claim(store, THEIRS) == [FINISHED]

    async def test_who_lost_the_key_to_another_can_neither_finish_nor_release_it(self, bench: Bench) -> None:
        async with bench.store() as store:
            await claim(store, OURS)
            await bench.pass_time(LEASE_SECONDS + 1)
            await claim(store, THEIRS)
            assert await finish(store, OURS) == [False]
            assert await store.release([OURS]) == [False]
            assert await states(store, OURS) == [ClaimState.IN_PROGRESS], "the other still has it"
            assert await finish(store, THEIRS) == [True]

    async def test_a_key_has_one_valid_finish(self, bench: Bench) -> None:
        async with bench.store() as store:
            await claim(store, OURS)
            await bench.pass_time(LEASE_SECONDS + 1)
            await claim(store, THEIRS)
            assert await finish(store, THEIRS) == [True]
            assert await finish(store, OURS) == [False]
            assert await store.release([THEIRS]) == [False], "what is finished is not released"
            assert await claim(store, OURS) == [FINISHED]

    async def test_a_claim_that_ran_out_is_finished_where_nobody_else_came(self, bench: Bench) -> None:
        async with bench.store() as store:
            await claim(store, OURS)
            await bench.pass_time(LEASE_SECONDS + 1)
            assert await finish(store, OURS) == [True]
            assert await claim(store, THEIRS) == [FINISHED]

    async def test_whatever_is_said_twice_because_the_answer_was_lost_is_so(self, bench: Bench) -> None:
        async with bench.store() as store:
            assert await claim(store, OURS) == await claim(store, OURS) == [CLAIMED]
            assert await extend(store, OURS) == await extend(store, OURS) == [True]
            assert await finish(store, OURS) == await finish(store, OURS) == [True]
            other = Hold("order-18", "ours")
            await claim(store, other)
            assert await store.release([other]) == [True]
            assert await store.release([other]) == [False], "there is nothing to release any more"
            assert await claim(store, Hold("order-18", "theirs")) == [CLAIMED]

    async def test_a_claim_said_twice_has_a_whole_lease(self, bench: Bench) -> None:
        async with bench.store() as store:
            await claim(store, OURS)
            await bench.pass_time(LEASE_SECONDS - 5)
            await claim(store, OURS)
            await bench.pass_time(LEASE_SECONDS - 5)
            assert await states(store, THEIRS) == [ClaimState.IN_PROGRESS]

    async def test_a_finish_said_twice_keeps_its_time(self, bench: Bench) -> None:
        async with bench.store() as store:
            await finish(store, OURS)
            await bench.pass_time(TTL_SECONDS - 60)
            await finish(store, OURS)
            await bench.pass_time(61)
            assert await claim(store, THEIRS) == [CLAIMED]

    async def test_answers_come_in_the_order_of_the_holds(self, bench: Bench) -> None:
        async with bench.store() as store:
            holds = [Hold(f"order-{number}", f"token-{number}") for number in range(300)]
            taken, done = holds[::3], holds[1::3]
            await claim(store, *[Hold(key, "other") for key, _ in taken], *done)
            await finish(store, *done)
            wanted = [ClaimState.IN_PROGRESS, ClaimState.FINISHED, ClaimState.CLAIMED] * 100
            assert await states(store, *holds) == wanted
            assert await extend(store, *holds) == [state is ClaimState.CLAIMED for state in wanted]
            assert await store.release(holds) == [state is ClaimState.CLAIMED for state in wanted]
            assert await finish(store, *holds) == [state is not ClaimState.IN_PROGRESS for state in wanted]

    async def test_of_the_same_key_twice_in_one_call_the_first_has_it(self, bench: Bench) -> None:
        async with bench.store() as store:
            free = Hold("order-18", "ours")
            answers = await states(store, OURS, THEIRS, free, OURS)
            assert answers == [
                ClaimState.CLAIMED,
                ClaimState.IN_PROGRESS,
                ClaimState.CLAIMED,
                ClaimState.CLAIMED,
            ]
            assert await finish(store, THEIRS, OURS, OURS) == [False, True, True]

    async def test_no_holds_are_no_answers(self, bench: Bench) -> None:
        async with bench.store() as store:
            assert await claim(store) == []
            assert await extend(store) == await finish(store) == await store.release([]) == []

    async def test_of_many_who_want_the_same_keys_at_once_one_gets_each(self, bench: Bench) -> None:
        keys = [f"order-{number}" for number in range(20)]
        async with bench.store() as one, bench.store() as two, bench.store() as three:
            answers = await asyncio.gather(
                *(
                    claim(store, *(Hold(key, f"token-{number}") for key in keys))
                    for number, store in enumerate([one, two, three] * 70)
                )
            )
        claimed = Counter(
            key for answer in answers for key, one in zip(keys, answer, strict=True) if one.state is ClaimState.CLAIMED
        )
        assert claimed == dict.fromkeys(keys, 1)

    @pytest.mark.parametrize("key", ["", " ", "é\n\x00", "{tenant}:7", "x" * 100_000, "sha256:" + "0" * 64, "\udc80"])
    async def test_any_text_is_a_key_of_its_own(self, bench: Bench, key: str) -> None:
        async with bench.store() as store:
            others = [Hold(key + suffix, "ours") for suffix in (" ", "x", "\x00")]
            assert await claim(store, Hold(key, "ours")) == [CLAIMED]
            assert await claim(store, *others) == [CLAIMED] * 3
            assert await states(store, Hold(key, "theirs")) == [ClaimState.IN_PROGRESS]

    async def test_a_long_key_is_not_the_key_that_it_is_stored_as(self, bench: Bench) -> None:
        digest = hashlib.sha256(b"x" * 300).hexdigest()
        async with bench.store() as store:
            assert await claim(store, Hold("x" * 300, "ours"), Hold(f"sha256:{digest}", "theirs")) == [CLAIMED] * 2

    async def test_queues_do_not_share_keys(self, bench: Bench) -> None:
        async with bench.store(prefix="shop:") as one, bench.store(prefix="mail:") as other:
            assert await claim(one, OURS) == [CLAIMED]
            assert await claim(other, THEIRS) == [CLAIMED]
