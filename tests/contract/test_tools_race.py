"""Tools against S3, from threads with clients of their own: nobody's edit is lost, whoever wins."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from tests.stand_ins import Aws
from worker_space.adapters.aws import AwsCalls, make_client
from worker_space.adapters.patterns import Re2Patterns
from worker_space.adapters.s3 import S3Files
from worker_space.errors import ToolError
from worker_space.tenancy import Names, TenantContext
from worker_space.tools.catalogue import TOOLS, call, parse_arguments
from worker_space.tools.tool import EffectTool, ToolContext

pytestmark = pytest.mark.usefixtures("aws_endpoint")

THREADS = 6


@pytest.fixture
def in_threads(aws: Aws, names: Names) -> Callable[[Callable[[ToolContext, int], Any]], list[Any]]:
    """Runs an async function once in each of some threads, all starting together; returns results or exceptions."""
    tenant = TenantContext(f"u{uuid4().hex[:8]}", "p1")

    def run(function: Callable[[ToolContext, int], Any], threads: int = THREADS) -> list[Any]:
        together = threading.Barrier(threads)

        def one(number: int) -> Any:
            client = make_client("s3", region=aws.region, timeout_seconds=10.0)
            with ThreadPoolExecutor(4) as executor:
                files = S3Files(client, AwsCalls(executor), names, aws.bucket)
                context = ToolContext(tenant=tenant, files=files, patterns=Re2Patterns())
                together.wait(30)
                try:
                    return asyncio.run(function(context, number))
                except ToolError as error:
                    return error
                finally:
                    client.close()

        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, range(threads)))

    return run


async def _read(context: ToolContext, path: str) -> str:
    content: str = (await call(context, "read_file", {"path": path}, effect="r#0"))["content"]
    return content


def test_no_edit_of_racing_editors_is_lost(in_threads: Any) -> None:
    rounds = 5

    async def create(context: ToolContext, number: int) -> None:
        await call(context, "write_file", {"path": "log", "content": "end\n"}, effect="c#0")

    async def edit(context: ToolContext, number: int) -> int:
        refused = 0
        for turn in range(rounds):
            for attempt in range(200):
                arguments = {"path": "log", "old_text": "end\n", "new_text": f"{number}-{turn}\nend\n"}
                try:
                    await call(context, "edit_file", arguments, effect=f"t{number}#{turn}.{attempt}")
                    break
                except ToolError:
                    refused += 1
            else:
                raise AssertionError("never won")
        return refused

    async def lines(context: ToolContext, number: int) -> list[str]:
        return (await _read(context, "log")).splitlines()

    in_threads(create, 1)
    refused = in_threads(edit)
    assert sum(refused) > 0, "the race did not take place"
    (left,) = in_threads(lines, 1)
    assert sorted(left) == sorted(["end", *(f"{number}-{turn}" for number in range(THREADS) for turn in range(rounds))])


def test_of_racing_moves_to_one_place_one_wins_and_no_content_is_lost(in_threads: Any) -> None:
    async def create(context: ToolContext, number: int) -> None:
        for index in range(THREADS):
            await call(context, "write_file", {"path": f"from/{index}", "content": f"{index}"}, effect=f"c#{index}")

    async def move(context: ToolContext, number: int) -> Any:
        return await call(context, "move_file", {"path": f"from/{number}", "new_path": "to"}, effect=f"m{number}#1")

    async def left(context: ToolContext, number: int) -> list[str]:
        found = await call(context, "find_files", {"pattern": "**"}, effect="r#0")
        return [await _read(context, file["path"]) for file in found["files"]]

    in_threads(create, 1)
    results = in_threads(move)
    assert sum(isinstance(result, dict) for result in results) == 1
    (contents,) = in_threads(left, 1)
    assert sorted(contents) == [str(index) for index in range(THREADS)]


def test_a_move_and_an_edit_of_the_same_file_keep_the_edit(in_threads: Any) -> None:
    async def create(context: ToolContext, number: int) -> None:
        await call(context, "write_file", {"path": "a", "content": "start"}, effect="c#0")
        await context.files.delete(context.tenant, "b")

    async def race(context: ToolContext, number: int) -> Any:
        if number:
            return await call(
                context,
                "edit_file",
                {"path": "a", "old_text": "start", "new_text": "edited"},
                effect=f"e{uuid4().hex}#1",
            )
        return await call(context, "move_file", {"path": "a", "new_path": "b"}, effect=f"m{uuid4().hex}#1")

    async def left(context: ToolContext, number: int) -> dict[str, str]:
        found = await call(context, "find_files", {"pattern": "**"}, effect="r#0")
        return {file["path"]: await _read(context, file["path"]) for file in found["files"]}

    for _ in range(10):
        in_threads(create, 1)
        _, edited = in_threads(race, 2)
        (contents,) = in_threads(left, 1)
        if isinstance(edited, dict):
            assert "edited" in contents.values()
        else:
            assert contents == {"b": "start"}


def test_racing_performers_of_one_planned_call_make_one_change(in_threads: Any) -> None:
    """A zombie and its successor: the same task, the same step, the same mark."""
    tool = TOOLS["move_file"]
    assert isinstance(tool, EffectTool)
    arguments = parse_arguments(tool, {"path": "a", "new_path": "b"})
    intents: list[Any] = []

    async def plan(context: ToolContext, number: int) -> None:
        await call(context, "write_file", {"path": "a", "content": "x"}, effect="c#0")
        intents.append(await tool.plan(context, arguments))

    async def perform(context: ToolContext, number: int) -> Any:
        return await tool.perform(context, arguments, intents[0], effect="task_1#2", recovering=number > 0)

    in_threads(plan, 1)
    results = in_threads(perform)
    assert all(result == results[0] and isinstance(result, dict) for result in results)
