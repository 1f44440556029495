"""What several files of contracts begin with: a provider of models, and the adapter that asks it."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.contract.model_servers import KEY, Provider, listening
from worker_space.adapters.model import PydanticAIModels


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
