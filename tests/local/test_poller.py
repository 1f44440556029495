"""The poller by Lambda's rules: what handlers get, what becomes of their messages, how many run at once."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from worker_space_local.lambda_context import LambdaContext
from worker_space_local.poller import AwsConnection, AwsError, Poller

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_sqs import SQSClient

_names = (f"local_polled{at}_g1.fifo" for at in itertools.count())
_ids = (f"p-{at}" for at in itertools.count())


class Calls:
    """A handler that keeps what it was called with and answers as told."""

    def __init__(self, answer: Callable[[Any], Any] = lambda record: None) -> None:
        self._answer = answer
        self.records: list[Any] = []
        self.contexts: list[LambdaContext] = []
        self.times: list[float] = []

    def __call__(self, event: Any, context: Any) -> Any:
        self.times.append(time.monotonic())
        self.contexts.append(context)
        self.records += event.get("Records", [event])
        return self._answer(event["Records"][0]) if "Records" in event else None

    def wait(self, count: int, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while len(self.records) < count:
            assert time.monotonic() < deadline, f"{len(self.records)} of {count} came"
            time.sleep(0.005)


@contextmanager
def polling(aws_url: str, worker: Any, *, threads: int = 4, **more: Any) -> Iterator[Poller]:
    handlers = {"dead_letter": Calls(), "cleanup": Calls(), **more}
    handlers.setdefault("sweep_seconds", 60)
    poller = Poller(endpoint=aws_url, worker=worker, threads=threads, timeout_seconds=30, **handlers)
    poller.start()
    try:
        yield poller
    finally:
        assert poller.stop(5)


@pytest.fixture
def queue(sqs: "SQSClient", functions: "LambdaClient") -> Iterator[str]:
    """A mapped queue's URL; its messages come back after a second."""
    attributes: Any = {"FifoQueue": "true", "VisibilityTimeout": "1"}
    url = sqs.create_queue(QueueName=next(_names), Attributes=attributes)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    functions.create_event_source_mapping(EventSourceArn=arn, FunctionName="worker", BatchSize=1)
    yield url
    sqs.delete_queue(QueueUrl=url)


def send(sqs: "SQSClient", url: str, body: str = "x", group: str = "g", **more: Any) -> Any:
    return sqs.send_message(
        QueueUrl=url, MessageBody=body, MessageGroupId=group, MessageDeduplicationId=next(_ids), **more
    )


def left(sqs: "SQSClient", url: str) -> int:
    names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(map(int, found.values()))


def emptied(sqs: "SQSClient", url: str) -> bool:
    deadline = time.monotonic() + 5
    while left(sqs, url) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left(sqs, url) == 0


def test_a_handler_gets_what_lambda_gives_it(sqs: "SQSClient", aws_url: str, queue: str) -> None:
    worker = Calls()
    attributes: Any = {
        "kind": {"DataType": "String", "StringValue": "task"},
        "raw": {"DataType": "Binary", "BinaryValue": b"0"},
    }
    sent = send(sqs, queue, '{"task": 1}', "group#0", MessageAttributes=attributes)
    with polling(aws_url, worker):
        worker.wait(1)
        assert emptied(sqs, queue)
    [record], [context] = worker.records, worker.contexts
    assert record["messageId"] == sent["MessageId"]
    assert (record["body"], record["md5OfBody"]) == ('{"task": 1}', sent["MD5OfMessageBody"])
    assert (record["eventSource"], record["awsRegion"]) == ("aws:sqs", "us-east-1")
    assert record["eventSourceARN"].rsplit(":", 1)[-1] == queue.rsplit("/", 1)[-1]
    assert record["attributes"]["ApproximateReceiveCount"] == "1"
    assert record["attributes"]["MessageGroupId"] == "group#0"
    assert record["attributes"]["SequenceNumber"] == sent["SequenceNumber"]
    times = {"SentTimestamp", "ApproximateFirstReceiveTimestamp"}
    assert {*times, "MessageDeduplicationId", "SenderId"} <= record["attributes"].keys()
    assert record["messageAttributes"] == {
        "kind": {"stringValue": "task", "dataType": "String", "stringListValues": [], "binaryListValues": []},
        "raw": {"binaryValue": "MA==", "dataType": "Binary", "stringListValues": [], "binaryListValues": []},
    }
    assert 25_000 < context.get_remaining_time_in_millis() <= 30_000
    assert context.function_name == "worker"
    assert context.invoked_function_arn.endswith(":function:worker")


@pytest.mark.parametrize("answer", [None, {}, {"batchItemFailures": []}, {"batchItemFailures": None}])
def test_a_processed_message_is_deleted(sqs: "SQSClient", aws_url: str, queue: str, answer: Any) -> None:
    worker = Calls(lambda record: answer)
    send(sqs, queue)
    with polling(aws_url, worker):
        worker.wait(1)
        assert emptied(sqs, queue)


@pytest.mark.parametrize(
    "answer",
    [
        lambda record: {"batchItemFailures": [{"itemIdentifier": record["messageId"]}]},
        lambda record: {"batchItemFailures": [{"itemIdentifier": "another"}]},
        lambda record: {"batchItemFailures": [{}]},
        lambda record: "done",
        lambda record: 1 // 0,
    ],
    ids=["named", "unknown id", "no id", "wrong shape", "raised"],
)
def test_a_failed_message_comes_back_when_its_visibility_ends(
    sqs: "SQSClient", aws_url: str, queue: str, answer: Any
) -> None:
    def run(record: Any) -> Any:
        again = record["body"] != "first" or record["attributes"]["ApproximateReceiveCount"] != "1"
        return None if again else answer(record)

    worker = Calls(run)
    send(sqs, queue, "first")
    send(sqs, queue, "behind it")
    with polling(aws_url, worker):
        worker.wait(3)
        assert emptied(sqs, queue)
    assert [record["body"] for record in worker.records] == ["first", "first", "behind it"]
    assert worker.times[1] - worker.times[0] > 0.7


def test_groups_run_side_by_side_and_each_in_its_order(sqs: "SQSClient", aws_url: str, queue: str) -> None:
    running: dict[str, int] = {}
    most = 0
    lock = threading.Lock()

    def run(record: Any) -> None:
        nonlocal most
        group = record["attributes"]["MessageGroupId"]
        with lock:
            running[group] = running.get(group, 0) + 1
            assert running[group] == 1
            most = max(most, sum(running.values()))
        time.sleep(0.02)
        with lock:
            running[group] -= 1

    worker = Calls(run)
    for at in range(40):
        send(sqs, queue, f"{at % 4}:{at // 4:02}", str(at % 4))
    with polling(aws_url, worker, threads=3):
        worker.wait(40)
        assert emptied(sqs, queue)
    assert most == 3
    bodies = [record["body"] for record in worker.records]
    assert len(bodies) == 40
    for group in "0123":
        mine = [body for body in bodies if body.startswith(group)]
        assert mine == sorted(mine)


def test_a_busy_worker_leaves_messages_to_others(sqs: "SQSClient", aws_url: str, queue: str) -> None:
    release = threading.Event()
    busy, free = Calls(lambda record: release.wait(10) and None), Calls()
    with polling(aws_url, busy, threads=1):
        send(sqs, queue, "long", "a", MessageAttributes={})
        busy.wait(1)
        with polling(aws_url, free, threads=1):
            send(sqs, queue, "other", "b")
            free.wait(1)
        release.set()
    assert [record["body"] for record in free.records] == ["other"]


def test_a_message_is_taken_within_milliseconds(sqs: "SQSClient", aws_url: str, queue: str) -> None:
    worker = Calls()
    waits = []
    with polling(aws_url, worker):
        for at in range(20):
            send(sqs, queue, group=str(at))
            sent = time.monotonic()
            worker.wait(at + 1)
            waits.append(worker.times[-1] - sent)
    assert sorted(waits)[10] < 0.05


def test_dead_letters_go_to_their_own_handler(sqs: "SQSClient", aws_url: str) -> None:
    url = sqs.get_queue_url(QueueName="local_dead-letter.fifo")["QueueUrl"]
    worker, dead_letter = Calls(), Calls()
    with polling(aws_url, worker, dead_letter=dead_letter):
        send(sqs, url, "lost")
        dead_letter.wait(1)
        assert emptied(sqs, url)
    assert (dead_letter.records[0]["body"], worker.records) == ("lost", [])
    assert dead_letter.contexts[0].function_name == "dead_letter"


def test_the_schedule_runs_again_after_a_failure(aws_url: str) -> None:
    class Failing(Calls):
        def __call__(self, event: Any, context: Any) -> Any:
            super().__call__(event, context)
            raise RuntimeError("sweep failed")

    cleanup = Failing()
    with polling(aws_url, Calls(), cleanup=cleanup, sweep_seconds=0.02):
        cleanup.wait(3)
    assert cleanup.records[0] == {"source": "aws.scheduler"}


def test_orphans_are_looked_for_between_sweeps_but_not_at_the_start(aws_url: str) -> None:
    cleanup = Calls()
    with polling(aws_url, Calls(), cleanup=cleanup, sweep_seconds=0.02, reconcile_seconds=0.3):
        cleanup.wait(40)
    reconciled = [at for at, event in enumerate(cleanup.records) if "reconcile" in event]
    assert reconciled
    assert reconciled[0] > 2
    assert len(reconciled) < len(cleanup.records) / 4


def test_each_thread_is_prepared_once_and_a_failure_stops_nothing(sqs: "SQSClient", aws_url: str, queue: str) -> None:
    prepared: list[int] = []

    def prepare() -> None:
        prepared.append(threading.get_ident())
        if len(prepared) == 1:
            raise RuntimeError("no settings")

    worker = Calls()
    with polling(aws_url, worker, threads=2, prepare=prepare):
        for at in range(4):
            send(sqs, queue, group=str(at))
        worker.wait(4)
    assert len(set(prepared)) == len(prepared) == 2


def test_stopping_waits_for_what_runs_and_takes_nothing_more(sqs: "SQSClient", aws_url: str, queue: str) -> None:
    release = threading.Event()
    worker = Calls(lambda record: release.wait(10) and None)
    poller = Poller(
        endpoint=aws_url,
        worker=worker,
        dead_letter=Calls(),
        cleanup=Calls(),
        threads=1,
        timeout_seconds=5,
        sweep_seconds=60,
    )
    poller.start()
    send(sqs, queue, "running")
    send(sqs, queue, "waiting")
    worker.wait(1)
    assert poller.stop(0.1) is False
    release.set()
    assert poller.stop(5) is True
    assert [record["body"] for record in worker.records] == ["running"]


def test_a_stand_in_that_is_away_is_asked_again(aws_url: str) -> None:
    connection = AwsConnection("http://127.0.0.1:9")
    with pytest.raises(OSError, match="refused"):
        connection.local("ready")
    with closing(AwsConnection(aws_url)) as there, pytest.raises(AwsError, match="QueueDoesNotExist"):
        there.sqs("ReceiveMessage", {"QueueUrl": "none"})
    poller = Poller(
        endpoint="http://127.0.0.1:9",
        worker=Calls(),
        dead_letter=Calls(),
        cleanup=Calls(),
        threads=1,
        timeout_seconds=5,
        sweep_seconds=60,
    )
    poller.start()
    time.sleep(0.3)
    assert poller.stop(1) is True
