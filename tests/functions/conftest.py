"""One environment over the stand-ins, as each function makes it from its variables."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.stand_ins import Aws, Endpoint
from worker_space import bootstrap
from worker_space.bootstrap import Environment


@dataclass
class Invocation:
    """Lambda's context object, as far as the functions and Powertools look at it."""

    function_name: str = "worker"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:worker"
    aws_request_id: str = "00000000-0000-4000-8000-000000000000"
    seconds: float = 60.0

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


@pytest.fixture
def variables(aws: Aws, aws_endpoint: str, redis: Endpoint, qdrant: Endpoint) -> dict[str, str]:
    return {
        "WORKER_SPACE_TABLE": aws.table,
        "WORKER_SPACE_BUCKET": aws.bucket,
        # A stack of its own for each test; the stand-ins are shared.
        "WORKER_SPACE_PREFIX": f"f{secrets.token_hex(3)}",
        "WORKER_SPACE_DEAD_LETTER_ARN": aws.dead_letters,
        "WORKER_SPACE_DATA_ROLE_ARN": "arn:aws:iam::123456789012:role/ws-data",
        "WORKER_SPACE_WORKER_FUNCTION": "worker",
        "WORKER_SPACE_WORKER_TIMEOUT_SECONDS": "60",
        "WORKER_SPACE_VISIBILITY_SECONDS": "8",
        "AWS_REGION": aws.region,
        "UPSTASH_REDIS_REST_URL": redis.url,
        "UPSTASH_REDIS_REST_TOKEN": redis.secret,
        "QDRANT_URL": qdrant.url,
        "QDRANT_API_KEY": qdrant.secret,
        "JWT_ISSUER": "https://issuer.test",
        "JWT_JWKS_URL": "http://127.0.0.1:9/jwks.json",
    }


@pytest.fixture
def environment(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """This thread's environment, made from this test's variables."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    bootstrap.forget_environment()
    yield bootstrap.environment()
    bootstrap.forget_environment()


@pytest.fixture
def invocation() -> Any:
    return Invocation()
