"""SQS as its clients see it, FIFO queues above all."""

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

_names = (f"local_test{at}_g1.fifo" for at in itertools.count())
_ids = (f"id-{at}" for at in itertools.count())


def make(sqs: "SQSClient", **attributes: str) -> str:
    given: Any = {"FifoQueue": "true", **attributes}
    return sqs.create_queue(QueueName=next(_names), Attributes=given)["QueueUrl"]


def send(sqs: "SQSClient", url: str, body: str = "x", group: str = "g", **more: Any) -> Any:
    more = {"MessageDeduplicationId": next(_ids), **more}
    return sqs.send_message(QueueUrl=url, MessageBody=body, MessageGroupId=group, **more)


def receive(sqs: "SQSClient", url: str, count: int = 1, **more: Any) -> list[Any]:
    named: Any = {"MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"], **more}
    found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=count, **named)
    return list(found.get("Messages", []))


def bodies(messages: list[Any]) -> list[str]:
    return [message["Body"] for message in messages]


def delete(sqs: "SQSClient", url: str, message: Any) -> None:
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def refused(call: Any, *arguments: Any, **named: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(*arguments, **named)
    return str(caught.value.response["Error"]["Code"])


def test_a_group_gives_its_next_message_only_when_the_one_in_flight_is_done(sqs: "SQSClient") -> None:
    url = make(sqs)
    for body, group in (("a1", "a"), ("a2", "a"), ("b1", "b")):
        send(sqs, url, body, group)
    [first] = receive(sqs, url)
    assert first["Body"] == "a1"
    assert bodies(receive(sqs, url)) == ["b1"]
    assert receive(sqs, url) == []
    delete(sqs, url, first)
    assert bodies(receive(sqs, url)) == ["a2"]


def test_a_batch_gives_a_groups_messages_in_order(sqs: "SQSClient") -> None:
    url = make(sqs)
    for at in range(5):
        send(sqs, url, str(at))
    assert bodies(receive(sqs, url, 3)) == ["0", "1", "2"]
    assert receive(sqs, url, 10) == []


def test_a_message_comes_back_first_when_its_visibility_ends(sqs: "SQSClient") -> None:
    url = make(sqs, VisibilityTimeout="1")
    send(sqs, url, "first")
    send(sqs, url, "second")
    [one] = receive(sqs, url)
    started = time.monotonic()
    [again] = receive(sqs, url, WaitTimeSeconds=5)
    assert again["Body"] == "first"
    assert 0.7 < time.monotonic() - started < 2
    assert again["Attributes"]["ApproximateReceiveCount"] == "2"
    assert again["MessageId"] == one["MessageId"]
    assert again["ReceiptHandle"] != one["ReceiptHandle"]
    # The handle of the first receive has expired: its holder may neither delete nor keep the message.
    assert refused(delete, sqs, url, one) == "InvalidParameterValue"
    extend = {"QueueUrl": url, "ReceiptHandle": one["ReceiptHandle"], "VisibilityTimeout": 9}
    assert refused(sqs.change_message_visibility, **extend) == "InvalidParameterValue"
    delete(sqs, url, again)
    delete(sqs, url, again)
    assert bodies(receive(sqs, url)) == ["second"]


def test_an_expired_handle_is_refused_before_anyone_else_receives(sqs: "SQSClient") -> None:
    url = make(sqs)
    send(sqs, url)
    [message] = receive(sqs, url)
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0)
    assert refused(delete, sqs, url, message) == "InvalidParameterValue"
    assert len(receive(sqs, url)) == 1


def test_extending_the_visibility_keeps_a_message_away(sqs: "SQSClient") -> None:
    url = make(sqs, VisibilityTimeout="1")
    send(sqs, url)
    [message] = receive(sqs, url)
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=30)
    assert receive(sqs, url, WaitTimeSeconds=2) == []
    wrong = {"QueueUrl": url, "ReceiptHandle": message["ReceiptHandle"]}
    assert refused(sqs.change_message_visibility, **wrong, VisibilityTimeout=43_201) == "InvalidParameterValue"
    delete(sqs, url, message)
    assert refused(sqs.change_message_visibility, **wrong, VisibilityTimeout=1) == "InvalidParameterValue"


def test_shortening_the_visibility_wakes_a_waiting_receiver(sqs: "SQSClient") -> None:
    url = make(sqs)
    send(sqs, url)
    [message] = receive(sqs, url)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receive, sqs, url, WaitTimeSeconds=10)
        time.sleep(0.2)
        started = time.monotonic()
        sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0)
        assert len(waiting.result()) == 1
    assert time.monotonic() - started < 0.5


def test_a_send_wakes_a_waiting_receiver(sqs: "SQSClient") -> None:
    url = make(sqs)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receive, sqs, url, WaitTimeSeconds=10)
        time.sleep(0.2)
        started = time.monotonic()
        send(sqs, url)
        assert len(waiting.result()) == 1
    assert time.monotonic() - started < 0.5


def test_a_receiver_that_has_gone_takes_no_message(sqs: "SQSClient") -> None:
    url = make(sqs)
    address = urlsplit(url)
    body = json.dumps({"QueueUrl": url, "WaitTimeSeconds": 20})
    gone = HTTPConnection(address.hostname or "", address.port)
    gone.request("POST", "/", body, {"x-amz-target": "AmazonSQS.ReceiveMessage"})
    time.sleep(0.2)
    gone.close()
    time.sleep(0.2)
    send(sqs, url)
    assert len(receive(sqs, url)) == 1


def test_eight_receivers_never_share_a_message_and_never_overtake(sqs: "SQSClient") -> None:
    url = make(sqs)
    for at in range(60):
        send(sqs, url, f"{at % 5}:{at // 5}", group=str(at % 5))

    def work(_: int) -> list[tuple[float, float, str]]:
        done = []
        while messages := receive(sqs, url):
            started = time.monotonic()
            time.sleep(0.002)
            done.append((started, time.monotonic(), messages[0]["Body"]))
            delete(sqs, url, messages[0])
        return done

    with ThreadPoolExecutor(8) as pool:
        spans = sorted(span for done in pool.map(work, range(8)) for span in done)
    # A worker that finds every group busy leaves; whoever is left drains the queue.
    assert len({body for _, _, body in spans}) == len(spans) == 60
    for group in "01234":
        mine = [span for span in spans if span[2].startswith(group)]
        assert [span[2] for span in mine] == [f"{group}:{at}" for at in range(12)]
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(mine))


def test_a_deduplication_id_counts_once_even_after_deletion(sqs: "SQSClient") -> None:
    url = make(sqs)
    first = send(sqs, url, "first", MessageDeduplicationId="same")
    second = send(sqs, url, "other body, other group", group="h", MessageDeduplicationId="same")
    assert second["MessageId"] == first["MessageId"]
    assert second["SequenceNumber"] == first["SequenceNumber"]
    [message] = receive(sqs, url, 10)
    delete(sqs, url, message)
    send(sqs, url, "again", MessageDeduplicationId="same")
    assert receive(sqs, url) == []


def test_deduplication_may_go_by_content_and_by_group(sqs: "SQSClient") -> None:
    url = make(sqs, ContentBasedDeduplication="true", DeduplicationScope="messageGroup")
    for group in ("a", "a", "b"):
        sqs.send_message(QueueUrl=url, MessageBody="same", MessageGroupId=group)
    assert sorted(message["Attributes"]["MessageGroupId"] for message in receive(sqs, url, 10)) == ["a", "b"]


def test_a_message_received_too_often_goes_to_the_dead_letter_queue_as_it_was(sqs: "SQSClient") -> None:
    dead = make(sqs)
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    url = make(sqs, RedrivePolicy=json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2}))
    more: dict[str, Any] = {"MessageAttributes": {"kind": {"DataType": "String", "StringValue": "task"}}}
    sent = send(sqs, url, "poison", "mine", **more)
    send(sqs, url, "next", "mine")
    for _ in range(2):
        assert bodies(receive(sqs, url, VisibilityTimeout=0)) == ["poison"]
    assert bodies(receive(sqs, url)) == ["next"]
    [message] = receive(sqs, dead)
    assert (message["Body"], message["MessageId"]) == ("poison", sent["MessageId"])
    assert message["Attributes"]["MessageGroupId"] == "mine"
    assert message["MessageAttributes"]["kind"]["StringValue"] == "task"
    delete(sqs, dead, message)


def test_a_deleted_queues_name_is_refused_for_a_while(sqs: "SQSClient") -> None:
    url = make(sqs)
    send(sqs, url)
    with ThreadPoolExecutor(1) as pool:
        receive(sqs, url)
        waiting = pool.submit(refused, receive, sqs, url, WaitTimeSeconds=10)
        time.sleep(0.1)
        sqs.delete_queue(QueueUrl=url)
        assert waiting.result() == "AWS.SimpleQueueService.NonExistentQueue"
    name = url.rsplit("/", 1)[-1]
    again = {"QueueName": name, "Attributes": {"FifoQueue": "true"}}
    assert refused(sqs.create_queue, **again) == "AWS.SimpleQueueService.QueueDeletedRecently"
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        send(sqs, url)
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        sqs.get_queue_url(QueueName=name)


def test_creating_again_is_the_same_queue_unless_it_differs(sqs: "SQSClient") -> None:
    url = make(sqs, VisibilityTimeout="7")
    name = url.rsplit("/", 1)[-1]
    same = sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true", "VisibilityTimeout": "7"})
    assert same["QueueUrl"] == url == sqs.get_queue_url(QueueName=name)["QueueUrl"]
    other = {"QueueName": name, "Attributes": {"FifoQueue": "true", "VisibilityTimeout": "8"}}
    assert refused(sqs.create_queue, **other) == "QueueAlreadyExists"


def test_what_aws_refuses_is_refused(sqs: "SQSClient") -> None:
    url = make(sqs)
    assert refused(sqs.create_queue, QueueName="plain", Attributes={"FifoQueue": "true"}) == "InvalidParameterValue"
    assert refused(sqs.create_queue, QueueName="a.b.fifo", Attributes={"FifoQueue": "true"}) == "InvalidParameterValue"
    assert refused(make, sqs, Colour="red") == "InvalidAttributeName"
    assert refused(make, sqs, VisibilityTimeout="43201") == "InvalidAttributeValue"
    policy = json.dumps({"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:none.fifo", "maxReceiveCount": 1})
    assert refused(make, sqs, RedrivePolicy=policy) == "InvalidParameterValue"
    assert refused(sqs.send_message, QueueUrl=url, MessageBody="x") == "MissingParameter"
    assert refused(sqs.send_message, QueueUrl=url, MessageBody="x", MessageGroupId="g") == "InvalidParameterValue"
    assert refused(send, sqs, url, "") == "MissingParameter"
    assert refused(send, sqs, url, "x", "g" * 129) == "InvalidParameterValue"
    assert refused(send, sqs, url, DelaySeconds=1) == "InvalidParameterValue"
    assert refused(send, sqs, url, "x" * (1024 * 1024 + 1)) == "InvalidParameterValue"
    assert refused(receive, sqs, url, 11) == "InvalidParameterValue"
    assert refused(sqs.delete_message, QueueUrl=url, ReceiptHandle="nonsense") == "ReceiptHandleIsInvalid"
    assert refused(sqs.list_dead_letter_source_queues, QueueUrl=url) == "UnsupportedOperation"
    send(sqs, url, "x" * 1024 * 1024)


def test_batches_say_what_failed(sqs: "SQSClient") -> None:
    url = make(sqs)
    entries: list[Any] = [
        {"Id": "a", "MessageBody": "a", "MessageGroupId": "g", "MessageDeduplicationId": next(_ids)},
        {"Id": "b", "MessageBody": "b"},
    ]
    answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == ["a"]
    assert [(entry["Id"], entry["Code"]) for entry in answer["Failed"]] == [("b", "MissingParameter")]
    [message] = receive(sqs, url)
    handle: Any = {"Id": "a", "ReceiptHandle": message["ReceiptHandle"]}
    changed = sqs.change_message_visibility_batch(QueueUrl=url, Entries=[handle | {"VisibilityTimeout": 20}])
    assert len(changed["Successful"]) == 1
    assert len(sqs.delete_message_batch(QueueUrl=url, Entries=[handle])["Successful"]) == 1
    many = [{**entries[0], "Id": str(at)} for at in range(11)]
    batch = "AWS.SimpleQueueService."
    assert refused(sqs.send_message_batch, QueueUrl=url, Entries=many) == batch + "TooManyEntriesInBatchRequest"
    assert refused(sqs.send_message_batch, QueueUrl=url, Entries=[]) == batch + "EmptyBatchRequest"
    assert refused(sqs.send_message_batch, QueueUrl=url, Entries=entries[:1] * 2) == batch + "BatchEntryIdsNotDistinct"
    long = [{**entry, "MessageBody": "x" * 600_000} for entry in many[:2]]
    assert refused(sqs.send_message_batch, QueueUrl=url, Entries=long) == batch + "BatchRequestTooLong"


def test_standard_queues_deliver_delay_and_take_late_deletes(sqs: "SQSClient") -> None:
    url = sqs.create_queue(QueueName="local_plain", Attributes={"VisibilityTimeout": "1"})["QueueUrl"]
    attributes: Any = {"raw": {"DataType": "Binary", "BinaryValue": b"\x00\x01"}}
    sqs.send_message(QueueUrl=url, MessageBody="now", MessageAttributes=attributes)
    sqs.send_message(QueueUrl=url, MessageBody="later", DelaySeconds=1)
    [now] = receive(sqs, url, 10)
    assert now["MessageAttributes"]["raw"]["BinaryValue"] == b"\x00\x01"
    time.sleep(1.1)
    delete(sqs, url, now)
    [later] = receive(sqs, url, 10)
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=later["ReceiptHandle"], VisibilityTimeout=0)
    handle = {"QueueUrl": url, "ReceiptHandle": later["ReceiptHandle"], "VisibilityTimeout": 5}
    assert refused(sqs.change_message_visibility, **handle) == "AWS.SimpleQueueService.MessageNotInflight"
    sqs.delete_queue(QueueUrl=url)


def test_attributes_count_messages_and_can_be_changed(sqs: "SQSClient") -> None:
    url = make(sqs)
    sqs.tag_queue(QueueUrl=url, Tags={"stack": "local"})
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"stack": "local"}
    for group in ("a", "b"):
        send(sqs, url, group=group)
    receive(sqs, url)
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "77"})
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert found["VisibilityTimeout"] == "77"
    assert (found["ApproximateNumberOfMessages"], found["ApproximateNumberOfMessagesNotVisible"]) == ("1", "1")
    sqs.purge_queue(QueueUrl=url)
    left = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessagesNotVisible"])
    assert left["Attributes"] == {"ApproximateNumberOfMessagesNotVisible": "0"}


def test_queues_are_listed_by_prefix_in_pages(sqs: "SQSClient") -> None:
    urls = [
        sqs.create_queue(QueueName=f"listed_{at}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"] for at in range(3)
    ]
    assert sqs.list_queues(QueueNamePrefix="listed_")["QueueUrls"] == urls
    pages = sqs.get_paginator("list_queues").paginate(QueueNamePrefix="listed_", PaginationConfig={"PageSize": 2})
    assert [page["QueueUrls"] for page in pages] == [urls[:2], urls[2:]]
