"""How long a failed job waits, and how often it is tried. Pure: chance is an argument."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.job import MAX_DELAY_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential backoff with jitter.

    Raises
    ------
    ValueError
        When a value makes no sense; the message names it.
    """

    initial_delay_seconds: float = 1.0
    multiplier: float = 2.0
    max_delay_seconds: float = 600.0
    jitter: float = 0.2
    """The part of the delay that chance decides: 0 is none, 1 is anything between none and all of it."""
    max_retries: int | None = None
    """Fewer than the queue allows; 0: a failed job is dead-lettered at once. None: as many as the queue allows."""

    def __post_init__(self) -> None:
        for name, minimum in (("initial_delay_seconds", 0.0), ("multiplier", 1.0), ("max_delay_seconds", 0.0)):
            value = getattr(self, name)
            if not is_number(value) or not minimum <= value <= MAX_DELAY_SECONDS:
                raise ValueError(f"{name} {value!r}: must be a number from {minimum:g} to {MAX_DELAY_SECONDS}")
        if not is_number(self.jitter) or not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter {self.jitter!r}: must be a number from 0 to 1")
        if self.max_retries is not None and (type(self.max_retries) is not int or self.max_retries < 0):
            raise ValueError(f"max_retries {self.max_retries!r}: must be a whole number, 0 or more")

    def is_last(self, attempt: int) -> bool:
        """Whether no attempt may follow this one (1 is the first), as far as this policy goes."""
        return self.max_retries is not None and attempt > self.max_retries

    def delay_seconds(self, attempt: int, chance: float) -> float:
        """The delay after this attempt failed.

        Parameters
        ----------
        attempt
            The attempt that failed; 1 is the first.
        chance
            Uniform in [0, 1).
        """
        try:
            delay = self.initial_delay_seconds * self.multiplier ** (attempt - 1)
        except OverflowError:
            delay = self.max_delay_seconds
        # Taken off rather than put on, so that the maximum is one.
        return min(delay, self.max_delay_seconds) * (1 - self.jitter * chance)


def is_number(value: object) -> bool:
    """Whether it is one that can be calculated with; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def unknown_name_delay_seconds(age_seconds: float, chance: float) -> float:
    """How long a job waits whose name this worker does not know: as long as it has waited, from 1 s to a minute.

    Producers are often deployed before workers: soon is likely at first, and less so the longer it takes.
    """
    return min(max(age_seconds, 1.0), 60.0) * (1 - 0.2 * chance)
