"""Tools that change files: `write_file` and `edit_file`, and what all changes have in common.

Every change is conditional on the version that `plan` read, so nobody else's edit is ever overwritten unseen, and
carries the call's `effect` as the object's metadata, so a call that is performed again finds its own work. The
mark is looked at in two places: first thing when recovering, and whenever the condition failed, because a change may
have happened although its answer never arrived.
"""

from typing import Final

from pydantic import Field, field_validator

from worker_space.errors import ConditionFailed, ToolError
from worker_space.ports import FileInfo
from worker_space.tools.textfile import MAX_WRITE_BYTES, read_text
from worker_space.tools.tool import Arguments, EffectTool, FilePath, JsonObject, ToolContext, together

__all__ = ["EDIT_FILE", "WRITE_FILE", "EditFile", "WriteFile", "changed", "check_new_path", "own"]

_TEXT: Final = "text/plain; charset=utf-8"


def _file_text(text: str) -> str:
    if "\0" in text:
        raise ValueError("a text file must not hold NUL characters")
    if (size := len(text.encode())) > MAX_WRITE_BYTES:
        raise ValueError(f"it has {size} bytes; a file written by a tool has at most {MAX_WRITE_BYTES}")
    return text


async def own(context: ToolContext, path: str, effect: str) -> FileInfo | None:
    """The file as this very call left it, if it did and nobody changed it since."""
    info = await context.files.head(context.tenant, path)
    return info if info is not None and info.effect == effect else None


def changed(path: str) -> ToolError:
    """The error for a file that is not at the planned version any more."""
    return ToolError(f"{path!r} was changed by somebody else meanwhile and was left alone: read it again, then decide")


async def _store(
    context: ToolContext, path: str, data: bytes, intent: JsonObject, *, effect: str, recovering: bool
) -> FileInfo:
    """Write `data` once under the intent's version."""
    if recovering and (done := await own(context, path, effect)):
        return done
    try:
        return await context.files.write(
            context.tenant,
            path,
            data,
            if_version=intent["version"],
            if_absent=intent["version"] is None,
            content_type=intent["content_type"],
            effect=effect,
        )
    except ConditionFailed as error:
        if done := await own(context, path, effect):
            return done
        raise changed(path) from error


# -- write_file ----------------------------------------------------------------------------------------------


class WriteFile(Arguments):
    """A file and its whole new content."""

    path: FilePath = Field(description="The file, relative to the project's root; folders need not exist")
    content: str = Field(max_length=MAX_WRITE_BYTES, description="The file's whole new content")
    version: str | None = Field(
        default=None,
        max_length=128,
        description="Only replace this version (from read_file), so that a change since then is not lost",
    )

    _bounded = field_validator("content")(_file_text)


async def _plan_write(context: ToolContext, arguments: WriteFile) -> JsonObject:
    info = await context.files.head(context.tenant, arguments.path)
    if arguments.version is not None and (info is None or info.version != arguments.version):
        raise changed(arguments.path)
    if info is None:
        await check_new_path(context, arguments.path)
        return {"version": None, "content_type": _TEXT}
    return {"version": info.version, "content_type": info.content_type or _TEXT}


async def _write(
    context: ToolContext, arguments: WriteFile, intent: JsonObject, *, effect: str, recovering: bool
) -> JsonObject:
    data = arguments.content.encode()
    info = await _store(context, arguments.path, data, intent, effect=effect, recovering=recovering)
    return {
        "path": arguments.path,
        "size": info.size,
        "created": intent["version"] is None,
        "version": info.version,
    }


async def check_new_path(context: ToolContext, path: str) -> None:
    """Refuse a new file where a folder is, or below a file.

    A store of objects would take `a` beside `a/b`; no disk can hold both, and the files live on disks, too. This is
    a courtesy, not a guarantee: racing writers can still make both.

    Raises:
        ToolError: The path cannot exist on a disk that holds the other files.
    """
    segments = path.split("/")
    parents = ["/".join(segments[:count]) for count in range(1, len(segments))]
    files = await together(*(context.files.head(context.tenant, parent) for parent in parents))
    for parent, info in zip(parents, files, strict=True):
        if info is not None:
            raise ToolError(f"{parent!r} is a file, so {path!r} cannot be made below it: choose another path")
    page = await context.files.list(context.tenant, path, limit=1)
    if page.files or page.folders:
        raise ToolError(f"{path!r} is a folder: choose a file in it, or another name")


WRITE_FILE: Final = EffectTool(
    name="write_file",
    description=(
        "Create a text file, or replace one as a whole. To change a part of a file use edit_file. "
        f"At most {MAX_WRITE_BYTES >> 20} MiB."
    ),
    arguments=WriteFile,
    plan=_plan_write,
    perform=_write,
)


# -- edit_file -----------------------------------------------------------------------------------------------


class EditFile(Arguments):
    """An exact replacement."""

    path: FilePath = Field(description="The file, relative to the project's root")
    old_text: str = Field(
        min_length=1,
        max_length=MAX_WRITE_BYTES,
        description="Text to replace, exactly as in the file, with enough around it to be found only once",
    )
    new_text: str = Field(max_length=MAX_WRITE_BYTES, description="Text to put in its place")
    expected_count: int = Field(
        default=1, ge=1, le=10_000, description="How often old_text is in the file; all are replaced (default 1)"
    )

    _bounded = field_validator("new_text")(_file_text)


def _replaced(arguments: EditFile, text: str) -> bytes:
    count = text.count(arguments.old_text)
    if count != arguments.expected_count:
        if count == 0:
            hint = "read the file and copy the text exactly"
            if "\r\n" in text and "\n" in arguments.old_text and "\r" not in arguments.old_text:
                hint = r"the file's lines end in \r\n: write them so in old_text and new_text"
        else:
            hint = f"give more of the text around it, or expected_count={count}"
        raise ToolError(
            f"old_text is {count} times in {arguments.path!r}, not {arguments.expected_count}; "
            f"nothing was changed: {hint}"
        )
    grown = len(text) + count * (len(arguments.new_text) - len(arguments.old_text))
    data = b"" if grown > MAX_WRITE_BYTES else text.replace(arguments.old_text, arguments.new_text).encode()
    if grown > MAX_WRITE_BYTES or len(data) > MAX_WRITE_BYTES:
        raise ToolError(f"{arguments.path!r} would have more than {MAX_WRITE_BYTES} bytes; nothing was changed")
    return data


async def _plan_edit(context: ToolContext, arguments: EditFile) -> JsonObject:
    info, text = await read_text(context, arguments.path, limit=MAX_WRITE_BYTES)
    _replaced(arguments, text)
    return {"version": info.version, "content_type": info.content_type or _TEXT}


async def _edit(
    context: ToolContext, arguments: EditFile, intent: JsonObject, *, effect: str, recovering: bool
) -> JsonObject:
    if not recovering or not (done := await own(context, arguments.path, effect)):
        body = await context.files.read(context.tenant, arguments.path, length=MAX_WRITE_BYTES)
        if body is None or body.info.version != intent["version"]:
            raise changed(arguments.path)
        data = _replaced(arguments, body.data.decode())
        done = await _store(context, arguments.path, data, intent, effect=effect, recovering=False)
    return {
        "path": arguments.path,
        "size": done.size,
        "version": done.version,
        "replaced": arguments.expected_count,
    }


EDIT_FILE: Final = EffectTool(
    name="edit_file",
    description=(
        "Replace an exact piece of text in a file. Nothing is changed unless old_text is in the file exactly "
        "expected_count times."
    ),
    arguments=EditFile,
    plan=_plan_edit,
    perform=_edit,
)
