"""What several files of contracts begin with: a provider of models with the adapter that asks it, and queues."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.contract.model_servers import KEY, Provider, listening
from tests.contract.queue_subjects import POOL, InMemory, OnAws, Subject
from tests.stand_ins import Aws
from worker_space.adapters.model import PydanticAIModels
from worker_space.tenancy import Names


@pytest.fixture
def provider() -> Iterator[Provider]:
    with listening() as provider:
        yield provider


@pytest.fixture
async def models(provider: Provider) -> AsyncIterator[PydanticAIModels]:
    models = PydanticAIModels(
        region="eu-central-1", openai_base_url=f"{provider.url}/v1", openai_api_key=KEY, backoff_seconds=0.01
    )
    yield models
    await models.close()


@pytest.fixture(scope="module")
def executor() -> Any:
    with ThreadPoolExecutor(8) as threads:
        yield threads


@pytest.fixture
def on_aws(aws: Aws, aws_endpoint: str, names: Names, executor: ThreadPoolExecutor) -> Any:
    subject = OnAws(aws, names, executor)
    yield subject
    subject.sqs.close()
    subject.lambda_.close()


@pytest.fixture
def pooled_on_aws(aws: Aws, aws_endpoint: str, names: Names, executor: ThreadPoolExecutor) -> Any:
    subject = OnAws(aws, names, executor, POOL)
    yield subject
    subject.sqs.close()
    subject.lambda_.close()


@pytest.fixture(params=["memory", "aws", "memory-pooled", "aws-pooled"])
async def subject(request: pytest.FixtureRequest, names: Names) -> AsyncIterator[Subject]:
    store, _, pooled = str(request.param).partition("-")
    if store == "memory":
        yield InMemory(names, POOL if pooled else None)
    else:
        yield request.getfixturevalue("pooled_on_aws" if pooled else "on_aws")
