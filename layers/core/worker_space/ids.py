"""Ids made by this service: a kind, then 48 bits of time and 80 random bits, sortable by age."""

import secrets
import time
from typing import Final, Literal

__all__ = ["Kind", "is_id", "new_id", "new_project_id"]

Kind = Literal["agent", "approval", "erasure", "note", "plan", "session", "task"]

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH: Final = 26


def _digits() -> str:
    value = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[value >> shift & 31] for shift in range((_LENGTH - 1) * 5, -1, -5))


def new_id(kind: Kind) -> str:
    """A fresh id such as ``task_01k9…``: later ids of a kind sort after earlier ones, to the millisecond.

    The random part comes from the operating system, so environments restored from one snapshot never repeat it.
    """
    return f"{kind}_{_digits()}"


def new_project_id() -> str:
    """A fresh id for a project whose client names none; it is of the readable alphabet (`tenancy`)."""
    return f"p-{_digits()}"


def is_id(kind: Kind, value: str) -> bool:
    """Whether `value` has the form of an id of that kind; anything else names nothing."""
    head, _, digits = value.partition("_")
    return head == kind and len(digits) == _LENGTH and all(digit in _ALPHABET for digit in digits)
