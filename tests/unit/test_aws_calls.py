"""boto3 behind its seam: what is repeated, what is not, and what the failure is called."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from worker_space.adapters.aws import AwsCalls, make_client
from worker_space.errors import Unavailable

pytestmark = pytest.mark.anyio


class Service:
    """Fails as told, then answers with the number of calls."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.count = 0

    def call(self, **_: Any) -> int:
        self.count += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.count


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": ""}}, "Call")


CLOSED = ConnectionClosedError(endpoint_url="http://127.0.0.1")


async def _call(service: Service) -> Any:
    with ThreadPoolExecutor(1) as executor:
        return await AwsCalls(executor)("it", service.call)


@pytest.mark.parametrize(
    ("failures", "calls"),
    [((), 1), ((refused("ThrottlingException"), refused("InternalServerError")), 3), ((CLOSED,), 2)],
)
async def test_what_was_not_done_is_repeated(failures: tuple[Exception, ...], calls: int) -> None:
    assert await _call(Service(*failures)) == calls


@pytest.mark.parametrize(
    ("failures", "calls"),
    [
        ((refused("SlowDown"),) * 9, 3),
        ((CLOSED,) * 9, 2),
        ((EndpointConnectionError(endpoint_url="http://127.0.0.1"),) * 9, 1),
        ((ReadTimeoutError(endpoint_url="http://127.0.0.1"),) * 9, 1),
    ],
)
async def test_what_does_not_answer_is_unavailable_after_a_bounded_number_of_tries(
    failures: tuple[Exception, ...], calls: int
) -> None:
    service = Service(*failures)
    with pytest.raises(Unavailable, match="it is unavailable"):
        await _call(service)
    assert service.count == calls


async def test_a_refusal_is_the_adapters_to_understand() -> None:
    service = Service(refused("ValidationException"))
    with pytest.raises(ClientError):
        await _call(service)
    assert service.count == 1


def test_requests_say_whose_they_are() -> None:
    client = make_client("sqs", region="eu-central-1", keys={"aws_access_key_id": "x", "aws_secret_access_key": "y"})
    assert client.meta.config.user_agent.startswith("worker-space Boto3/")
    client.close()
