from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from headrace.job import NewJob
from headrace.queues.base import Capabilities, UnsupportedCapabilityError, refuse_unsupported

ALL = Capabilities(
    priorities=True, delays=True, groups=True, deduplication=True, uncharged_abandon=True, transactions=True
)
ASKING = {
    "priorities": [NewJob(priority=1)],
    "delays": [NewJob(delay_seconds=1), NewJob(run_at=datetime(2100, 1, 1, tzinfo=UTC))],
    "groups": [NewJob(group="g")],
    "deduplication": [NewJob(deduplication_key="k")],
}


@pytest.mark.parametrize(
    ("capability", "job"), [(capability, job) for capability, jobs in ASKING.items() for job in jobs]
)
def test_what_a_backend_lacks_is_refused_and_what_it_has_is_not(capability: str, job: NewJob) -> None:
    refuse_unsupported([NewJob(), job], ALL)
    with pytest.raises(UnsupportedCapabilityError, match=r"leave it out$"):
        refuse_unsupported([NewJob(), job], replace(ALL, **{capability: False}))
    for other in ASKING.keys() - {capability}:
        refuse_unsupported([NewJob(), job], replace(ALL, **{other: False}))


def test_a_plain_job_asks_for_nothing() -> None:
    nothing = replace(ALL, **dict.fromkeys(ASKING, False))
    refuse_unsupported([NewJob(name="plain", headers={"a": "b"}, expires_at=datetime(2100, 1, 1, tzinfo=UTC))], nothing)
