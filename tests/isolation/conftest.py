"""A world of its own for every test."""

import pytest

from tests.isolation.world import World, make_world


@pytest.fixture
async def world() -> World:
    return await make_world()
