"""A service of its own for every test."""

import pytest

from tests.api.service import Service


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def project(service: Service) -> str:
    """The address of alice's project `shop`."""
    return await service.project()
