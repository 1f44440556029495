"""The worker process: ``python -m worker_space_local.poller``, in place of event source mappings and EventBridge.

One thread asks the AWS stand-in which mapped queues have something to run; worker threads each receive one message,
call the real handler with a real SQS event and settle the message by Lambda's rules. No thread holds a message that
it is not running. A handler is not stopped when its time is over, as Lambda would do.
"""

import argparse
import functools
import importlib
import json
import logging
import os
import queue
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from worker_space.adapters.sqs_receiver import sqs_event
from worker_space.jobs.drain import drain
from worker_space_local.lambda_context import LambdaContext

Handler: TypeAlias = Callable[[Any, Any], Any]
Body: TypeAlias = dict[str, Any]
_LOG = logging.getLogger("worker_space_local.poller")
_GRACE_SECONDS = 2.0
# What the product loads on first use: here at the start, or the first message would wait a second for it.
_SLOW_IMPORTS = ("worker_space.adapters.model_messages", "qdrant_client.models")


class AwsError(Exception):
    """The AWS stand-in refused a request."""


class AwsConnection:
    """A kept-alive connection to the AWS stand-in, for one thread. Plain HTTP: botocore costs ten times as much."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        assert parts.hostname
        self._connection = HTTPConnection(parts.hostname, parts.port or 80, timeout=30)

    def sqs(self, operation: str, body: Body) -> Body:
        """Call one SQS operation.

        Raises:
            AwsError: the stand-in refused it, with its message.
            OSError: the stand-in does not answer.
        """
        headers = {"x-amz-target": f"AmazonSQS.{operation}", "content-type": "application/x-amz-json-1.0"}
        return self._call("POST", "/", json.dumps(body), headers)

    def local(self, path: str) -> Body:
        """Ask one of the stand-in's own addresses.

        Raises:
            OSError: the stand-in does not answer.
        """
        return self._call("GET", f"/_local/{path}", None, {})

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._connection.close()

    def _call(self, method: str, path: str, content: str | None, headers: dict[str, str]) -> Body:
        try:
            self._connection.request(method, path, content, headers)
            response = self._connection.getresponse()
            body: Body = json.loads(response.read())
        except (HTTPException, ValueError) as exc:
            self._connection.close()
            raise ConnectionError(f"the AWS stand-in broke off: {exc!r}") from exc
        except OSError:
            self._connection.close()
            raise
        if response.status != 200:
            raise AwsError(f"{body.get('__type', response.status)}: {body.get('message', '')}")
        return body


class Receiver:
    """One queue, one message at a time.

    Args:
        connection: this thread's connection.
        source: the queue as ``/_local/ready`` names it.
        received: called after the receive, whatever it brought.
    """

    def __init__(self, connection: AwsConnection, source: Body, received: Callable[[], None]) -> None:
        self._connection = connection
        self._source = source
        self._received = received
        self.asked = False

    def receive(self, wait_seconds: int) -> Body | None:
        """Receive one message as an SQS event for a Lambda function; ``None`` when there is none."""
        request = {
            "QueueUrl": self._source["queue_url"],
            "MaxNumberOfMessages": 1,
            "WaitTimeSeconds": wait_seconds,
            "AttributeNames": ["All"],
            "MessageAttributeNames": ["All"],
        }
        try:
            found = self._connection.sqs("ReceiveMessage", request).get("Messages")
        finally:
            self.asked = True
            self._received()
        return dict(sqs_event(found, self._source["queue_arn"])) if found else None

    def delete(self, receipt_handle: str) -> None:
        """Delete a message that is done."""
        self._connection.sqs("DeleteMessage", {"QueueUrl": self._source["queue_url"], "ReceiptHandle": receipt_handle})


class Poller:
    """Finds messages and runs them on worker threads.

    Args:
        endpoint: URL of the AWS stand-in.
        worker: handler of mapped queues.
        dead_letter: handler of the dead-letter queue.
        cleanup: handler of the schedule.
        threads: how many messages run at once.
        timeout_seconds: a handler's time, as its context tells it.
        sweep_seconds: pause between two runs of the schedule.
        reconcile_seconds: pause between two looks for orphaned queues and mappings.
        prepare: called by each worker thread before its first message, to build what a handler keeps per thread.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        worker: Handler,
        dead_letter: Handler,
        cleanup: Handler,
        threads: int,
        timeout_seconds: float,
        sweep_seconds: float,
        reconcile_seconds: float = 86_400.0,
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self._endpoint = endpoint
        self._worker = worker
        self._dead_letter = dead_letter
        self._cleanup = cleanup
        self._timeout = timeout_seconds
        self._sweep = sweep_seconds
        self._reconcile = reconcile_seconds
        self._prepare = prepare
        self._threads = threads
        self._state = threading.Condition()
        self._idle = threads
        self._taking: Counter[str] = Counter()
        self._work: queue.SimpleQueue[Body | None] = queue.SimpleQueue()
        self.stopping = threading.Event()

    def start(self) -> None:
        """Start the threads and return; they end with the process."""
        for target, count in ((self._serve, self._threads), (self._dispatch, 1), (self._schedule, 1)):
            for at in range(count):
                threading.Thread(target=target, name=f"{target.__name__.strip('_')}-{at}", daemon=True).start()

    def stop(self, seconds: float) -> bool:
        """Take no more messages and wait for those that run; tells whether all of them ended in time."""
        self.stopping.set()
        for _ in range(self._threads):
            self._work.put(None)
        deadline = time.monotonic() + seconds
        with self._state:
            while self._idle < self._threads and (left := deadline - time.monotonic()) > 0:
                self._state.wait(left)
            return self._idle == self._threads

    def _dispatch(self) -> None:
        with closing(AwsConnection(self._endpoint)) as connection:
            while not self.stopping.is_set():
                with self._state:
                    self._state.wait_for(lambda: self._idle > 0 or self.stopping.is_set(), timeout=1)
                    if self._idle == 0:
                        continue
                try:
                    sources: list[Body] = connection.local("ready?wait=5")["queues"]
                except (OSError, AwsError) as exc:
                    _LOG.info("the AWS stand-in does not answer: %r", exc)
                    self.stopping.wait(0.2)
                    continue
                with self._state:
                    if not self._assign(sources) and sources:
                        # What is ready is being taken already; ask again when that is done.
                        self._state.wait(0.05)

    def _assign(self, sources: list[Body]) -> int:
        """Give ready queues to idle threads, one message a queue and round, so that no queue starves another."""
        random.shuffle(sources)
        assigned = 0
        progress = True
        while progress and self._idle and not self.stopping.is_set():
            progress = False
            for source in sources:
                url = source["queue_url"]
                if self._idle and self._taking[url] < source["receivable"]:
                    self._idle -= 1
                    self._taking[url] += 1
                    self._work.put(source)
                    assigned += 1
                    progress = True
        return assigned

    def _serve(self) -> None:
        try:
            self._prepare()
        except Exception:  # noqa: BLE001 - the first message shows the same fault, where it can be told
            _LOG.exception("a worker thread could not be prepared")
        with closing(AwsConnection(self._endpoint)) as connection:
            while (source := self._work.get()) is not None:
                try:
                    self._turn(connection, source)
                except Exception:  # noqa: BLE001 - a thread that ends would be missing for good
                    _LOG.exception("a message could not be received or deleted")
                finally:
                    with self._state:
                        self._idle += 1
                        self._state.notify_all()

    def _turn(self, connection: AwsConnection, source: Body) -> None:
        receiver = Receiver(connection, source, functools.partial(self._taken, source["queue_url"]))
        dead = source["queue_arn"].rsplit("_", 1)[-1] == "dead-letter.fifo"
        name, handler = ("dead_letter", self._dead_letter) if dead else ("worker", self._worker)
        drain(receiver, functools.partial(self._run, name, handler), until=self._over(receiver), wait_seconds=0)

    def _over(self, receiver: Receiver) -> Callable[[], bool]:
        """One receive a turn: after it the thread takes whatever queue is ready then."""
        return lambda: receiver.asked or self.stopping.is_set()

    def _taken(self, url: str) -> None:
        with self._state:
            self._taking[url] -= 1
            if not self._taking[url]:
                del self._taking[url]
            self._state.notify_all()

    def _run(self, name: str, handler: Handler, event: Body) -> Any:
        return handler(event, LambdaContext(name, self._timeout))

    def _schedule(self) -> None:
        # The first run is at once: what was in flight when the last worker ended need not wait.
        reconcile_at = time.monotonic() + self._reconcile
        while not self.stopping.is_set():
            self._clean_up({"source": "aws.scheduler"})
            if time.monotonic() >= reconcile_at:
                self._clean_up({"source": "aws.scheduler", "reconcile": True})
                reconcile_at = time.monotonic() + self._reconcile
            self.stopping.wait(self._sweep)

    def _clean_up(self, event: Body) -> None:
        try:
            self._run("cleanup", self._cleanup, event)
        except Exception:  # noqa: BLE001 - a failed run of the schedule must not end it
            _LOG.exception("the cleanup failed; it runs again")


def wait_for(endpoint: str, stopped: threading.Event) -> None:
    """Return when the AWS stand-in answers, or when told to stop."""
    with closing(AwsConnection(endpoint)) as connection:
        while not stopped.is_set():
            try:
                connection.local("health")
            except (OSError, AwsError):
                stopped.wait(0.05)
            else:
                return


def _handler(reference: str) -> Callable[..., Any]:
    module, _, name = reference.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="Worker of the local stack")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--worker", default="functions.worker.app:handler")
    parser.add_argument("--dead-letter", default="functions.dead_letter.app:handler")
    parser.add_argument("--cleanup", default="functions.cleanup.app:handler")
    parser.add_argument("--prepare", default="worker_space.bootstrap:environment")
    parser.add_argument("--ready-file", type=Path, help="written when the worker takes messages")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    poller = Poller(
        endpoint=endpoint,
        worker=_handler(given.worker),
        dead_letter=_handler(given.dead_letter),
        cleanup=_handler(given.cleanup),
        threads=given.threads,
        timeout_seconds=float(os.environ.get("WORKER_SPACE_WORKER_TIMEOUT_SECONDS", "120")),
        sweep_seconds=float(os.environ.get("WORKER_SPACE_SWEEP_SECONDS", "10")),
        reconcile_seconds=float(os.environ.get("WORKER_SPACE_RECONCILE_SECONDS", "86400")),
        prepare=_handler(given.prepare),
    )
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    for module in _SLOW_IMPORTS:
        importlib.import_module(module)
    wait_for(endpoint, stopped)
    poller.start()
    if given.ready_file:
        given.ready_file.write_text(str(os.getpid()))
    stopped.wait()
    if not poller.stop(_GRACE_SECONDS):
        # A handler still runs: what it holds comes back to another worker when its visibility ends.
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
