"""A user's two projects over memory adapters."""

import pytest

from tests.memory_stack import MemoryStack
from tests.mission.world import ALICE, make_stack, space_of
from worker_space import UserWorkerSpace


@pytest.fixture
async def stack() -> MemoryStack:
    return await make_stack()


@pytest.fixture
def space(stack: MemoryStack) -> UserWorkerSpace:
    return space_of(stack, ALICE)
