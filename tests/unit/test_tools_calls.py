"""How a call comes in: the tools a model is told of, its arguments, and the tools that need an agent's memory."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from worker_space.adapters.memory_files import MemoryFiles
from worker_space.adapters.patterns import Re2Patterns
from worker_space.errors import InvalidRequest, ToolError
from worker_space.ports import ContextEntry, ContextMatch, Files
from worker_space.tenancy import TenantContext
from worker_space.tools.catalogue import TOOLS, call, check_names, parse_arguments, tool_named, tool_specs
from worker_space.tools.tool import AgentMemory, EffectTool, Patterns, ReadingTool, Risk, ToolContext, together

NAMES = {
    *("read_file", "write_file", "edit_file", "list_directory", "find_files", "search_files"),
    *("delete_file", "move_file", "search_context", "remember"),
}


class Notes:
    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    async def search(self, query: str, limit: int) -> Sequence[ContextMatch]:
        return [
            ContextMatch(entry=ContextEntry(id=key, text=text, kind="note", created_at=5), score=0.123456)
            for key, text in self.kept.items()
            if query in text
        ][:limit]

    async def remember(self, text: str, entry_id: str) -> None:
        self.kept[entry_id] = text


def context(memory: AgentMemory | None = None) -> ToolContext:
    files: Files = MemoryFiles()
    patterns: Patterns = Re2Patterns()
    return ToolContext(tenant=TenantContext("u1", "p1"), files=files, patterns=patterns, memory=memory)


def test_every_tool_is_in_the_catalogue_under_its_name() -> None:
    assert set(TOOLS) == NAMES
    assert all(tool.name == name for name, tool in TOOLS.items())


def test_risk_levels_say_what_a_tool_can_do() -> None:
    risks = {name: tool.risk for name, tool in TOOLS.items()}
    assert {name for name, risk in risks.items() if risk is Risk.DELETING} == {"delete_file", "move_file"}
    assert {name for name, risk in risks.items() if risk is Risk.WRITING} == {"write_file", "edit_file", "remember"}
    assert all(isinstance(tool, ReadingTool) == (tool.risk is Risk.READING) for tool in TOOLS.values())


def test_a_model_is_told_every_argument_and_its_bounds() -> None:
    for spec in tool_specs(TOOLS):
        assert spec.description.endswith(".")
        assert spec.parameters["type"] == "object"
        assert spec.parameters["additionalProperties"] is False
        assert set(spec.parameters["required"]) <= set(spec.parameters["properties"])
        for name, schema in spec.parameters["properties"].items():
            assert schema["description"], (spec.name, name)
            assert "title" not in schema
        json.dumps(spec.model_dump(mode="json"))
    (spec,) = tool_specs(["read_file"])
    assert spec.parameters["required"] == ["path"]
    assert spec.parameters["properties"]["start_line"]["minimum"] == 1


def test_specifications_come_in_the_order_asked_for() -> None:
    assert [spec.name for spec in tool_specs(["write_file", "read_file"])] == ["write_file", "read_file"]


def test_unknown_tools_are_refused_with_the_known_ones() -> None:
    check_names([])
    check_names(TOOLS)
    with pytest.raises(InvalidRequest) as refused:
        check_names(["read_file", "rm_rf", "x" * 500])
    assert "'rm_rf'" in str(refused.value)
    assert "read_file, write_file" in str(refused.value)
    assert len(str(refused.value)) < 500
    with pytest.raises(InvalidRequest):
        tool_specs(["rm_rf"])


def test_an_agent_calls_only_the_tools_of_its_configuration() -> None:
    assert tool_named("read_file", ["read_file"]).name == "read_file"
    with pytest.raises(ToolError, match="there is no tool 'write_file': you have read_file"):
        tool_named("write_file", ["read_file"])
    with pytest.raises(ToolError, match="you have no tools"):
        tool_named("write_file", [])
    with pytest.raises(ToolError, match="there is no tool 'nope'"):
        tool_named("nope")
    with pytest.raises(ToolError):
        tool_named("nope", ["nope"])


@pytest.mark.parametrize(
    "raw", [{"path": "/a"}, '{"path": "./a"}', {"path": "a", "start_line": None, "end_line": None}]
)
def test_arguments_come_as_an_object_or_as_json(raw: Any) -> None:
    assert parse_arguments(TOOLS["read_file"], raw).model_dump() == {"path": "a", "start_line": 1, "end_line": None}


@pytest.mark.parametrize("raw", ["", "  ", "{}", {}])
def test_no_arguments_are_an_empty_object(raw: Any) -> None:
    assert parse_arguments(TOOLS["list_directory"], raw).model_dump() == {"path": "", "recursive": False, "limit": 200}


def test_arguments_survive_the_journal() -> None:
    calls: dict[str, dict[str, Any]] = {
        "read_file": {"path": "/a/./b", "end_line": 5},
        "list_directory": {"path": "/"},
        "move_file": {"path": "/a", "new_path": "./b"},
    }
    for name, raw in calls.items():
        first = parse_arguments(TOOLS[name], raw)
        assert parse_arguments(TOOLS[name], json.dumps(first.model_dump(mode="json"))) == first


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("{", "no valid JSON"),
        ("[1]", "must be a JSON object, not list"),
        ("null", "must be a JSON object, not NoneType"),
        ("[" * 100_000, "no valid JSON"),
        ('{"path": ' + "9" * 5_000 + "}", "no valid JSON"),
        ("x" * (17 << 20), "too large"),
        ('{"path": "\\ud800"}', "path: "),
        ({}, "path: Field required"),
        ({"path": 5}, "path: Input should be a valid string"),
        ({"path": None}, "path: Input should be a valid string"),
        ({"path": "../x"}, "path: '../x' is no workspace path: '..' is never allowed"),
        ({"path": "a" * 5_000}, "path: String should have at most 1024 characters"),
        ({"path": "a", "mode": "r"}, "mode: Extra inputs are not permitted"),
        ({"path": "a", "start_line": 0}, "start_line: Input should be greater than or equal to 1"),
        ({"path": "a", "user_id": "u2", "tenant": "x"}, "user_id: Extra inputs"),
        ({f"k{number}": 1 for number in range(50)}, r"\(and \d+ more\)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_wrong_arguments_are_explained_to_the_model(raw: Any, said: str) -> None:
    with pytest.raises(ToolError, match=said) as refused:
        parse_arguments(TOOLS["read_file"], raw)
    assert len(str(refused.value)) < 1_500


@pytest.mark.anyio
async def test_an_unknown_tool_is_the_models_mistake() -> None:
    with pytest.raises(ToolError, match="there is no tool 'rm'"):
        await call(context(), "rm", {}, effect="t#1")


@pytest.mark.anyio
async def test_a_note_is_kept_once_however_often_the_call_is_performed() -> None:
    notes = Notes()
    tool = TOOLS["remember"]
    assert isinstance(tool, EffectTool)
    arguments = parse_arguments(tool, {"text": "the sky is blue"})
    intent = await tool.plan(context(notes), arguments)
    for recovering in (False, True):
        result = await tool.perform(context(notes), arguments, intent, effect="task_1#4", recovering=recovering)
        assert result == {"remembered": True}
    assert notes.kept == {"task_1#4": "the sky is blue"}
    assert await call(context(notes), "search_context", {"query": "sky"}, effect="t#1") == {
        "matches": [{"text": "the sky is blue", "kind": "note", "created_at": 5, "score": 0.1235}]
    }


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "raw"), [("search_context", {"query": "x"}), ("remember", {"text": "x"})])
async def test_memory_tools_need_an_agent(name: str, raw: dict[str, Any]) -> None:
    with pytest.raises(ToolError, match="agent_id"):
        await call(context(), name, raw, effect="t#1")


@pytest.mark.anyio
async def test_one_failure_ends_the_calls_beside_it() -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("waits")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ToolError("no")

    with pytest.raises(ToolError, match="no"):
        await together(waits(), fails())
    assert ended == ["waits"]
    assert await together() == []
