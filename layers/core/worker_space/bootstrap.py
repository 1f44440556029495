"""The composition root: settings and the real adapters in, one environment out.

There is one environment per thread, for the thread's life: an event loop, the clients that live on it and the
executor for boto3. Nothing in it belongs to a tenant. A loop per invocation would close under clients that live on.
"""

import asyncio
import logging
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from pydantic import ValidationError

from worker_space.adapters.aws import AwsCalls, make_client
from worker_space.adapters.dynamodb import DynamoRecords
from worker_space.adapters.embedding import make_embedder
from worker_space.adapters.model import PydanticAIModels
from worker_space.adapters.patterns import Re2Patterns
from worker_space.adapters.qdrant import QdrantContext
from worker_space.adapters.reach import make_reach
from worker_space.adapters.s3 import S3Content, S3Files
from worker_space.adapters.secrets import SecretSettings
from worker_space.adapters.sqs import SqsQueues
from worker_space.adapters.sqs_inventory import SqsInventory
from worker_space.adapters.sqs_pool import PooledSqsQueues
from worker_space.adapters.sqs_receiver import QueueReceiver
from worker_space.adapters.upstash import UpstashCache
from worker_space.clock import now_ms
from worker_space.composition import Parts, Ports, compose
from worker_space.errors import InvalidRequest, Lost, Unavailable
from worker_space.jobs.drain import drain
from worker_space.ports import Lease
from worker_space.serving import serving
from worker_space.settings import Settings
from worker_space.tasks import Delivery
from worker_space.telemetry import Measure, count, logged_with, span
from worker_space.tenancy import Names, TenantContext

__all__ = ["Environment", "environment", "forget_environment"]

T = TypeVar("T")
_RESERVE_SECONDS: Final = 5.0
_DRAIN_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 5
_TALKATIVE: Final = ("boto3", "botocore", "httpcore", "httpx", "httpx2", "mangum", "openai", "urllib3")
_log = logging.getLogger(__name__)
_threads = threading.local()


class Invocation(Protocol):
    """What is used of Lambda's context object."""

    def get_remaining_time_in_millis(self) -> int:
        """The invocation's time that is left."""


def _seconds(invocation: Invocation) -> float:
    return invocation.get_remaining_time_in_millis() / 1000


@contextmanager
def _told() -> Iterator[None]:
    """Log why work was not done, without the error's text where that may hold what a user wrote."""
    try:
        yield
    except (Unavailable, Lost) as error:
        _log.warning("left to the queue: %s: %s", type(error).__name__, error)
        raise
    except Exception as error:
        _log.error("failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        raise


@contextmanager
def _about(delivery: Delivery) -> Iterator[None]:
    """Have log lines say what they are about, and by which request it came about; and work for its tenant alone."""
    about = {"tenant": delivery.tenant.pseudonym, "task_id": delivery.task}
    if delivery.trace:
        about["correlation_id"] = delivery.trace
    with logged_with(**about), span("delivery", about), _told(), serving(delivery.tenant):
        yield


def _measure_age(record: Mapping[str, Any]) -> None:
    """Count how long a message was in its queue; one that comes again has been there for other reasons."""
    attributes = record.get("attributes", {})
    if "SentTimestamp" in attributes and attributes.get("ApproximateReceiveCount") == "1":
        count(Measure.DELIVERY_AGE_MS, max(0, now_ms() - int(attributes["SentTimestamp"])))


def _delivery(record: Mapping[str, Any]) -> Delivery | None:
    """What a message says, or `None` for one that this service never sent: kept, it would block its group for hours."""
    try:
        delivery = Delivery.model_validate_json(record["body"])
        TenantContext(delivery.user_id, delivery.project_id)
        return delivery
    except (InvalidRequest, ValidationError):
        _log.error("message %s is no delivery of this service and is dropped", record.get("messageId"))
        return None


class Environment:
    """One thread's event loop with everything that lives on it.

    Args:
        settings: Of the deployment.
        refused: Called when Redis, Qdrant or a model's provider does not accept our key.
    """

    def __init__(self, settings: Settings, *, refused: Callable[[], None] | None = None) -> None:
        self.settings = settings
        self.loop = asyncio.new_event_loop()
        names = Names(settings.prefix)
        self._executor = ThreadPoolExecutor(max_workers=32, thread_name_prefix="aws")
        calls = AwsCalls(self._executor)
        region = settings.region
        self._names = names
        reach = make_reach(region=region, data_role_arn=settings.data_role_arn)
        records = DynamoRecords(client=reach.dynamodb, calls=calls, table=settings.table, client_of=reach.items_of)
        cache = UpstashCache(settings.redis_url, settings.redis_token.get_secret_value(), names, refused=refused)
        key = settings.qdrant_api_key
        openai_key = settings.openai_api_key
        embedder = None
        if settings.embedding_model is not None:
            embedder = make_embedder(
                settings.embedding_model,
                dimensions=settings.embedding_dimensions,
                openai_base_url=settings.openai_base_url,
                openai_api_key=None if openai_key is None else openai_key.get_secret_value(),
                bedrock=lambda: (make_client("bedrock-runtime", region=region), calls),
            )
        memory = QdrantContext(
            settings.qdrant_url,
            None if key is None else key.get_secret_value(),
            names,
            embedder=embedder,
            layout=settings.context_layout,
            refused=refused,
        )
        lambda_ = make_client("lambda", region=region)
        own_queues = SqsQueues(
            reach.sqs,
            lambda_,
            calls,
            names,
            worker_function=settings.worker_function,
            worker_timeout_seconds=settings.worker_timeout_seconds,
            dead_letter_arn=settings.dead_letter_arn,
            sqs_of=reach.queues_of,
        )
        pool = settings.pool
        queues = own_queues if pool is None else PooledSqsQueues(own_queues, names, size=pool)
        inventory = SqsInventory(
            reach.sqs,
            lambda_,
            calls,
            names,
            arn_prefix=settings.dead_letter_arn.rpartition(":")[0],
            worker_function=settings.worker_function,
        )
        self._models = PydanticAIModels(
            openai_base_url=settings.openai_base_url,
            openai_api_key=None if openai_key is None else openai_key.get_secret_value(),
            region=region,
            refused=refused,
        )
        self._closing = [cache.close, memory.close, self._models.close]
        if embedder is not None:
            self._closing.append(embedder.close)
        objects = (reach.s3, calls, names, settings.bucket)
        files = S3Files(*objects, client_of=reach.objects_of, signer_of=reach.signer_of)
        self.ports = Ports(
            records=records,
            due=records,
            spaces=records,
            cache=cache,
            queues=queues,
            inventory=inventory,
            memory=memory,
            files=files,
            content=S3Content(*objects, client_of=reach.objects_of, signer_of=reach.signer_of),
            model=self._models,
            patterns=Re2Patterns(),
            dependencies={
                "table": records.ping,
                "files": files.ping,
                "queue": queues.ping,
                "redis": cache.ping,
                "qdrant": memory.ping,
            },
        )
        if settings.traces:
            from worker_space.adapters.telemetry_traces import traced

            self.ports = replace(self.ports, **traced(self.ports))
        self.parts: Parts = compose(self.ports, settings)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end on this environment's loop; what it left behind is ended, too."""
        try:
            return self.loop.run_until_complete(work)
        finally:
            self.end_strays()

    def end_strays(self) -> None:
        """Cancel what is still running: it would go on in the next invocation, which may be another tenant's."""
        strays = asyncio.all_tasks(self.loop)
        for stray in strays:
            stray.cancel()
        if strays:
            self.loop.run_until_complete(asyncio.gather(*strays, return_exceptions=True))

    def close(self) -> None:
        """End the connections and the loop; the environment cannot be used any more."""
        for close in self._closing:
            self.run(close())
        self._executor.shutdown()
        self.loop.close()

    # -- what the functions do -------------------------------------------------------------------
    def work(self, record: Mapping[str, Any], invocation: Invocation) -> None:
        """Take one SQS record of a project's queue; returns when it may be acknowledged."""
        delivery = _delivery(record)
        if delivery is None:
            return
        with _about(delivery):
            _measure_age(record)
            # Importing a model library takes a second or two: before the heartbeat begins, not during it.
            self._models.warm_up(self.settings.default_model)
            lease = Lease(
                queue_url=self._queue_url(record["eventSourceARN"]),
                receipt_handle=record["receiptHandle"],
                message_id=record["messageId"],
            )
            deadline = time.monotonic() + _seconds(invocation) - _RESERVE_SECONDS
            self.run(self.parts.worker.handle(delivery, lease, deadline=deadline))

    def bury(self, record: Mapping[str, Any]) -> None:
        """Take one SQS record of the dead-letter queue; returns when it may be acknowledged."""
        delivery = _delivery(record)
        if delivery is None:
            return
        with _about(delivery):
            count(Measure.DEAD_LETTERS)
            self.run(self.parts.dead_letters.handle(delivery))

    def sweep(self, invocation: Invocation) -> dict[str, int]:
        """See to what is overdue, within the invocation's time."""
        with _told():
            done = self.run(self.parts.sweeper.sweep(seconds=max(1.0, _seconds(invocation) - _RESERVE_SECONDS)))
        for outcome, times in done.items():
            count(Measure.SWEPT, times, outcome=outcome)
        return done

    def reconcile(self, invocation: Invocation) -> dict[str, int]:
        """Remove queues and mappings that no project knows of, within the invocation's time."""
        with _told():
            done = self.run(
                self.parts.reconciler.reconcile(seconds=max(1.0, _seconds(invocation) - 2 * _RESERVE_SECONDS))
            )
        for outcome, times in done.items():
            count(Measure.RECONCILED, times, outcome=outcome)
        return done

    def drain(self, request: Mapping[str, Any], run: Callable[[Any], Any], invocation: Invocation) -> int:
        """Serve a new queue until its event source mapping has started; takes no message it cannot finish.

        Args:
            request: The tenant and the queue's generation, as `Queues.wake_worker` sends them.
            run: The worker's handler for an SQS event.
        """
        tenant = TenantContext(request["user_id"], request["project_id"])
        arn = self._queue_arn(self._names.queue(tenant, request["generation"]))
        client = make_client("sqs", region=self.settings.region, timeout_seconds=_POLL_SECONDS + 5.0)
        receiver = QueueReceiver(client, queue_url=self._queue_url(arn), queue_arn=arn)
        stop_at = time.monotonic() + min(_DRAIN_SECONDS, _seconds(invocation) / 2)
        return drain(receiver, run, until=lambda: time.monotonic() >= stop_at, wait_seconds=_POLL_SECONDS)

    def _queue_arn(self, name: str) -> str:
        return f"{self.settings.dead_letter_arn.rpartition(':')[0]}:{name}"

    def _queue_url(self, arn: str) -> str:
        _, _, _, region, account, name = arn.split(":")
        return f"https://sqs.{region}.amazonaws.com/{account}/{name}"


def environment() -> Environment:
    """This thread's environment, made at its first call, and made anew when a secret has been rotated.

    Raises:
        InvalidRequest: A setting is missing or has a bad value.
        Unavailable: The models' secret could not be read.
    """
    found: Environment | None = getattr(_threads, "environment", None)
    if found is not None and found.loop.is_running():
        return found
    source: SecretSettings | None = getattr(_threads, "settings", None)
    if source is None:
        declared = Settings.from_environment()
        logging.getLogger("worker_space").setLevel(declared.log_level)
        # Lambda's root logger takes what they say of each request, and an address names the user, project or file.
        for library in _TALKATIVE:
            logging.getLogger(library).setLevel(logging.WARNING)
        source = _threads.settings = SecretSettings(
            declared, client=lambda: make_client("secretsmanager", region=declared.region, timeout_seconds=1.0)
        )
    settings = source.current()
    if found is not None and found.settings is not settings:
        # What it was made with is not accepted any more, or soon will not be.
        _threads.environment = None
        found.close()
        found = None
    if found is None:
        found = Environment(settings, refused=source.doubt)
        asyncio.set_event_loop(found.loop)
        _threads.environment = found
    return found


def forget_environment() -> None:
    """Close this thread's environment, if there is one; the next call of `environment` makes a new one."""
    found: Environment | None = getattr(_threads, "environment", None)
    if found is not None:
        found.close()
        del _threads.environment
        asyncio.set_event_loop(None)
    _threads.settings = None
