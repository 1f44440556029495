"""Text files of the workspace as tools see them: UTF-8, of bounded size."""

from typing import Final

from worker_space.errors import ToolError
from worker_space.ports import FileInfo
from worker_space.tools.tool import ToolContext

__all__ = ["MAX_READ_BYTES", "MAX_WRITE_BYTES", "as_text", "no_such_file", "read_text"]

MAX_READ_BYTES: Final = 8 << 20
MAX_WRITE_BYTES: Final = 1 << 20


async def read_text(context: ToolContext, path: str, *, limit: int = MAX_READ_BYTES) -> tuple[FileInfo, str]:
    """A text file and its whole content.

    Raises:
        ToolError: There is no such file, it has more than `limit` bytes, or it is no UTF-8 text.
    """
    body = await context.files.read(context.tenant, path, length=limit + 1)
    if body is None:
        raise await no_such_file(context, path)
    if body.info.size > limit:
        raise ToolError(f"{path!r} has {body.info.size} bytes; this tool takes files of at most {limit}")
    text = as_text(body.data)
    if text is None:
        raise ToolError(f"{path!r} is a binary file ({body.info.size} bytes); tools read UTF-8 text only")
    return body.info, text


def as_text(data: bytes) -> str | None:
    """The text, or `None` for bytes that are no text: not UTF-8, or with NUL in it."""
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


async def no_such_file(context: ToolContext, path: str) -> ToolError:
    """The error that says what is there instead of the file."""
    page = await context.files.list(context.tenant, path, limit=1)
    if page.files or page.folders:
        return ToolError(f"{path!r} is a folder: name a file in it (list_directory shows them)")
    return ToolError(f"there is no file {path!r}: list_directory or find_files show what there is")
