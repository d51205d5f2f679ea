"""How much queues hold, read in the background: told by the workers that publish it, else by the backend itself.

``schedule`` is pure: who is asked when. A ``reader`` a backend asks, so that none holds up others' queues: ``workers``
for what ``published`` understands, and the backend itself by ``questions``; ``following`` is what the two share.
``sampler`` is what the rest of the operator knows.
"""

from headrace_operator.sampling.sampler import Sampler

__all__ = ["Sampler"]
