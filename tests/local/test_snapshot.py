"""What the AWS stand-in keeps over a restart."""

import asyncio
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.local.conftest import serving
from worker_space_local import snapshot
from worker_space_local.aws import Cloud
from worker_space_local.processes import free_ports
from worker_space_local.snapshot import SnapshotError

_SIGNED = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


def make() -> Cloud:
    # moto's state is the process's: each of these clouds has a bucket of its own name.
    return Cloud(region="us-east-1", port=1, table="t", bucket=f"kept-{time.monotonic_ns()}", prefix="local")


def put(cloud: Cloud, sk: str, **attributes: Any) -> None:
    item = {"pk": {"S": "p"}, "sk": {"S": sk}, **attributes}
    cloud.dynamodb.call("PutItem", {"TableName": "t", "Item": item})


def objects(
    cloud: Cloud, method: str, key: str, content: bytes = b"", **headers: str
) -> tuple[int, dict[bytes, bytes], bytes]:
    scope = {"method": method, "raw_path": f"/{cloud.bucket}/{key}".encode(), "query_string": b""}
    status, found, body = asyncio.run(
        cloud.services.call(scope, {"host": "x", "authorization": _SIGNED, **headers}, content)
    )
    return status, dict(found), body


def test_items_and_newest_objects_are_as_before(tmp_path: Path) -> None:
    old = make()
    put(old, "kept", n={"N": "1"}, due_shard={"S": "x"}, due_at={"N": "5"})
    put(old, "expired", expires_at={"N": str(int(time.time()) - 5)})
    put(old, "fresh", expires_at={"N": str(int(time.time()) + 500)})
    objects(old, "PUT", "a%20b", b"one")
    objects(old, "PUT", "a%20b", b"two", **{"content-type": "text/plain", "x-amz-meta-task": "t#1"})
    objects(old, "PUT", "deleted", b"x")
    objects(old, "DELETE", "deleted")
    before = objects(old, "GET", "a%20b")
    path = tmp_path / "aws.zip"
    snapshot.save(path, old.dynamodb, old.services, old.bucket)
    new = make()
    snapshot.load(path, new.dynamodb, new.services, new.bucket)
    query = {
        "TableName": "t",
        "IndexName": "due",
        "KeyConditionExpression": "due_shard = :s",
        "ExpressionAttributeValues": {":s": {"S": "x"}},
    }
    assert [item["n"] for item in new.dynamodb.call("Query", query)["Items"]] == [{"N": "1"}]
    assert {item["sk"]["S"] for item in new.dynamodb.call("Scan", {"TableName": "t"})["Items"]} == {"kept", "fresh"}
    after = objects(new, "GET", "a%20b")
    assert after[2] == b"two"
    for header in (b"etag", b"content-type", b"x-amz-meta-task", b"x-amz-version-id", b"last-modified"):
        assert after[1][header] == before[1][header]
    assert objects(new, "GET", "deleted")[0] == 404
    assert objects(new, "PUT", "a%20b", b"three", **{"if-match": after[1][b"etag"].decode()})[0] == 200


def test_no_snapshot_is_an_empty_start(tmp_path: Path) -> None:
    cloud = make()
    snapshot.load(tmp_path / "none.zip", cloud.dynamodb, cloud.services, cloud.bucket)
    assert cloud.dynamodb.call("Scan", {"TableName": "t"})["Count"] == 0


def test_a_damaged_snapshot_is_refused_with_advice(tmp_path: Path) -> None:
    cloud, path = make(), tmp_path / "aws.zip"
    path.write_bytes(b"PK not a zip")
    with pytest.raises(SnapshotError, match="move it away"):
        snapshot.load(path, cloud.dynamodb, cloud.services, cloud.bucket)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("state.json", json.dumps({"format": 99}))
    with pytest.raises(SnapshotError, match="format 99"):
        snapshot.load(path, cloud.dynamodb, cloud.services, cloud.bucket)


def test_a_table_that_is_no_more_is_left_out(tmp_path: Path) -> None:
    old, path = make(), tmp_path / "aws.zip"
    put(old, "kept")
    old.dynamodb.call(
        "CreateTable",
        {
            "TableName": "other",
            "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
        },
    )
    old.dynamodb.call("PutItem", {"TableName": "other", "Item": {"pk": {"S": "x"}}})
    snapshot.save(path, old.dynamodb, old.services, old.bucket)
    new = make()
    snapshot.load(path, new.dynamodb, new.services, new.bucket)
    assert list(new.dynamodb.tables) == ["t"]
    assert new.dynamodb.call("Scan", {"TableName": "t"})["Count"] == 1


def test_a_reset_leaves_a_new_stack() -> None:
    cloud = make()
    put(cloud, "gone")
    cloud.sqs.create_queue({"QueueName": "q", "Attributes": {}})
    with serving(cloud.app, free_ports(1)[0]) as url:
        assert httpx.post(f"{url}/moto-api/reset").status_code == 200
        assert httpx.get(f"{url}/_local/health").json()["bucket"] == cloud.bucket
        assert httpx.get(f"{url}/_local/none").status_code == 404
    assert cloud.dynamodb.call("Scan", {"TableName": "t"})["Count"] == 0
    assert list(cloud.sqs.queues) == ["local_dead-letter.fifo"]
    assert objects(cloud, "PUT", "a", b"x")[0] == 200
