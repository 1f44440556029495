"""The AWS stand-in: ``python -m worker_space_local.aws --port P --data DIR``.

DynamoDB, SQS and Lambda's mappings are answered on the event loop, one operation after the other; S3, STS and the
rest by moto in one thread. ``/_local/ready`` tells the poller which queues have something to run.
"""

import argparse
import json
import logging
import os
import uuid
from pathlib import Path
from urllib.parse import parse_qs

from worker_space.tenancy import Names
from worker_space_local import snapshot
from worker_space_local.dynamodb import DynamoError, DynamoStore
from worker_space_local.mappings import FunctionStore, LambdaError
from worker_space_local.objects import ACCOUNT, ObjectServices
from worker_space_local.server import (
    HOST,
    App,
    Receive,
    Scope,
    Send,
    answer,
    answer_json,
    headers_of,
    read_body,
    run,
    while_connected,
)
from worker_space_local.sqs import QueueStore
from worker_space_local.sqs_queue import QueueError

_LOG = logging.getLogger("worker_space_local.aws")
_LAMBDA_PATHS = ("/2015-03-31/", "/2024-08-31/functions/")
SNAPSHOT = "aws.zip"
WORKER = "worker"
DEAD_LETTERS = "dead-letter.fifo"


class Cloud:
    """The stand-in's state, and what a new account of it holds: table, bucket, dead-letter queue, worker function.

    Args:
        region: the region in ARNs; requests of any region are answered.
        port: where the stand-in listens; queue URLs name it.
        table: name of the table to create.
        bucket: name of the bucket to create.
        prefix: the stack's name prefix; the dead-letter queue is ``{prefix}_dead-letter.fifo``.
        pool_queues: how many queues all projects share, each mapped to the worker, as the template makes them.
    """

    def __init__(self, *, region: str, port: int, table: str, bucket: str, prefix: str, pool_queues: int = 0) -> None:
        self.region = region
        self.table = table
        self.bucket = bucket
        self._prefix = prefix
        self._pool_queues = pool_queues
        self.base = f"http://{HOST}:{port}/{ACCOUNT}"
        self.services = ObjectServices(region)
        self.reset()

    def reset(self) -> None:
        """Forget everything and make the resources that a new stack has."""
        self.dynamodb = DynamoStore(self.region, ACCOUNT)
        self.sqs = QueueStore(self.region, ACCOUNT, lambda name: f"{self.base}/{name}")
        self.functions = FunctionStore(self.region, ACCOUNT, self.sqs)
        # Its short name for the stack's own processes, and the one it has when the template's functions run here.
        for name in (WORKER, f"{self._prefix}-worker-space-{WORKER}"):
            self.functions.seed(name)
        keys = ["pk", "sk", "due_shard", "due_at"]
        self.dynamodb.create_table(
            {
                "TableName": self.table,
                "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [
                    {"AttributeName": name, "AttributeType": "N" if name == "due_at" else "S"} for name in keys
                ],
                "KeySchema": _key_schema("pk", "sk"),
                "GlobalSecondaryIndexes": [
                    {
                        "IndexName": "due",
                        "KeySchema": _key_schema("due_shard", "due_at"),
                        "Projection": {"ProjectionType": "ALL"},
                    }
                ],
            }
        )
        expiry = {"Enabled": True, "AttributeName": "expires_at"}
        self.dynamodb.update_time_to_live({"TableName": self.table, "TimeToLiveSpecification": expiry})
        self.sqs.create_queue(
            {
                "QueueName": f"{self._prefix}_{DEAD_LETTERS}",
                "Attributes": {"FifoQueue": "true", "VisibilityTimeout": "60"},
            }
        )
        for index in range(self._pool_queues):
            self._make_pool_queue(Names(self._prefix).pool_queue(index))
        self.services.create_bucket(self.bucket)

    def _make_pool_queue(self, name: str) -> None:
        redrive = {"deadLetterTargetArn": self.dead_letters, "maxReceiveCount": "10"}
        seconds = os.environ.get("WORKER_SPACE_WORKER_TIMEOUT_SECONDS", "120")
        self.sqs.create_queue(
            {
                "QueueName": name,
                "Attributes": {
                    "FifoQueue": "true",
                    "VisibilityTimeout": seconds,
                    "RedrivePolicy": json.dumps(redrive),
                },
            }
        )
        self.functions.map(self.sqs.named(name).arn, WORKER)

    @property
    def dead_letters(self) -> str:
        """The dead-letter queue's ARN."""
        return self.sqs.named(f"{self._prefix}_{DEAD_LETTERS}").arn

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request (ASGI)."""
        headers = headers_of(scope)
        target = headers.get("x-amz-target", "")
        path = scope["path"]
        if target.startswith("DynamoDB_"):
            await self._answer_dynamodb(target, await read_body(receive), send)
        elif target.startswith("AmazonSQS."):
            await self._answer_sqs(target, await read_body(receive), receive, send)
        elif path.startswith(_LAMBDA_PATHS):
            await self._answer_lambda(scope, headers, await read_body(receive), send)
        elif path.startswith("/_local/"):
            await self._answer_local(scope, receive, send)
        else:
            content = await read_body(receive)
            status, found, body = await self.services.call(scope, headers, content)
            if path == "/moto-api/reset" and status == 200:
                self.reset()
            await answer(send, status, body, found)

    async def _answer_dynamodb(self, target: str, content: bytes, send: Send) -> None:
        try:
            status, body = 200, self.dynamodb.call(target.split(".")[1], json.loads(content))
        except DynamoError as exc:
            name = (
                "com.amazon.coral.validate" if exc.name == "ValidationException" else "com.amazonaws.dynamodb.v20120810"
            )
            status, body = 400, {"__type": f"{name}#{exc.name}", "message": exc.message, **exc.fields}
        except Exception:  # noqa: BLE001 - a fault of ours must look like one of the service
            _LOG.exception("DynamoDB request failed: %s", target)
            status, body = 500, {"__type": "InternalServerError", "message": "The stand-in failed: see its log"}
        await answer_json(send, status, body, *_request_id())

    async def _answer_sqs(self, target: str, content: bytes, receive: Receive, send: Send) -> None:
        operation = target.split(".")[1]
        called = self.sqs.call(operation, json.loads(content))
        try:
            # A receive that waits for a client that has gone would take a message to nobody.
            found = await (while_connected(receive, called) if operation == "ReceiveMessage" else called)
            await answer_json(send, 200, found or {}, *_request_id())
        except QueueError as exc:
            code = (b"x-amzn-query-error", f"{exc.query_code};Sender".encode())
            body = {"__type": f"com.amazonaws.sqs#{exc.name}", "message": exc.message}
            await answer_json(send, 400, body, code, *_request_id())

    async def _answer_lambda(self, scope: Scope, headers: dict[str, str], content: bytes, send: Send) -> None:
        query = scope["query_string"].decode()
        try:
            status, body = self.functions.call(scope["method"], scope["path"], query, content, headers)
        except LambdaError as exc:
            kind = (b"x-amzn-errortype", exc.name.encode())
            await answer_json(send, exc.status, {"Type": "User", "Message": exc.message}, kind, *_request_id())
            return
        if body is None:
            await answer(send, status, b"", [(b"content-length", b"0"), *_request_id()])
        else:
            await answer_json(send, status, body, *_request_id())

    async def _answer_local(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_qs(scope["query_string"].decode())
        if scope["path"] == "/_local/ready":
            wait = min(float(query.get("wait", ["0"])[0]), 60.0)
            await read_body(receive)
            await answer_json(
                send, 200, await while_connected(receive, self.functions.ready(wait, [self.dead_letters]))
            )
        else:
            found = {
                "table": self.table,
                "bucket": self.bucket,
                "dead_letters": self.dead_letters,
                "region": self.region,
            }
            await answer_json(send, 200 if scope["path"] == "/_local/health" else 404, found)


def _key_schema(partition: str, sort: str) -> list[dict[str, str]]:
    return [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]


def _request_id() -> list[tuple[bytes, bytes]]:
    return [(b"x-amzn-requestid", str(uuid.uuid4()).encode())]


def main(arguments: list[str] | None = None) -> None:
    """Run the stand-in until SIGTERM, then save its state."""
    parser = argparse.ArgumentParser(description="AWS stand-in of the local stack")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the snapshot")
    parser.add_argument("--table", default="worker-space")
    parser.add_argument("--bucket", default="worker-space-local")
    parser.add_argument("--prefix", default="local")
    parser.add_argument("--pool-queues", type=int, default=0, help="queues that all projects share")
    given = parser.parse_args(arguments)
    region = os.environ.get("AWS_REGION", "us-east-1")
    cloud = Cloud(
        region=region,
        port=given.port,
        table=given.table,
        bucket=given.bucket,
        prefix=given.prefix,
        pool_queues=given.pool_queues,
    )
    given.data.mkdir(parents=True, exist_ok=True)
    path = given.data / SNAPSHOT
    snapshot.load(path, cloud.dynamodb, cloud.services, cloud.bucket)
    app: App = cloud.app
    run(app, given.port, stopped=lambda: snapshot.save(path, cloud.dynamodb, cloud.services, cloud.bucket))


if __name__ == "__main__":
    main()
