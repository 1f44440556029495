"""Conditional and partial requests for files: entity tags and byte ranges (RFC 9110, sections 8.8.3, 13 and 14)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from worker_space.api.problems import PreconditionFailed, RangeOutside
from worker_space.errors import InvalidRequest
from worker_space.ports import FileInfo

__all__ = ["ByteRange", "Preconditions", "check_change", "etag", "parse_range", "require_match", "unchanged"]

_TAG: Final = re.compile(r'(W/)?"([^"]*)"|([^",\s]+)')
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


def etag(info: FileInfo) -> str:
    """The file's version as an entity tag."""
    return f'"{info.version}"'


def _tags(header: str, *, weak: bool) -> set[str]:
    """The versions a header lists; without `weak`, weak tags match nothing. Quotes may be missing."""
    return {bare or quoted for prefix, quoted, bare in _TAG.findall(header) if weak or not prefix}


@dataclass(frozen=True, slots=True)
class Preconditions:
    """`If-Match` and `If-None-Match` of a request that changes a file.

    Attributes:
        if_match: The header, if it was sent.
        if_none_match: Likewise; a change only takes `*`.
    """

    if_match: str | None
    if_none_match: str | None

    def check(self, info: FileInfo | None) -> tuple[str | None, bool]:
        """What the store is to make sure of when it changes the file: the version it must be at, and its absence.

        Raises:
            PreconditionFailed: It does not hold already.
            InvalidRequest: `If-None-Match` lists versions.
        """
        if self.if_none_match is not None:
            if self.if_none_match.strip() != "*":
                raise InvalidRequest("a change takes If-None-Match: * only, which means that no file may exist")
            if info is not None:
                raise PreconditionFailed(f"the file exists already, at version {info.version}")
            return None, True
        if self.if_match is None:
            return None, False
        if info is None:
            raise PreconditionFailed("there is no such file, so If-Match does not hold")
        require_match(info, self.if_match)
        return info.version, False


def check_change(headers: Mapping[str, str]) -> None:
    """Refuse what would not be done as it is asked for: the file would silently become another than the client means.

    Raises:
        InvalidRequest: The body is a part of the file or an encoding of it, or the condition is one by time.
    """
    if "content-range" in headers:
        raise InvalidRequest("a file is stored whole: send all of it, without Content-Range")
    if headers.get("content-encoding", "identity").strip().casefold() not in {"", "identity"}:
        raise InvalidRequest("a file is stored as it is sent: send it without Content-Encoding")
    if "if-unmodified-since" in headers and "if-match" not in headers:
        raise InvalidRequest("several changes may fall into one second: send If-Match with the file's ETag instead")


def require_match(info: FileInfo, if_match: str | None) -> None:
    """Make sure that the file is at a version that `If-Match` names, if it was sent.

    Raises:
        PreconditionFailed: It is at another.
    """
    if if_match is not None and if_match.strip() != "*" and info.version not in _tags(if_match, weak=False):
        raise PreconditionFailed(f"the file is at version {info.version}: read it again")


def unchanged(info: FileInfo, if_none_match: str) -> bool:
    """Whether the client has this version already."""
    return if_none_match.strip() == "*" or info.version in _tags(if_none_match, weak=True)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A single range as asked for: from `first`, or the last `suffix` bytes; `last` is inclusive."""

    first: int | None
    last: int | None

    def resolve(self, size: int) -> tuple[int, int]:
        """First and last byte of a file of `size` bytes.

        Raises:
            RangeOutside: It begins behind the end.
        """
        if self.first is None:
            length = min(self.last or 0, size)
            first, last = size - length, size - 1
        else:
            first, last = self.first, size - 1 if self.last is None else min(self.last, size - 1)
        if first >= size:
            raise RangeOutside(size)
        return first, last


def parse_range(header: str | None) -> ByteRange | None:
    """The one byte range of a `Range` header; anything else, several ranges among it, is ignored as the RFC allows."""
    found = None if header is None else _RANGE.fullmatch(header.strip())
    if found is None or not any(found.groups()):
        return None
    first, last = (int(text) if text else None for text in found.groups())
    if first is not None and last is not None and last < first:
        return None
    return ByteRange(first, last)
