"""Reading an archive that comes from anybody: every line is checked before the first is used.

An archive is read twice, from its packed bytes: once to check all of it, once to store it line by line. Nothing of it
is ever written to disk, and none of its names is used as a path.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from pydantic import BaseModel, ValidationError

from worker_space.archive_findings import Findings
from worker_space.archive_lines import (
    FORMAT_VERSION,
    KINDS,
    MANIFEST,
    MAX_LINES,
    MAX_TEXT_BYTES,
    PROJECT,
    AgentLine,
    Line,
    Manifest,
    ProjectFacts,
)
from worker_space.errors import InvalidRequest, RequestError
from worker_space.tools.catalogue import check_asking

__all__ = ["Archive", "read_archive"]

_MAX_HEAD_BYTES: Final = 256 * 1024
_MAX_LINE_BYTES: Final = 20 * 1024 * 1024
_MAX_DEPTH: Final = 32
# DynamoDB keeps 38 digits, and nothing closer to zero than 10^-130.
_MAX_NUMBER: Final = 10**37
_LEAST: Final = 1e-100


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """An archive that was found to be in order.

    Attributes:
        data: Its packed bytes.
        found: What its lines add up to.
    """

    data: bytes
    project: ProjectFacts
    found: Findings

    def lines(self, name: str) -> Iterator[Line]:
        """The lines of one kind, by its file's name."""
        for _, line in _lines(ZipFile(BytesIO(self.data)), name, _Budget()):
            yield line


class _Budget:
    """What an archive may still unpack to: sizes that it states about itself count for nothing."""

    def __init__(self) -> None:
        self._bytes = MAX_TEXT_BYTES
        self._lines = MAX_LINES

    def take(self, size: int) -> None:
        self._bytes -= size
        if self._bytes < 0:
            raise InvalidRequest(f"the archive unpacks to more than {MAX_TEXT_BYTES} bytes")

    def line(self) -> None:
        self._lines -= 1
        if self._lines < 0:
            raise InvalidRequest(f"the archive has more than {MAX_LINES} lines")


def read_archive(data: bytes, *, check_agent: Callable[[AgentLine], None]) -> Archive:
    """Check an archive from its first byte to its last.

    Args:
        data: The zip file.
        check_agent: Raises `RequestError` for an agent that this deployment cannot run.

    Raises:
        InvalidRequest: It is none of ours or not in order; the message says what is wrong and in which line.
    """
    try:
        return _read(data, check_agent)
    except (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as error:
        # What zipfile raises for a damaged, cut, encrypted or exotic archive; its text may hold a hostile name.
        raise InvalidRequest("the archive is damaged or no zip file: send it as it was exported") from error


def _read(data: bytes, check_agent: Callable[[AgentLine], None]) -> Archive:
    zipped = ZipFile(BytesIO(data))
    _check_names(zipped)
    budget = _Budget()
    manifest = _head(zipped, MANIFEST, Manifest, budget)
    if manifest.version != FORMAT_VERSION:
        raise InvalidRequest(f"{MANIFEST}: version {manifest.version} is not known here: this is {FORMAT_VERSION}")
    project: ProjectFacts = _head(zipped, PROJECT, ProjectFacts, budget)
    with _told_where(PROJECT):
        check_asking(project.policy)
    found = Findings(check_agent)
    for name in KINDS:
        count = 0
        for count, line in _lines(zipped, name, budget):
            with _told_where(f"{name}, line {count}"):
                found.take(name, line)
        if manifest.counts.get(name, 0) != count:
            stated = manifest.counts.get(name, 0)
            raise InvalidRequest(f"{name} has {count} lines, and {MANIFEST} says {stated}: it was cut or changed")
    found.check_whole()
    return Archive(data=data, project=project, found=found)


@contextmanager
def _told_where(where: str) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        raise InvalidRequest(f"{where}: {error}") from error


def _check_names(zipped: ZipFile) -> None:
    names = [info.filename for info in zipped.infolist()]
    known = {MANIFEST, PROJECT, *KINDS}
    for info in zipped.infolist():
        if info.filename not in known:
            raise InvalidRequest(f"the archive holds {info.filename[:80]!r}, which is no part of an export")
        if info.flag_bits & 1 or info.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
            raise InvalidRequest(f"{info.filename} is encrypted or packed in an unusual way: send it as exported")
    if len(set(names)) != len(names):
        raise InvalidRequest("the archive holds a file twice")
    if missing := sorted({MANIFEST, PROJECT} - set(names)):
        raise InvalidRequest(f"the archive has no {missing[0]}: it is no export of a project")


def _head(zipped: ZipFile, name: str, kind: type[Any], budget: _Budget) -> Any:
    with zipped.open(name) as entry:
        data = entry.read(_MAX_HEAD_BYTES + 1)
    if len(data) > _MAX_HEAD_BYTES:
        raise InvalidRequest(f"{name} has more than {_MAX_HEAD_BYTES} bytes")
    budget.take(len(data))
    return _parsed(kind, data, name)


def _lines(zipped: ZipFile, name: str, budget: _Budget) -> Iterator[tuple[int, Line]]:
    """The lines of one file with their numbers, from 1; a missing file has none."""
    if name not in zipped.namelist():
        return
    with zipped.open(name) as entry:
        number = 0
        while data := entry.readline(_MAX_LINE_BYTES + 1):
            number += 1
            where = f"{name}, line {number}"
            budget.take(len(data))
            budget.line()
            if len(data) > _MAX_LINE_BYTES:
                raise InvalidRequest(f"{where}: it has more than {_MAX_LINE_BYTES} bytes")
            yield number, _parsed(KINDS[name], data, where)


def _parsed(kind: type[BaseModel], data: bytes, where: str) -> Any:
    try:
        values = json.loads(data.decode(), parse_constant=_no_constant)
        _check_storable(values, _MAX_DEPTH, "")
        return kind.model_validate(values)
    except _NotStorable as error:
        raise InvalidRequest(f"{where}: {error.at or 'it'}: {error} cannot be stored") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        at = ".".join(str(part)[:40] for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise InvalidRequest(f"{where}: {at or 'it'}: {message[:300]}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{where}: it is no JSON that can be stored") from error


class _NotStorable(Exception):
    """What the table cannot hold.

    Attributes:
        at: The place in its line.
    """

    def __init__(self, what: str, at: str) -> None:
        super().__init__(what)
        self.at = at.removeprefix(".")[:200]


def _no_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


def _check_storable(value: Any, depth: int, at: str) -> None:
    """Refuse what the table cannot hold: deep nesting, numbers out of its range, halves of surrogate pairs.

    Raises:
        _NotStorable: It holds such a thing.
    """
    if depth == 0:
        raise _NotStorable("what is nested so deep", at)
    if isinstance(value, dict):
        for name, part in value.items():
            if not _is_text(name):
                raise _NotStorable("a name with half a surrogate pair", at)
            _check_storable(part, depth - 1, f"{at}.{name[:40]}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            _check_storable(part, depth - 1, f"{at}.{number}")
    elif isinstance(value, str):
        if not _is_text(value):
            raise _NotStorable("half a surrogate pair", at)
    # Compared as they are: an integer may be too large to become a float.
    elif isinstance(value, (int, float)) and (
        not -_MAX_NUMBER <= value <= _MAX_NUMBER or (isinstance(value, float) and 0 < abs(value) < _LEAST)
    ):
        raise _NotStorable("a number out of range", at)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
