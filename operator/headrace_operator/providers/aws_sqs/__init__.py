"""Queues in Amazon SQS, by the worker's own code: there is one definition of what a queue is there.

``spec``, ``ambient``, ``naming``, ``place``, ``binding``, ``limits``, ``findings`` and ``status`` are pure; ``access``,
``provisioning`` and ``backlog`` are the bridge to `headrace.queues.sqs`, and ``errors`` tells its failures as
conditions do. No message holds a key.
"""

from headrace_operator.providers.aws_sqs.provider import AwsSqsProvider

__all__ = ["AwsSqsProvider"]
