"""Answers of DynamoDB that are easily taken for others."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from worker_space.adapters.aws import AwsCalls
from worker_space.adapters.dynamodb import DynamoRecords
from worker_space.records import Equals, Update
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")


class Dynamo:
    """A client whose single-item writes meet a transaction under way, once."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def update_item(self, **_: Any) -> dict[str, Any]:
        self.calls.append("update_item")
        if len(self.calls) == 1:
            raise ClientError({"Error": {"Code": "TransactionConflictException", "Message": ""}}, "UpdateItem")
        return {}


async def test_a_single_write_that_collides_with_a_transaction_is_repeated() -> None:
    """As `ports.Records.write` promises; a transaction reports the same collision in its reasons, an item in its code.

    (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html, conflict handling.)
    """
    client = Dynamo()
    with ThreadPoolExecutor(1) as executor:
        records = DynamoRecords(client=client, calls=AwsCalls(executor), table="t")
        write = Update(key=Key.space(), set={"a": 1}, when=Equals("state", "working"))
        await records.write(TENANT, write)
    assert client.calls == ["update_item", "update_item"]
