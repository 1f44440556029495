"""Every error that a vendor's client can raise has a translation; a new one in a new version makes a test here fail."""

import inspect
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import botocore.exceptions
import botocore.session
import httpx
import pytest
import qdrant_client.common.client_exceptions
import qdrant_client.http.exceptions
import upstash_redis
import upstash_redis.errors
from botocore.stub import Stubber

from tests.servers import http, server
from worker_space.adapters import qdrant, upstash
from worker_space.adapters.aws import AwsCalls, make_client
from worker_space.adapters.sqs import SqsQueues
from worker_space.errors import ClaimLost, NotFound, Unavailable, WorkerSpaceError
from worker_space.ports import ContextEntry, Lease
from worker_space.tenancy import Names, TenantContext

pytestmark = pytest.mark.anyio

U1 = TenantContext("u1", "p")
AGENT = "agent_1"


def exceptions_of(*modules: ModuleType) -> set[type[Exception]]:
    return {
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Exception)
        and value.__module__.split(".")[0] == module.__name__.split(".")[0]
    }


# -- Upstash ---------------------------------------------------------------------------------------------------------

# Errors about streamed bodies and cookies: the SDK streams nothing and keeps no cookies.
HTTPX_NEVER = {
    httpx.CookieConflict,
    httpx.RequestNotRead,
    httpx.ResponseNotRead,
    httpx.StreamClosed,
    httpx.StreamConsumed,
    httpx.StreamError,
}


@pytest.mark.parametrize("error", sorted(exceptions_of(httpx) - HTTPX_NEVER, key=str))
def test_an_http_error_below_the_redis_sdk_means_that_there_was_no_answer(error: type[Exception]) -> None:
    assert upstash._failure(error.__new__(error)) == error.__name__


def test_the_redis_sdk_has_no_error_but_the_one_that_is_an_answer() -> None:
    assert exceptions_of(upstash_redis, upstash_redis.errors) == {upstash_redis.errors.UpstashError}
    assert upstash._failure(upstash_redis.errors.UpstashError("ERR")) is None


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 503])
async def test_an_error_that_redis_answers_is_unavailability_and_no_outage(names: Names, status: int) -> None:
    with server(lambda _: http(status, b'{"error": "ERR quoting useru1_projectp"}')) as (url, requests):
        cache = upstash.UpstashCache(url, "token", names)
        for call in (lambda: cache.load(U1), lambda: cache.clear(U1), lambda: cache.ping()):
            with pytest.raises(Unavailable) as caught:
                await call()
            assert U1.token not in str(caught.value)
        assert len(requests) == 3
        await cache.close()


# -- Qdrant ----------------------------------------------------------------------------------------------------------

QDRANT_KNOWN = {
    "ApiException",
    "UnexpectedResponse",
    "ResponseHandlingException",
    "QdrantException",
    "ResourceExhaustedResponse",
}


def test_the_qdrant_client_has_no_error_that_is_not_translated() -> None:
    found = exceptions_of(qdrant_client.http.exceptions, qdrant_client.common.client_exceptions)
    assert {error.__name__ for error in found} == QDRANT_KNOWN


ENTRY = ContextEntry(id="task_1", text="invoice", kind="note", created_at=1)
QDRANT_CALLS: dict[str, Callable[[qdrant.QdrantContext], Awaitable[object]]] = {
    "ensure": lambda store: store.ensure(U1, AGENT),
    "add": lambda store: store.add(U1, AGENT, ENTRY),
    "search": lambda store: store.search(U1, AGENT, "invoice", limit=1),
    "entries": lambda store: store.entries(U1, AGENT, limit=1),
    "remove": lambda store: store.remove(U1, AGENT, "task_1"),
    "clear": lambda store: store.clear(U1, AGENT, before=2),
    "drop": lambda store: store.drop(U1, AGENT),
    "drop_all": lambda store: store.drop_all(U1),
    "remains": lambda store: store.remains(U1),
    "ping": lambda store: store.ping(),
}


@pytest.mark.parametrize("status", [400, 401, 403, 409, 413, 422, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("call", QDRANT_CALLS.values(), ids=QDRANT_CALLS)
async def test_a_status_that_qdrant_answers_is_unavailability(
    names: Names, status: int, call: Callable[[qdrant.QdrantContext], Awaitable[object]]
) -> None:
    body = b'{"status": {"error": "about test_useru1_projectp_agent_agent_1"}, "time": 0}'
    with server(lambda _: http(status, body)) as (url, _):
        store = qdrant.QdrantContext(url, "key", names)
        with pytest.raises(Unavailable) as caught:
            await call(store)
        assert U1.token not in str(caught.value)
        await store.close()


@pytest.mark.parametrize("retry_after", ["5", "Sun, 22 Nov 2026 08:00:00 GMT"])
async def test_a_limit_of_qdrants_is_unavailability(names: Names, retry_after: str) -> None:
    reply = http(429, b'{"status": {"error": "slow down"}}').replace(
        b"Connection:", f"Retry-After: {retry_after}\r\nConnection:".encode()
    )
    with server(lambda _: reply) as (url, requests):
        store = qdrant.QdrantContext(url, "key", names)
        for _ in range(2):
            with pytest.raises(Unavailable, match="429"):
                await store.search(U1, AGENT, "invoice", limit=1)
        assert len(requests) == 2
        await store.close()


# -- SQS and Lambda --------------------------------------------------------------------------------------------------

DEFAULT: type[WorkerSpaceError] = Unavailable
# None: success. Every other error of these operations' service models, known or new, is unavailability.
SPECIAL: dict[tuple[str, str], type[WorkerSpaceError] | None] = {
    ("CreateQueue", "QueueNameExists"): None,
    ("CreateEventSourceMapping", "ResourceConflictException"): None,
    ("ListEventSourceMappings", "ResourceNotFoundException"): None,
    ("DeleteEventSourceMapping", "ResourceNotFoundException"): None,
    ("DeleteQueue", "QueueDoesNotExist"): None,
    ("SendMessage", "QueueDoesNotExist"): NotFound,
    ("ChangeMessageVisibility", "QueueDoesNotExist"): ClaimLost,
    ("ChangeMessageVisibility", "MessageNotInflight"): ClaimLost,
    ("ChangeMessageVisibility", "ReceiptHandleIsInvalid"): ClaimLost,
    ("ChangeMessageVisibility", "InvalidParameterValue"): ClaimLost,
    ("GetQueueAttributes", "QueueDoesNotExist"): None,
}
OLD_CODES = {
    "QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue",
    "QueueNameExists": "QueueAlreadyExists",
    "MessageNotInflight": "AWS.SimpleQueueService.MessageNotInflight",
    "QueueDeletedRecently": "AWS.SimpleQueueService.QueueDeletedRecently",
}

# Per operation: the service, the port's call that uses it, and what the calls before and after it answer.
URL = {"QueueUrl": "http://127.0.0.1/1/q"}
MAPPINGS = {"EventSourceMappings": [{"UUID": "0" * 36, "State": "Enabled"}]}
SCRIPTS: dict[str, tuple[str, list[tuple[str, str, dict[str, Any] | None]]]] = {
    "CreateQueue": ("create", [("sqs", "create_queue", None)]),
    "SetQueueAttributes": (
        "create",
        [("sqs", "create_queue", {"refuse": "QueueNameExists"}), ("sqs", "set_queue_attributes", None)],
    ),
    "CreateEventSourceMapping": (
        "create",
        [("sqs", "create_queue", URL), ("lambda", "create_event_source_mapping", None)],
    ),
    "ListEventSourceMappings": ("release", [("lambda", "list_event_source_mappings", None)]),
    "DeleteEventSourceMapping": (
        "release",
        [("lambda", "list_event_source_mappings", MAPPINGS), ("lambda", "delete_event_source_mapping", None)],
    ),
    "DeleteQueue": ("release", [("lambda", "list_event_source_mappings", {}), ("sqs", "delete_queue", None)]),
    "SendMessage": ("send", [("sqs", "send_message", None)]),
    "ChangeMessageVisibility": ("extend", [("sqs", "change_message_visibility", None)]),
    "Invoke": ("wake_worker", [("lambda", "invoke", None)]),
    "GetQueueAttributes": ("depth", [("sqs", "get_queue_attributes", None)]),
}
# What a call goes on to do after an error that is success.
AFTER: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "CreateQueue": [("sqs", "set_queue_attributes", {}), ("lambda", "create_event_source_mapping", {})],
    "ListEventSourceMappings": [("sqs", "delete_queue", {})],
    "DeleteEventSourceMapping": [("sqs", "delete_queue", {})],
}
REPEATS = 16


def _client(service: str) -> Any:
    return make_client(service, region="eu-central-1")


def modelled_errors() -> list[Any]:
    session = botocore.session.get_session()
    models = {service: session.get_service_model(service) for service in ("sqs", "lambda")}
    found = []
    for operation, (_, script) in SCRIPTS.items():
        model = models[script[-1][0]].operation_model(operation)
        codes = {shape.name for shape in model.error_shapes} | {"AccessDenied", "SomethingNew"}
        codes |= {code for name, code in SPECIAL if name == operation}
        for code in sorted(codes):
            spellings = {code, OLD_CODES.get(code, code)}
            for spelling in sorted(spellings):
                expected = SPECIAL.get((operation, code), DEFAULT)
                found.append(pytest.param(operation, spelling, expected, id=f"{operation}-{spelling}"))
    return found


@pytest.fixture(scope="module")
def stubbed() -> Iterator[tuple[SqsQueues, dict[str, Any]]]:
    clients = {"sqs": _client("sqs"), "lambda": _client("lambda")}
    with ThreadPoolExecutor(1) as executor:
        yield (
            SqsQueues(
                clients["sqs"],
                clients["lambda"],
                AwsCalls(executor, attempts=1),
                Names("test"),
                worker_function="worker",
                worker_timeout_seconds=60,
                dead_letter_arn="arn:aws:sqs:eu-central-1:123456789012:dead.fifo",
            ),
            clients,
        )
    for client in clients.values():
        client.close()


def _call(queues: SqsQueues, port_call: str) -> Awaitable[object]:
    lease = Lease(queue_url=f"http://127.0.0.1/1/{Names('test').queue(U1, 1)}", receipt_handle="x")
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "create": lambda: queues.create(U1, 1),
        "release": lambda: queues.release(U1, 1),
        "send": lambda: queues.send(U1, 1, "x", group="a#0", deduplication="x"),
        "extend": lambda: queues.extend(U1, lease, 60),
        "wake_worker": lambda: queues.wake_worker(U1, 1),
        "depth": lambda: queues.depth(U1, 1),
    }
    return calls[port_call]()


@pytest.mark.parametrize(("operation", "code", "expected"), modelled_errors())
async def test_whatever_aws_refuses_a_call_with_is_translated(
    stubbed: tuple[SqsQueues, dict[str, Any]], operation: str, code: str, expected: type[WorkerSpaceError] | None
) -> None:
    queues, clients = stubbed
    port_call, script = SCRIPTS[operation]
    stubs = {service: Stubber(client) for service, client in clients.items()}
    for service, method, answer in script:
        if answer is None:
            # A refusal that may pass is met again each time the call is repeated.
            repeats = REPEATS if expected is Unavailable else 1
            for _ in range(repeats):
                stubs[service].add_client_error(method, code, f"about {U1.token}")
        elif "refuse" in answer:
            stubs[service].add_client_error(method, answer["refuse"])
        else:
            stubs[service].add_response(method, answer)
    for service, method, answer in AFTER.get(operation, []):
        stubs[service].add_response(method, answer)
    with stubs["sqs"], stubs["lambda"]:
        if expected is None:
            await _call(queues, port_call)
            for stub in stubs.values():
                stub.assert_no_pending_responses()
        else:
            with pytest.raises(expected) as caught:
                await _call(queues, port_call)
            assert type(caught.value) is expected
            assert U1.token not in str(caught.value)


def test_botocore_has_no_error_outside_its_two_trees() -> None:
    trees = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, Warning)
    outside = {error.__name__ for error in exceptions_of(botocore.exceptions) if not issubclass(error, trees)}
    # Both are mistakes in a service's description, found when a client is made.
    assert outside == {"MissingServiceIdError", "UndefinedModelAttributeError"}


@pytest.mark.parametrize(
    "error",
    [botocore.exceptions.ReadTimeoutError(endpoint_url="x"), botocore.exceptions.NoCredentialsError()],
    ids=type,
)
async def test_a_failure_inside_botocore_is_unavailability(error: Exception) -> None:
    def call() -> None:
        raise error

    with ThreadPoolExecutor(1) as executor, pytest.raises(Unavailable) as caught:
        await AwsCalls(executor)("sqs", call)
    assert caught.value.__cause__ is error
