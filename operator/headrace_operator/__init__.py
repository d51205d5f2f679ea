"""The operator: reconciles JobQueue and JobWorkerPool objects (API group ``headrace.dev``).

Imports go one way: ``cli`` > ``handlers`` > ``composition`` > adapters (``kubernetes``, ``sampling``,
``providers``, ``metrics_api``, ``metrics``, ``endpoints``) > ``reconcile`` > ``settings`` > ``core``. ``handlers``
alone knows kopf, ``kubernetes`` alone the Kubernetes client, ``providers`` alone the worker's queues; ``core`` is
pure.
"""
