"""Use cases: ports in, values out. No kopf, no client library."""
