"""The promises that tests/conftest.py makes to every other test."""

import asyncio
import os
import socket

import pytest

from tests.conftest import NetworkBlockedError


@pytest.mark.parametrize("address", [("198.51.100.7", 443), ("2001:db8::1", 443)])
def test_a_connection_that_would_leave_this_machine_is_refused(address: tuple[str, int]) -> None:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection, pytest.raises(NetworkBlockedError):
        connection.connect(address)


def test_a_name_outside_this_machine_is_not_looked_up() -> None:
    with pytest.raises(NetworkBlockedError):
        socket.getaddrinfo("example.com", 443)


def test_loopback_stays_reachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), timeout=2) as client:
            client.sendall(b"x")
        accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(1) == b"x"


@pytest.mark.anyio
async def test_asynchronous_tests_run_on_asyncio() -> None:
    assert asyncio.get_running_loop().is_running()


def test_credentials_of_the_person_running_the_tests_are_not_seen() -> None:
    assert os.environ["AWS_ACCESS_KEY_ID"] == "testing"
    assert not [name for name in os.environ if name.startswith(("OPENAI_", "UPSTASH_", "QDRANT_"))]
