"""Any sequence of verbs, in Redis and in memory: both must answer alike."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from contract.test_idempotency import MemoryBench, RedisBench, redis_bench
from headrace.idempotency.base import Claim, ClaimState, Hold

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from headrace.idempotency.base import IdempotencyStore

# Whole minutes: what has ended for the model has ended on the server, whose clock runs on, too.
LEASES = st.sampled_from([60.0, 120.0])
TTLS = st.sampled_from([120.0, 300.0])
PAUSES = st.sampled_from([60.0, 120.0, 300.0])
SLACK_SECONDS = 30.0

_numbers = itertools.count(1)

holds = st.lists(
    st.builds(Hold, st.sampled_from(["a", "b", "c"]), st.sampled_from(["one", "two", "three"])), min_size=1, max_size=5
)


def build_machine(loop: asyncio.AbstractEventLoop, bench: RedisBench) -> type[RuleBasedStateMachine]:
    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.memory = MemoryBench()
            prefix = f"{next(_numbers)}:"
            self.model, self.real = self.memory.store(), bench.store(prefix=prefix)
            loop.run_until_complete(self.real.__aenter__())

        def both(self, verb: Callable[[IdempotencyStore], Awaitable[Any]]) -> tuple[Any, Any]:
            async def ask() -> tuple[Any, Any]:
                return await verb(self.real), await verb(self.model)

            return loop.run_until_complete(ask())

        @rule(holds=holds, lease_seconds=LEASES)
        def claim(self, holds: list[Hold], lease_seconds: float) -> None:
            real: list[Claim]
            model: list[Claim]
            real, model = self.both(lambda store: store.claim(holds, lease_seconds=lease_seconds))
            assert [claim.state for claim in real] == [claim.state for claim in model]
            for theirs, ours in zip(real, model, strict=True):
                assert 0 <= ours.retry_after_seconds - theirs.retry_after_seconds < SLACK_SECONDS
                assert (theirs.retry_after_seconds > 0) == (theirs.state is ClaimState.IN_PROGRESS)

        @rule(holds=holds, lease_seconds=LEASES)
        def extend(self, holds: list[Hold], lease_seconds: float) -> None:
            real, model = self.both(lambda store: store.extend(holds, lease_seconds=lease_seconds))
            assert real == model

        @rule(holds=holds, ttl_seconds=TTLS)
        def finish(self, holds: list[Hold], ttl_seconds: float) -> None:
            real, model = self.both(lambda store: store.finish(holds, ttl_seconds=ttl_seconds))
            assert real == model

        @rule(holds=holds)
        def release(self, holds: list[Hold]) -> None:
            real, model = self.both(lambda store: store.release(holds))
            assert real == model

        @rule(seconds=PAUSES)
        def pass_time(self, seconds: float) -> None:
            for each in (self.memory, bench):
                loop.run_until_complete(each.pass_time(seconds))

        def teardown(self) -> None:
            loop.run_until_complete(bench.clear())
            loop.run_until_complete(self.real.__aexit__(None, None, None))

    return Machine


def test_redis_and_memory_answer_alike(redis_url: str) -> None:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        opened = redis_bench(redis_url)
        bench = loop.run_until_complete(opened.__aenter__())
        try:
            run_state_machine_as_test(
                build_machine(loop, bench),
                settings=settings(
                    max_examples=100,
                    stateful_step_count=30,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    print_blob=True,
                ),
            )
        finally:
            loop.run_until_complete(opened.__aexit__(None, None, None))
