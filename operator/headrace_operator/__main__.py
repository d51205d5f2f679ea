"""``python -m headrace_operator``."""

from headrace_operator.cli import main

main(prog_name="headrace-operator")
