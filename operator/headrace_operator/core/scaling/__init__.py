"""How many workers a pool should have, and why. Pure: a pipeline from signals to a number.

`signals` adds up what is known of the pool's queues, of each the part that is the pool's by its `capacity`; `targets`
makes recommendations of it, each with its number and reason, of which the largest counts; `bounds` has the floors and
ceilings; `memory` what is remembered from one decision to the next, for what takes time; `decision` goes through all of
them, and answers as the mode wants it.
"""

from headrace_operator.core.scaling.capacity import share
from headrace_operator.core.scaling.decision import decide
from headrace_operator.core.scaling.memory import SCALE_DOWN_WINDOW, History, PastNumber
from headrace_operator.core.scaling.model import Decision, Limit, Recommendation, SeenQueue, Situation

__all__ = [
    "SCALE_DOWN_WINDOW",
    "Decision",
    "History",
    "Limit",
    "PastNumber",
    "Recommendation",
    "SeenQueue",
    "Situation",
    "decide",
    "share",
]
