"""Glob patterns over workspace paths, matched in time linear in pattern and path."""

import fnmatch
import re
from collections.abc import Callable

__all__ = ["glob_matcher"]


def glob_matcher(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether a path, relative to the searched folder, matches.

    `*`, `?` and `[…]` match within a segment, `**` matches any number of segments. A pattern without `/` matches a
    file's name at any depth; one with `/` the whole path. A trailing `/` means everything below.
    """
    anchored = "/" in pattern
    if pattern.endswith("/"):
        pattern += "**"
    parts = [part for part in pattern.removeprefix("/").split("/") if part != "."]
    tests: list[Callable[[str], object] | None] = [] if anchored else [None]
    for part in parts:
        if part != "**":
            tests.append(re.compile(fnmatch.translate(part)).match)
        elif not tests or tests[-1] is not None:
            tests.append(None)

    def matches(path: str) -> bool:
        # Which prefixes of the pattern match the segments read so far: each step looks at every part once.
        reached = _skip({0}, tests)
        for segment in path.split("/"):
            following: set[int] = set()
            for index in reached:
                if index == len(tests):
                    continue
                test = tests[index]
                if test is None:
                    following.add(index)
                elif test(segment):
                    following.add(index + 1)
            reached = _skip(following, tests)
            if not reached:
                return False
        return len(tests) in reached

    return matches


def _skip(reached: set[int], tests: list[Callable[[str], object] | None]) -> set[int]:
    """`**` also matches no segment at all."""
    return reached | {index + 1 for index in reached if index < len(tests) and tests[index] is None}
