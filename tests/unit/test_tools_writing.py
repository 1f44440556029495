"""Tools with an effect: what they do, and that no death and no race between two of their steps loses anything."""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from worker_space.adapters.memory_files import MemoryFiles
from worker_space.adapters.patterns import Re2Patterns
from worker_space.errors import ToolError, Unavailable
from worker_space.ports import FileInfo, Files
from worker_space.tenancy import TenantContext
from worker_space.tools.catalogue import TOOLS, call, parse_arguments
from worker_space.tools.tool import EffectTool, JsonObject, ToolContext

pytestmark = pytest.mark.anyio

TENANT = TenantContext("u1", "p1")
STRANGER = TenantContext("u1", "p10")
EFFECT = "task_1#3"


def over(files: Files) -> ToolContext:
    return ToolContext(tenant=TENANT, files=files, patterns=Re2Patterns())


@pytest.fixture
def context() -> ToolContext:
    return over(MemoryFiles())


async def put(files: Files, path: str, content: str | bytes, effect: str | None = None) -> str:
    data = content.encode() if isinstance(content, str) else content
    return (await files.write(TENANT, path, data, effect=effect)).version


async def use(context: ToolContext, name: str, **arguments: Any) -> JsonObject:
    return await call(context, name, arguments, effect=EFFECT)


async def everything(files: Files) -> dict[str, bytes]:
    page = await files.list(TENANT, recursive=True)
    found = {}
    for info in page.files:
        body = await files.read(TENANT, info.path)
        assert body is not None
        found[info.path] = body.data
    return found


async def test_a_file_is_created_and_replaced(context: ToolContext) -> None:
    created = await use(context, "write_file", path="/src/new.py", content="Grüße\n")
    assert created == {"path": "src/new.py", "size": 8, "created": True, "version": created["version"]}
    replaced = await use(context, "write_file", path="src/new.py", content="")
    assert (replaced["created"], replaced["size"]) == (False, 0)
    assert await everything(context.files) == {"src/new.py": b""}
    info = await context.files.head(TENANT, "src/new.py")
    assert info is not None
    assert (info.effect, info.version) == (EFFECT, replaced["version"])


async def test_a_write_for_a_version_refuses_another(context: ToolContext) -> None:
    version = await put(context.files, "a", "1")
    await use(context, "write_file", path="a", content="2", version=version)
    with pytest.raises(ToolError, match="changed by somebody else"):
        await use(context, "write_file", path="a", content="3", version=version)
    with pytest.raises(ToolError, match="changed by somebody else"):
        await use(context, "write_file", path="b", content="3", version=version)
    assert await everything(context.files) == {"a": b"2"}


async def test_a_replaced_file_keeps_its_content_type(context: ToolContext) -> None:
    await context.files.write(TENANT, "a.html", b"<p>", content_type="text/html")
    await use(context, "write_file", path="a.html", content="<b>")
    await use(context, "edit_file", path="a.html", old_text="b", new_text="i")
    await use(context, "write_file", path="new.html", content="<b>")
    types = [await context.files.head(TENANT, path) for path in ("a.html", "new.html")]
    assert [info and info.content_type for info in types] == ["text/html", "text/plain; charset=utf-8"]


async def test_a_file_is_never_made_where_no_disk_could_hold_it(context: ToolContext) -> None:
    await put(context.files, "a", "file")
    await put(context.files, "b/c", "file")
    with pytest.raises(ToolError, match="'a' is a file"):
        await use(context, "write_file", path="a/x/y", content="")
    with pytest.raises(ToolError, match="'b' is a folder"):
        await use(context, "write_file", path="b", content="")
    with pytest.raises(ToolError, match="'a' is a file"):
        await use(context, "move_file", path="b/c", new_path="a/c")
    assert await everything(context.files) == {"a": b"file", "b/c": b"file"}


@pytest.mark.parametrize(
    "content",
    ["x" * ((1 << 20) + 1), "é" * (1 << 19) + "x", "a\0b", "\ud800"],
    ids=["long", "bytes", "nul", "surrogate"],
)
async def test_what_is_no_bounded_text_is_not_written(context: ToolContext, content: str) -> None:
    with pytest.raises(ToolError, match="wrong arguments for write_file: content"):
        await use(context, "write_file", path="a", content=content)
    await put(context.files, "a", "old")
    with pytest.raises(ToolError, match="wrong arguments for edit_file: new_text"):
        await use(context, "edit_file", path="a", old_text="old", new_text=content)
    assert await everything(context.files) == {"a": b"old"}


async def test_an_exact_piece_is_replaced(context: ToolContext) -> None:
    await put(context.files, "a", "one two\r\ntwo three\n")
    result = await use(context, "edit_file", path="a", old_text="two\r\n", new_text="2\n")
    info = await context.files.head(TENANT, "a")
    assert info is not None
    assert result == {"path": "a", "size": info.size, "version": info.version, "replaced": 1}
    assert await everything(context.files) == {"a": b"one 2\ntwo three\n"}
    await use(context, "edit_file", path="a", old_text="t", new_text="", expected_count=2)
    assert await everything(context.files) == {"a": b"one 2\nwo hree\n"}


@pytest.mark.parametrize(
    ("old_text", "count", "said"),
    [
        ("x", 1, "0 times in 'a', not 1; nothing was changed: read the file"),
        ("two", 1, "2 times in 'a', not 1; nothing was changed: give more of the text around it, or expected_count=2"),
        ("one", 2, "1 times in 'a', not 2"),
        ("one two\ntwo", 1, r"lines end in \\r\\n"),
    ],
)
async def test_an_edit_that_does_not_fit_changes_nothing(
    context: ToolContext, old_text: str, count: int, said: str
) -> None:
    await put(context.files, "a", "one two\r\ntwo")
    with pytest.raises(ToolError, match=said):
        await use(context, "edit_file", path="a", old_text=old_text, new_text="y", expected_count=count)
    assert await everything(context.files) == {"a": b"one two\r\ntwo"}


async def test_an_edit_must_not_blow_a_file_up(context: ToolContext) -> None:
    await put(context.files, "a", "x" * 10_000)
    with pytest.raises(ToolError, match="would have more than 1048576 bytes"):
        await use(context, "edit_file", path="a", old_text="x", new_text="y" * 1_000_000, expected_count=10_000)
    with pytest.raises(ToolError, match="would have more than 1048576 bytes"):
        await use(context, "edit_file", path="a", old_text="x", new_text="é" * 60, expected_count=10_000)


async def test_only_text_files_of_bounded_size_are_edited(context: ToolContext) -> None:
    await put(context.files, "binary", b"a\0b")
    await put(context.files, "large", "x" * ((1 << 20) + 1))
    for path, said in (("binary", "binary"), ("large", "at most 1048576"), ("missing", "there is no file")):
        with pytest.raises(ToolError, match=said):
            await use(context, "edit_file", path=path, old_text="a", new_text="b")


async def test_a_file_is_deleted(context: ToolContext) -> None:
    await put(context.files, "a/b", "x")
    assert await use(context, "delete_file", path="a/b") == {"path": "a/b", "deleted": True}
    assert await everything(context.files) == {}
    with pytest.raises(ToolError, match="there is no file 'a/b'"):
        await use(context, "delete_file", path="a/b")
    await put(context.files, "a/c", "x")
    with pytest.raises(ToolError, match="'a' is a folder"):
        await use(context, "delete_file", path="a")


async def test_a_file_is_moved(context: ToolContext) -> None:
    version = await put(context.files, "a", "x")
    assert await use(context, "move_file", path="a", new_path="b/c") == {
        "path": "b/c",
        "moved_from": "a",
        "size": 1,
        "version": version,
    }
    assert await everything(context.files) == {"b/c": b"x"}


async def test_a_move_never_replaces_a_file(context: ToolContext) -> None:
    await put(context.files, "a", "x")
    await put(context.files, "b", "y")
    with pytest.raises(ToolError, match="there is a file 'b' already"):
        await use(context, "move_file", path="a", new_path="b")
    with pytest.raises(ToolError, match="the same file"):
        await use(context, "move_file", path="a", new_path="./a")
    with pytest.raises(ToolError, match="there is no file 'c'"):
        await use(context, "move_file", path="c", new_path="d")
    assert await everything(context.files) == {"a": b"x", "b": b"y"}


@pytest.mark.parametrize("path", ["../p10/x", "/../x", "a/../../x", "%2e%2e/x", "．．/x", "~/x", ""])
async def test_no_writing_tool_leaves_the_project(context: ToolContext, path: str) -> None:
    await context.files.write(STRANGER, "x", b"theirs")
    await put(context.files, "a", "mine")
    calls: list[tuple[str, dict[str, Any]]] = [
        ("write_file", {"path": path, "content": "x"}),
        ("edit_file", {"path": path, "old_text": "theirs", "new_text": "x"}),
        ("delete_file", {"path": path}),
        ("move_file", {"path": path, "new_path": "b"}),
        ("move_file", {"path": "a", "new_path": path}),
    ]
    for name, arguments in calls:
        with pytest.raises(ToolError, match="is no workspace path"):
            await use(context, name, **arguments)
    body = await context.files.read(STRANGER, "x")
    assert body is not None
    assert body.data == b"theirs"
    assert await everything(context.files) == {"a": b"mine"}


# -- deaths and races between any two calls to the store -----------------------------------------------------


class Died(BaseException):
    """The worker's process is gone."""


@dataclass
class Watched:
    """Files that let something happen right before, or right after, one of their calls."""

    files: Files
    before: dict[int, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    after: dict[int, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    count: int = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.files, name)
        if not inspect.iscoroutinefunction(method):
            return method

        async def watched(*arguments: Any, **named: Any) -> Any:
            number = self.count
            self.count += 1
            if number in self.before:
                await self.before[number]()
            result = await method(*arguments, **named)
            if number in self.after:
                await self.after[number]()
            return result

        return watched


CASES: dict[str, tuple[dict[str, Any], dict[str, bytes]]] = {
    "create": ({"path": "new/a", "content": "ours"}, {"new/a": b"ours", "a": b"one two", "z": b"z"}),
    "replace": ({"path": "a", "content": "ours"}, {"a": b"ours", "z": b"z"}),
    "edit": ({"path": "a", "old_text": "two", "new_text": "2"}, {"a": b"one 2", "z": b"z"}),
    "delete": ({"path": "a"}, {"z": b"z"}),
    "move": ({"path": "a", "new_path": "b/c"}, {"b/c": b"one two", "z": b"z"}),
}
NAMES = {
    "create": "write_file",
    "replace": "write_file",
    "edit": "edit_file",
    "delete": "delete_file",
    "move": "move_file",
}


async def planned(case: str) -> tuple[EffectTool[Any], Any, MemoryFiles, JsonObject]:
    tool = TOOLS[NAMES[case]]
    assert isinstance(tool, EffectTool)
    files = MemoryFiles()
    # An earlier step of the same task has written the file: its mark must not be taken for this step's.
    await put(files, "a", "one two", effect="task_1#2")
    await put(files, "z", "z")
    arguments = parse_arguments(tool, CASES[case][0])
    return tool, arguments, files, await tool.plan(over(files), arguments)


async def perform(
    tool: EffectTool[Any], arguments: Any, files: Any, intent: JsonObject, *, recovering: bool
) -> JsonObject:
    return await tool.perform(over(files), arguments, intent, effect=EFFECT, recovering=recovering)


async def calls_of(case: str) -> int:
    tool, arguments, files, intent = await planned(case)
    watched = Watched(files)
    await perform(tool, arguments, watched, intent, recovering=False)
    return watched.count


async def dies() -> None:
    raise Died


def dying_at(number: int, moment: str, files: Files) -> Watched:
    return Watched(files, before={number: dies}) if moment == "before" else Watched(files, after={number: dies})


@pytest.mark.parametrize("case", CASES)
async def test_a_call_that_was_never_begun_can_be_recovered(case: str) -> None:
    tool, arguments, files, intent = await planned(case)
    await perform(tool, arguments, files, intent, recovering=True)
    assert await everything(files) == CASES[case][1]


@pytest.mark.parametrize("case", CASES)
async def test_a_death_at_any_point_is_recovered_to_the_same_result(case: str) -> None:
    tool, arguments, files, intent = await planned(case)
    undisturbed = await perform(tool, arguments, files, intent, recovering=False)
    assert await everything(files) == CASES[case][1]
    for number in range(await calls_of(case)):
        for moment in ("before", "after"):
            tool, arguments, files, intent = await planned(case)
            dying = dying_at(number, moment, files)
            with pytest.raises(Died):
                await perform(tool, arguments, dying, intent, recovering=False)
            for _ in range(2):
                assert await perform(tool, arguments, files, intent, recovering=True) == undisturbed
                assert await everything(files) == CASES[case][1]


@pytest.mark.parametrize("case", CASES)
async def test_a_change_whose_answer_is_lost_is_not_made_twice(case: str) -> None:
    async def fails() -> None:
        raise Unavailable("files", "timeout")

    for number in range(await calls_of(case)):
        tool, arguments, files, intent = await planned(case)
        with pytest.raises(Unavailable):
            await perform(tool, arguments, Watched(files, after={number: fails}), intent, recovering=False)
        await perform(tool, arguments, files, intent, recovering=True)
        assert await everything(files) == CASES[case][1]


@pytest.mark.parametrize("content", ["theirs", "one two", "ours"])
@pytest.mark.parametrize("where", ["new/a", "a", "b/c"])
@pytest.mark.parametrize("case", CASES)
async def test_nobody_elses_change_is_lost_at_any_point(case: str, where: str, content: str) -> None:
    for number in range(await calls_of(case) + 1):
        tool, arguments, files, intent = await planned(case)

        async def foreign(files: MemoryFiles = files) -> None:
            await put(files, where, content)

        try:
            await perform(tool, arguments, Watched(files, before={number: foreign}), intent, recovering=False)
        except ToolError:
            assert (await everything(files))[where] == content.encode()
        else:
            # Nobody came, or the very bytes that were planned for were put back: a version is a digest of them.
            undisturbed = number == await calls_of(case) or (where, content) == ("a", "one two")
            assert undisturbed or (await everything(files))[where] == content.encode()


@pytest.mark.parametrize("case", CASES)
async def test_nobody_elses_change_between_death_and_recovery_is_lost(case: str) -> None:
    for number in range(await calls_of(case)):
        for moment in ("before", "after"):
            for where in ("new/a", "a", "b/c"):
                tool, arguments, files, intent = await planned(case)
                dying = dying_at(number, moment, files)
                with pytest.raises(Died):
                    await perform(tool, arguments, dying, intent, recovering=False)
                await put(files, where, "theirs")
                with suppress(ToolError):
                    await perform(tool, arguments, files, intent, recovering=True)
                assert (await everything(files))[where] == b"theirs"


async def test_a_source_changed_in_the_middle_of_a_move_leaves_both_contents(context: ToolContext) -> None:
    tool, arguments, files, intent = await planned("move")

    async def foreign() -> None:
        await put(files, "a", "theirs")

    with pytest.raises(ToolError, match="its old content is at 'b/c', the new one still at 'a'"):
        await perform(tool, arguments, Watched(files, after={0: foreign}), intent, recovering=False)
    assert await everything(files) == {"a": b"theirs", "b/c": b"one two", "z": b"z"}


async def test_a_file_put_back_unchanged_after_a_death_is_kept() -> None:
    for case in ("delete", "move"):
        tool, arguments, files, intent = await planned(case)
        await perform(tool, arguments, files, intent, recovering=False)
        # The store tells whole seconds: an intent from a second ago stands for the wait.
        await put(files, "a", "one two")
        intent = {**intent, "modified_at": intent["modified_at"] - 1_000}
        with pytest.raises(ToolError, match="somebody else"):
            await perform(tool, arguments, files, intent, recovering=True)
        assert (await everything(files))["a"] == b"one two"


@pytest.mark.parametrize("case", CASES)
async def test_a_change_that_the_store_was_told_twice_counts_as_ours(case: str) -> None:
    """An adapter repeats a call after a passing error, and the first time may have worked."""

    class Repeating(MemoryFiles):
        async def write(self, *arguments: Any, **named: Any) -> FileInfo:
            await super().write(*arguments, **named)
            return await super().write(*arguments, **named)

        async def delete(self, *arguments: Any, **named: Any) -> None:
            await super().delete(*arguments, **named)
            await super().delete(*arguments, **named)

        async def copy(self, *arguments: Any, **named: Any) -> FileInfo:
            await super().copy(*arguments, **named)
            return await super().copy(*arguments, **named)

    tool, arguments, files, intent = await planned(case)
    undisturbed = await perform(tool, arguments, files, intent, recovering=False)
    tool, arguments, files, intent = await planned(case)
    files.__class__ = Repeating
    assert await perform(tool, arguments, files, intent, recovering=False) == undisturbed
    assert await everything(files) == CASES[case][1]


async def test_a_target_taken_since_the_plan_leaves_both_files() -> None:
    tool, arguments, files, intent = await planned("move")
    await put(files, "b/c", "theirs", effect="task_2#1")
    for recovering in (False, True):
        with pytest.raises(ToolError, match="there is a file 'b/c' already"):
            await perform(tool, arguments, files, intent, recovering=recovering)
    assert await everything(files) == {"a": b"one two", "b/c": b"theirs", "z": b"z"}


@pytest.mark.parametrize("theirs", [b"three", b"\xff\0"])
async def test_an_edit_of_a_file_changed_since_the_plan_says_so(theirs: bytes) -> None:
    tool, arguments, files, intent = await planned("edit")
    await put(files, "a", theirs)
    for recovering in (False, True):
        with pytest.raises(ToolError, match="changed by somebody else"):
            await perform(tool, arguments, files, intent, recovering=recovering)
    assert (await everything(files))["a"] == theirs
