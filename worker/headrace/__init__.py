"""Headrace's SDK and worker: enqueue jobs, declare handlers, run them.

Layers, each importing only what stands below it: ``cli`` > ``runtime`` > ``app`` > ``metrics``, ``health``,
``settings`` > ``queues`` > ``job``. Nothing here knows the operator or Kubernetes: a worker runs anywhere.
"""
