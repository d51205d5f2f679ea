"""What a contestant is asked to do. Standard library only: peers' environments hold none of our packages."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Literal

Setting = int | str | bool
DrainVerb = Literal["drain", "drain_some", "drain_chunks", "crowd", "beside"]
QueueVerb = Literal["fill", "count", "enqueue_many", "enqueue_concurrent", "idle", "wake"]
WorkerVerb = Literal["claim", "overhead", "sleep", "start", "serve"]
Verb = DrainVerb | QueueVerb | WorkerVerb
Handler = Literal["python", "http", "exec"]

CALLERS = 100
"""How many callers `enqueue_concurrent` has."""
CHUNKS = 10
"""Into how many parts `drain_chunks` divides its jobs."""
PROGRAM = "/bin/true"
"""What a job is to an exec handler."""
DELAY_SECONDS = 0.05
"""By how much jobs are delayed, where some are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The jobs, each known by its number."""

    jobs: int = 20_000
    per_call: int = 1000
    """How many one call enqueues."""
    payload_bytes: int = 0
    """Beside the number, so many bytes that do not compress."""
    groups: int = 0
    """Among so many message groups, in turn; 0 is none."""
    priorities: int = 1
    """Of so many levels, in turn."""
    handler: Handler = "python"
    """What runs them."""
    seconds: float = 0.0
    """How long each runs, asleep."""
    failing: int = 0
    """The first attempt of each so-many-th job raises; 1 is of all, 0 of none. The next comes without a delay."""
    delayed: int = 0
    """Each so-many-th job is delayed by `DELAY_SECONDS`; 0 is none."""
    keyed: bool = False
    """Whether each has a deduplication key of its own."""
    history: bool = False
    """Whether finished jobs are kept."""

    def group(self, number: int) -> str | None:
        """The job's message group."""
        return f"group-{number % self.groups}" if self.groups else None

    def priority(self, number: int) -> int:
        """The job's priority."""
        return number % self.priorities

    def fails(self, number: int) -> bool:
        """Whether the job's first attempt raises."""
        return bool(self.failing) and number % self.failing == 0

    def delay_seconds(self, number: int) -> float:
        """The job's delay."""
        return DELAY_SECONDS if self.delayed and number % self.delayed == 0 else 0.0

    def key(self, number: int) -> str | None:
        """The job's deduplication key."""
        return f"order-{number}" if self.keyed else None

    def payload(self, number: int) -> dict[str, int | str]:
        """What the job carries, before any encoding."""
        if not self.payload_bytes:
            return {"number": number}
        return {"number": number, "text": _noise(self.payload_bytes)[number % _NOISES]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One process's task."""

    verb: Verb
    dsn: str
    """Of the database; of a Redis where `verb` is ``claim``."""
    report: str = ""
    """The file that takes the figures: with every job's number they are long, and long lines over a pipe were seen to
    end short under load."""
    workload: Workload = field(default_factory=Workload)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """The contestant's own; each module says which it knows."""
    url: str = ""
    """Where `serve` listens, and an http handler sends its jobs."""
    alone: bool = True
    """Whether no other process works on the queue."""
    some: int = 0
    """How many jobs `drain_some` does."""
    workers: int = 1
    """How many processes `crowd` is."""
    samples: int = 0
    """How many `wake`, `beside`, `claim` and `start` take."""

    def to_json(self) -> str:
        """As it is handed to the process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        """As the process reads it."""
        values = json.loads(text)
        return cls(**values | {"workload": Workload(**values["workload"])})


_NOISES = 32
_LETTERS = string.ascii_letters + string.digits + "-_"


@cache
def _noise(length: int) -> list[str]:
    """Texts without a pattern; the same in every run."""
    source = random.Random(20_000)
    return ["".join(source.choices(_LETTERS, k=length)) for _ in range(_NOISES)]
