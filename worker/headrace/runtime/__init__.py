"""The worker: `worker` receives and runs, `lease` keeps what it holds, `settlement` reports what became of it.

``retry`` and ``outcome`` are pure; ``handlers`` know how to run a job: as a Python function or as a program.
"""
