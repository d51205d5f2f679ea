"""The whole contract, in the order in which one reads it. A backend's test class inherits it and gives a `bench`."""

from __future__ import annotations

from contract.queue.cancel import CancelContract
from contract.queue.dead_letters import DeadLetterContract
from contract.queue.deduplication import DeduplicationContract, DeduplicationWindowContract
from contract.queue.depth import DepthContract, TotalsContract
from contract.queue.enqueue import EnqueueContract
from contract.queue.faults import FaultContract
from contract.queue.groups import GroupContract, GroupOverTimeContract
from contract.queue.history import HistoryContract
from contract.queue.housekeeping import HousekeepingContract
from contract.queue.inspection import InspectContract
from contract.queue.lease import LeaseContract, LeaseOverTimeContract
from contract.queue.progress import ProgressContract
from contract.queue.provision import ProvisionContract
from contract.queue.receive import ReceiveContract, ReceiveOverTimeContract
from contract.queue.settle import SettleContract, SettledJobsContract
from contract.queue.suspects import SuspectContract
from contract.queue.together import TogetherContract
from contract.queue.transactions import TransactionContract


class QueueContract(
    EnqueueContract,
    ReceiveContract,
    ReceiveOverTimeContract,
    SettleContract,
    SettledJobsContract,
    LeaseContract,
    LeaseOverTimeContract,
    SuspectContract,
    GroupContract,
    GroupOverTimeContract,
    DeduplicationContract,
    DeduplicationWindowContract,
    CancelContract,
    DeadLetterContract,
    InspectContract,
    ProgressContract,
    HistoryContract,
    HousekeepingContract,
    DepthContract,
    TotalsContract,
    ProvisionContract,
    TransactionContract,
    TogetherContract,
    FaultContract,
):
    """All of it."""
