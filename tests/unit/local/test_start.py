"""What is told when a run begins."""

from __future__ import annotations

import socket
from typing import Any

from headrace_operator.local.supervisor import _silent_server


def pool(handler: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"namespace": "default", "name": "receipts"}, "spec": {"handler": handler}}


def test_a_server_of_the_users_that_does_not_answer_is_named() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{server.getsockname()[1]}/jobs"
        assert _silent_server(pool({"http": {"url": url}})) == [
            f"JobWorkerPool receipts: nothing answers at {url}: start your server there"
        ]
        server.listen()
        assert _silent_server(pool({"http": {"url": url}})) == []


def test_other_handlers_have_no_server() -> None:
    assert _silent_server(pool({"exec": {"command": ["cat"]}})) == []
