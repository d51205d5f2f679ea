"""Makes and removes what a JobQueue lives in; all that goes wrong comes out as `core.model.OperatorError`."""

from headrace_operator.provisioning.postgres import PostgresProvisioning

__all__ = ["PostgresProvisioning"]
