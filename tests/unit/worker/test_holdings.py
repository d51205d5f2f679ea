"""What a queue object holds, with the races that are hard to bring about on a server."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from headrace.job import Job
from headrace.queues.base import Delivery
from headrace.queues.errors import LeaseLostError
from headrace.queues.postgres.holdings import Holdings, Lot
from headrace.queues.settlement import Complete, Failure, Release, Retry, Settlement

LEASE, OTHER_LEASE = 71, 72


def delivery(job_id: int, claim: int = 1) -> Delivery:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    job = Job(
        id=str(job_id),
        queue="orders",
        name="",
        payload=b"null",
        content_type="application/json",
        headers={},
        priority=0,
        group=None,
        deduplication_key=None,
        attempt=1,
        enqueued_at=moment,
        run_at=moment,
        expires_at=None,
    )
    return Delivery(job=job, receipt=str(claim))


def done(*deliveries: Delivery) -> list[Settlement]:
    return [Complete(delivery=each) for each in deliveries]


@pytest.fixture
def holdings() -> Holdings:
    holdings = Holdings()
    holdings.has_heartbeats = True
    holdings.heartbeat_lease = LEASE
    return holdings


class TestTaking:
    def test_what_was_claimed_is_held_under_its_lease(self, holdings: Holdings) -> None:
        first, second = delivery(5, claim=1), delivery(6, claim=2)
        assert holdings.take(LEASE, [first, second]) == [first, second]
        assert (sorted(holdings.job_ids), sorted(holdings.claims)) == ([5, 6], [1, 2])
        assert holdings.lease_of(first) == LEASE
        assert holdings.lease_of(delivery(5, claim=2)) is None, "that claim has another job"

    def test_an_answer_that_comes_after_its_lease_was_lost_is_not_held(self, holdings: Holdings) -> None:
        holdings.lost(LEASE)
        assert holdings.take(LEASE, [delivery(5)]) == []
        assert not holdings

    def test_an_answer_that_comes_after_its_claim_was_given_back_is_not_held(self, holdings: Holdings) -> None:
        kept, late = delivery(5, claim=1), delivery(6, claim=2)
        holdings.take(LEASE, [kept])
        assert holdings.strays([1, 2]) == [2]
        assert holdings.take(LEASE, [late, delivery(7, claim=1)]) == [delivery(7, claim=1)]

    def test_what_nobody_was_told_of_is_a_stray(self, holdings: Holdings) -> None:
        untold = holdings.take(LEASE, [delivery(5, claim=1), delivery(6, claim=1)])
        holdings.take(LEASE, [delivery(7, claim=2)])
        holdings.untold(untold)
        assert holdings.job_ids == [7]
        assert holdings.strays([1, 2]) == [1]

    def test_cancelled_jobs_are_told_by_the_deliveries_that_hold_them(self, holdings: Holdings) -> None:
        holdings.take(LEASE, [delivery(5, claim=1), delivery(6, claim=1)])
        assert holdings.keys_of([6, 99]) == {("1", "6")}


class TestSuspects:
    def test_one_is_taken_only_by_who_holds_nothing(self, holdings: Holdings) -> None:
        holdings.suspects_wait = True
        assert holdings.may_take_suspect
        holdings.take(LEASE, [delivery(5)])
        assert not holdings.may_take_suspect

    def test_while_one_is_held_nothing_else_is_taken(self, holdings: Holdings) -> None:
        holdings.take_suspect(LEASE, [delivery(5)])
        assert not holdings.may_take
        holdings.settled(done(delivery(5)))
        assert holdings.may_take

    def test_one_that_is_lost_with_its_lease_is_in_nobodys_way(self, holdings: Holdings) -> None:
        holdings.take_suspect(LEASE, [delivery(5)])
        holdings.lost(LEASE)
        assert holdings.may_take

    def test_who_makes_room_takes_nothing_before_it_holds_nothing(self, holdings: Holdings) -> None:
        holdings.take(LEASE, [delivery(5)])
        holdings.suspects_wait = holdings.makes_room = True
        assert not holdings.may_take
        holdings.settled(done(delivery(5)))
        assert holdings.may_take_suspect
        assert holdings.take_suspect(LEASE, []) == []
        assert not holdings.makes_room, "another has taken it"
        assert holdings.may_take


class TestSettling:
    def test_settlements_go_by_lease_and_kind_and_what_is_not_held_is_refused(self, holdings: Holdings) -> None:
        one, two, three, gone = delivery(1, 1), delivery(2, 1), delivery(3, 2), delivery(4, 9)
        holdings.take(LEASE, [one, two])
        holdings.take(OTHER_LEASE, [three])
        failed = Retry(delivery=two, delay_seconds=1, failure=Failure(error="boom"))
        settlements: list[Settlement] = [*done(one), failed, *done(three, gone)]
        assert holdings.sorted(settlements) == (
            [Lot(LEASE, Complete, done(one)), Lot(LEASE, Retry, [failed]), Lot(OTHER_LEASE, Complete, done(three))],
            done(gone),
        )

    def test_what_is_settled_is_held_no_more(self, holdings: Holdings) -> None:
        holdings.take(LEASE, [delivery(1), delivery(2)])
        assert holdings.settled(done(delivery(1))) == set()
        assert holdings.job_ids == [2]
        holdings.settled(done(delivery(2)))
        assert not holdings
        assert holdings.sorted(done(delivery(2))).refused == done(delivery(2))

    def test_a_lease_without_heartbeats_ends_with_the_last_that_is_held_under_it(self, holdings: Holdings) -> None:
        holdings.take(OTHER_LEASE, [delivery(1, 1), delivery(2, 2)])
        assert holdings.settled(done(delivery(1, 1))) == set()
        assert holdings.settled(done(delivery(2, 2))) == {OTHER_LEASE}

    def test_the_heartbeats_lease_goes_on_though_nothing_is_held(self, holdings: Holdings) -> None:
        holdings.take(LEASE, [delivery(1)])
        assert holdings.settled(done(delivery(1))) == set()
        assert holdings.leases == {LEASE}

    def test_what_got_no_answer_is_remembered_by_what_was_asked(self, holdings: Holdings) -> None:
        holdings.take(LEASE, [delivery(1), delivery(2)])
        holdings.unanswered("complete", done(delivery(1)))
        again = done(delivery(1), delivery(2))
        assert holdings.asked_before("complete", again) == done(delivery(1))
        assert holdings.asked_before("release", [Release(delivery=delivery(1))]) == []
        holdings.settled(done(delivery(1)))
        assert holdings.asked_before("complete", again) == []


class TestTransactions:
    def test_a_fence_says_under_what_a_job_is_held(self, holdings: Holdings) -> None:
        holdings.take(LEASE, [delivery(5, claim=3)])
        assert holdings.fence(delivery(5, claim=3)) == (LEASE, 3, 5)

    def test_of_what_is_not_held_there_is_none(self, holdings: Holdings) -> None:
        with pytest.raises(LeaseLostError, match=r"job 5 .*roll back"):
            holdings.fence(delivery(5))
        assert holdings.fenced(done(delivery(5))) == []

    def test_it_is_remembered_until_the_job_is_settled(self, holdings: Holdings) -> None:
        holdings.take(LEASE, [delivery(5), delivery(6)])
        holdings.fence(delivery(5))
        settlements = done(delivery(5), delivery(6))
        assert holdings.fenced(settlements) == done(delivery(5))
        holdings.settled(settlements)
        assert holdings.fenced(settlements) == []


class TestLoss:
    def test_a_lost_lease_takes_all_that_was_held_under_it_and_nothing_else(self, holdings: Holdings) -> None:
        holdings.take(LEASE, [delivery(1, 1), delivery(2, 2)])
        holdings.take(OTHER_LEASE, [delivery(3, 3)])
        holdings.fence(delivery(1, 1))
        holdings.unanswered("complete", done(delivery(2, 2)))
        assert holdings.lost(LEASE) == {("1", "1"), ("2", "2")}
        assert holdings.heartbeat_lease is None
        assert holdings.job_ids == [3]
        assert holdings.fenced(done(delivery(1, 1))) == []
        assert holdings.asked_before("complete", done(delivery(2, 2))) == []

    def test_what_is_settled_after_its_loss_changes_nothing(self, holdings: Holdings) -> None:
        holdings.take(LEASE, [delivery(1)])
        holdings.lost(LEASE)
        assert holdings.settled(done(delivery(1))) == set()
