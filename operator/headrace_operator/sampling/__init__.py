"""How much a queue holds: told by the workers that publish it, else by the backend itself."""

from headrace_operator.sampling.sampler import Sampler

__all__ = ["Sampler"]
