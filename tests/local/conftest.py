"""The stand-ins, served in this process, and real clients of them."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from worker_space_local.aws import Cloud
from worker_space_local.processes import free_ports
from worker_space_local.server import HOST, App, serve, server_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

TABLE = "worker-space"
BUCKET = "worker-space-local"


@contextmanager
def serving(app: App, port: int, closing: Callable[[], Awaitable[None]] | None = None) -> Iterator[str]:
    """Serve an app in a thread; gives its URL."""
    server = server_of(app, port)
    thread = threading.Thread(target=lambda: asyncio.run(serve(server, closing)), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://{HOST}:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    port = free_ports(1)[0]
    cloud = Cloud(region="us-east-1", port=port, table=TABLE, bucket=BUCKET, prefix="local")
    with serving(cloud.app, port):
        yield cloud


@pytest.fixture(scope="module")
def aws_url(cloud: Cloud) -> str:
    return cloud.base.rsplit("/", 1)[0]


@pytest.fixture(scope="module")
def client(aws_url: str) -> Iterator[Callable[[str], Any]]:
    """Makes boto3 clients that never retry, and closes them."""
    made: list[Any] = []

    def make(service: str) -> Any:
        config = Config(retries={"total_max_attempts": 1}, max_pool_connections=20)
        connect: Any = boto3.client
        made.append(connect(service, endpoint_url=aws_url, region_name="us-east-1", config=config))
        return made[-1]

    yield make
    for each in made:
        with closing(each):
            pass


@pytest.fixture(scope="module")
def dynamodb(client: Callable[[str], Any]) -> "DynamoDBClient":
    found: DynamoDBClient = client("dynamodb")
    return found


@pytest.fixture(scope="module")
def sqs(client: Callable[[str], Any]) -> "SQSClient":
    found: SQSClient = client("sqs")
    return found


@pytest.fixture(scope="module")
def s3(client: Callable[[str], Any]) -> "S3Client":
    found: S3Client = client("s3")
    return found


@pytest.fixture(scope="module")
def functions(client: Callable[[str], Any]) -> "LambdaClient":
    found: LambdaClient = client("lambda")
    return found
