"""Pure values and decisions: no clock, no randomness, no I/O; `now` is always an argument."""
