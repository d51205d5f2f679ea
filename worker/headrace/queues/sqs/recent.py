"""What was set a short while ago: SQS takes up to 60 s to show it (a retention: 15 minutes), and that is no drift."""

from __future__ import annotations


class Recent:
    """What this process has set, by queue, and what an endpoint has refused. Share one among provisioners."""
