"""A folder of this machine as a project: which files belong to it, and which project it is."""

import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from worker_space_local.cli.screen import clean, say, size
from worker_space_local.client import ClientError

MAX_FILE_BYTES: Final = 5 << 30
MAX_FILES: Final = 5_000
_FOLDERS: Final = frozenset({"node_modules", "__pycache__", "venv"})
_ENDINGS: Final = frozenset({".pyc", ".pyo"})
_TOLD: Final = 5
_MEMORY: Final = "folders.json"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What of a folder belongs to the project.

    Attributes:
        files: Files by their path in the project.
        skipped: Paths by the reason why they do not.
    """

    files: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, path: str) -> None:
        """Note a path that does not belong."""
        self.skipped.setdefault(reason, []).append(path)


def select(folder: Path, *, but: Path | None = None) -> Selection:
    """Choose what of a folder belongs to the project.

    Hidden files, virtual environments, `node_modules`, `__pycache__`, links, and files over 5 GiB do not.

    Args:
        folder: The folder to look through.
        but: A folder to leave out, such as the stack's own.

    Raises:
        ClientError: It is no folder, holds nothing to send, or more than 5,000 files.
    """
    if not folder.exists():
        raise ClientError(f"there is no folder {str(folder)!r}: give the folder of a project")
    if not folder.is_dir():
        raise ClientError(f"{str(folder)!r} is a file: give the folder it lies in")
    selection = Selection()
    unreadable: list[OSError] = []
    for where, folders, names in os.walk(folder, onerror=unreadable.append):
        here = Path(where)
        within = here.relative_to(folder)
        kept = []
        for name in sorted(folders):
            reason = _why_not_folder(here / name, but)
            if reason is None:
                kept.append(name)
            else:
                selection.skip(reason, f"{(within / name).as_posix()}/")
        folders[:] = kept
        for name in sorted(names):
            _consider(selection, here / name, (within / name).as_posix())
        if len(selection.files) > MAX_FILES:
            raise ClientError(f"{str(folder)!r} holds more than {MAX_FILES:,} files: choose a smaller folder")
    for error in unreadable:
        selection.skip("not readable", f"{error.filename}/")
    if not selection.files:
        left_out = " but what is left out (hidden, generated or too large)" if selection.skipped else ""
        raise ClientError(f"the folder {str(folder)!r} holds no files{left_out}: give the folder of a project")
    return selection


def left_out(name: str) -> str | None:
    """Why a path is never sent or got, if it is not: what belongs to tools of this machine, and may run there."""
    parts = name.split("/")
    if any(part in _FOLDERS for part in parts[:-1]) or Path(parts[-1]).suffix in _ENDINGS:
        return "generated"
    if any(part.startswith(".") and part not in {".", ".."} for part in parts):
        return "hidden"
    return None


def _why_not_folder(path: Path, but: Path | None) -> str | None:
    if path.is_symlink():
        return "a link"
    if path.name in _FOLDERS or (path / "pyvenv.cfg").exists():
        return "generated"
    if path.name.startswith("."):
        return "hidden"
    if but is not None and path.resolve() == but.resolve():
        return "the stack's own data"
    return None


def _consider(selection: Selection, path: Path, name: str) -> None:
    # macOS lists names decomposed; a project's paths are composed.
    stored = unicodedata.normalize("NFC", name)
    try:
        found = path.lstat()
    except OSError:
        selection.skip("not readable", name)
        return
    if path.name.startswith("."):
        selection.skip("hidden", name)
    elif path.suffix in _ENDINGS:
        selection.skip("generated", name)
    elif stat.S_ISLNK(found.st_mode):
        selection.skip("a link", name)
    elif not stat.S_ISREG(found.st_mode):
        selection.skip("no regular file", name)
    elif found.st_size > MAX_FILE_BYTES:
        selection.skip(f"over {size(MAX_FILE_BYTES)}", f"{name} ({size(found.st_size)})")
    elif stored in selection.files:
        selection.skip("the same name as another once composed (NFC)", name)
    else:
        selection.files[stored] = path


def tell_skipped(selection: Selection) -> None:
    """Say what was left out and why."""
    for reason, paths in sorted(selection.skipped.items()):
        say(f"  left out, {reason}: {some(paths)}")


def some(paths: Iterable[str]) -> str:
    """The first of some paths, and how many more there are."""
    names = [printable(path) for path in paths]
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(names[:_TOLD]) + more


def printable(name: str) -> str:
    """A path as a terminal can show it."""
    return clean(name.encode("utf-8", "backslashreplace").decode())


def project_id(folder: Path, state: Path) -> str:
    """The id of the project that a folder is sent to: its name, with a number where another folder has that name.

    Args:
        folder: The folder.
        state: The stack's data folder, which remembers which folder has which id.
    """
    resolved = str(folder.resolve())
    memory = state / _MEMORY
    known = _folders(memory)
    base = simple_id(folder.resolve().name)
    number, chosen = 1, base
    while known.get(chosen, resolved) != resolved:
        number += 1
        chosen = f"{base}-{number}"
    if chosen not in known:
        state.mkdir(parents=True, exist_ok=True)
        written = memory.with_suffix(".new")
        written.write_text(json.dumps({**known, chosen: resolved}, indent=1), encoding="utf-8")
        written.replace(memory)
    return chosen


def known_project(folder: Path, state: Path) -> str | None:
    """The id of the project that a folder was sent to, if it was."""
    resolved = str(folder.resolve())
    return next((name for name, where in _folders(state / _MEMORY).items() if where == resolved), None)


def _folders(memory: Path) -> dict[str, str]:
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
        return {str(key): str(value) for key, value in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise ClientError(f"{memory} cannot be read ({error}): delete it to start afresh") from error


def simple_id(name: str) -> str:
    """A folder's name as a project id: lower-case letters, digits and hyphens, at most 40."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].rstrip("-") or "project"
