"""Queues in Amazon SQS, and in what speaks its protocol."""
