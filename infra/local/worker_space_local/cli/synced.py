"""What a folder and its project last had in common, so that a later comparison knows which side has changed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from worker_space_local.client import Connection, data_dir


class Synced:
    """By path: the version in the project and the MD5 of the file here, when both were the same.

    It is kept with the stack's data, not in the folder. When it is lost, files that differ count as changed here.

    Args:
        file: Where it is kept.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known = _read(file)

    @classmethod
    def of(cls, connection: Connection, user: str, project: str, folder: Path) -> Self:
        """The memory of one folder and one project, empty at first."""
        # The stack of this machine may listen somewhere else tomorrow; a deployed one takes the user from its token.
        side = ["local", user] if connection.local else [connection.api]
        name = hashlib.sha256(json.dumps([*side, project, str(folder.resolve())]).encode()).hexdigest()[:32]
        return cls(data_dir() / "synced" / f"{name}.json")

    def same(self, path: str, version: str, md5: str) -> bool:
        """Whether this version and this content are known to be one."""
        return self._known.get(path) == [version, md5]

    def content(self, path: str) -> str | None:
        """The MD5 of the file here, as both sides last had it."""
        known = self._known.get(path)
        return None if known is None else known[1]

    def note(self, path: str, version: str, md5: str) -> None:
        """Both sides have the same now."""
        self._known[path] = [version, md5]

    def save(self) -> None:
        """Write it down; the file is an old or the new one at every moment."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        written = self._file.with_suffix(".new")
        written.write_text(json.dumps(self._known), encoding="utf-8")
        written.replace(self._file)


def _read(file: Path) -> dict[str, list[str]]:
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, Mapping):
        return {}
    return {
        str(path): [str(part) for part in pair]
        for path, pair in found.items()
        if isinstance(pair, list) and len(pair) == 2
    }
