"""Tools that take files from where they are: `delete_file` and `move_file`.

A move is a conditional copy, marked with the call's effect, and then a conditional delete of the source. Every point
in between can be recovered from: the marked copy says that the first half is done.
"""

from typing import Final

from pydantic import Field

from worker_space.errors import ConditionFailed, ToolError
from worker_space.tools.textfile import no_such_file
from worker_space.tools.tool import Arguments, EffectTool, FilePath, JsonObject, Risk, ToolContext
from worker_space.tools.writing import changed, check_new_path

__all__ = ["DELETE_FILE", "MOVE_FILE", "DeleteFile", "MoveFile"]

# A copy must end within the store's deadline.
_MAX_MOVED_BYTES: Final = 100 << 20


# -- delete_file ---------------------------------------------------------------------------------------------


class DeleteFile(Arguments):
    """A file to delete."""

    path: FilePath = Field(description="The file to delete, relative to the project's root")


async def _plan_existing(context: ToolContext, path: str) -> JsonObject:
    info = await context.files.head(context.tenant, path)
    if info is None:
        raise await no_such_file(context, path)
    return {"version": info.version, "modified_at": info.modified_at, "size": info.size}


async def _plan_delete(context: ToolContext, arguments: DeleteFile) -> JsonObject:
    return await _plan_existing(context, arguments.path)


async def _take_away(context: ToolContext, path: str, intent: JsonObject, *, recovering: bool) -> bool:
    """Delete the planned version; False when the file is somebody else's by now. Gone already counts as done."""
    if recovering:
        # A version is a digest of the content: only the time tells a file that was put back unchanged after the
        # former attempt had deleted it.
        info = await context.files.head(context.tenant, path)
        if info is None:
            return True
        if (info.version, info.modified_at) != (intent["version"], intent["modified_at"]):
            return False
    try:
        await context.files.delete(context.tenant, path, if_version=intent["version"])
    except ConditionFailed:
        return await context.files.head(context.tenant, path) is None
    return True


async def _delete(
    context: ToolContext, arguments: DeleteFile, intent: JsonObject, *, effect: str, recovering: bool
) -> JsonObject:
    if not await _take_away(context, arguments.path, intent, recovering=recovering):
        raise changed(arguments.path)
    return {"path": arguments.path, "deleted": True}


DELETE_FILE: Final = EffectTool(
    name="delete_file",
    description="Delete one file of the project.",
    arguments=DeleteFile,
    plan=_plan_delete,
    perform=_delete,
    risk=Risk.DELETING,
)


# -- move_file -----------------------------------------------------------------------------------------------


class MoveFile(Arguments):
    """A file and its new place."""

    path: FilePath = Field(description="The file to move or rename, relative to the project's root")
    new_path: FilePath = Field(description="Its new path; there must be no file yet")


def _taken(path: str) -> ToolError:
    return ToolError(f"there is a file {path!r} already; nothing was moved: choose another new_path")


async def _plan_move(context: ToolContext, arguments: MoveFile) -> JsonObject:
    if arguments.path == arguments.new_path:
        raise ToolError("path and new_path are the same file")
    intent = await _plan_existing(context, arguments.path)
    if intent["size"] > _MAX_MOVED_BYTES:
        raise ToolError(f"{arguments.path!r} has {intent['size']} bytes; at most {_MAX_MOVED_BYTES} can be moved")
    if await context.files.head(context.tenant, arguments.new_path):
        raise _taken(arguments.new_path)
    await check_new_path(context, arguments.new_path)
    return intent


async def _move(
    context: ToolContext, arguments: MoveFile, intent: JsonObject, *, effect: str, recovering: bool
) -> JsonObject:
    source, target = arguments.path, arguments.new_path
    try:
        moved = await context.files.copy(context.tenant, source, target, if_version=intent["version"], effect=effect)
    except ConditionFailed as error:
        # Also when a former attempt has copied already: then the target is there, with our mark.
        present = await context.files.head(context.tenant, target)
        if present is None:
            raise changed(source) from error
        if present.effect != effect:
            raise _taken(target) from error
        moved = present
    if not await _take_away(context, source, intent, recovering=recovering):
        # The copy stays: after a death it may be the only one of the old content.
        raise ToolError(
            f"{source!r} was changed by somebody else while it was moved: its old content is at {target!r}, "
            f"the new one still at {source!r}. Read both and delete the one that is not wanted"
        )
    return {"path": target, "moved_from": source, "size": moved.size, "version": moved.version}


MOVE_FILE: Final = EffectTool(
    name="move_file",
    description="Move or rename one file of the project. An existing file is never replaced.",
    arguments=MoveFile,
    plan=_plan_move,
    perform=_move,
    risk=Risk.DELETING,
)
