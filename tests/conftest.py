"""What every test shares: one event loop library, no way out of this machine, no settings of the person who runs it."""

import os
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import settings

# Two busy cores make single examples slow without making them wrong.
settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")

pytest_plugins = ["tests.stand_ins"]

_OURS = ("AWS_", "JWT_", "OPENAI_", "QDRANT_", "UPSTASH_", "WORKER_SPACE_", "POWERTOOLS_", "LAMBDA_")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


class NetworkBlockedError(BaseException):
    """A test tried to leave this machine. Not an `Exception`, so that no fallback in the product can swallow it."""


def _is_loopback(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if not isinstance(host, str) or host in ("", "localhost", "0.0.0.0", "::"):
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.endswith(".localhost")


def _block_network(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    if not _is_loopback(host):
        raise NetworkBlockedError(f"{event} to {host!r}: tests stay on this machine")


# An audit hook sees every connection, whatever library makes it, and cannot be undone by a test.
sys.addaudithook(_block_network)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The loop that Lambda and uvicorn run; a `trio` variant of each test would test nothing that ships."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _clean_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_OURS) or name in _PROXIES:
                patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield
