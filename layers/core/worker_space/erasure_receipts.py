"""Receipts of erasures: what was found, deleted and left, store by store."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

__all__ = ["ErasurePass", "ErasureReceipt", "ErasureState", "StoreCount"]

_KEPT: Final = (
    "Of the project stays a record without any name or content: its epoch and its last queue's number, so that a late"
    " worker finds itself outdated. Backups of the table that the deployment keeps (point-in-time recovery) run out by"
    " themselves, after at most 35 days. This receipt stays."
)


class ErasureState(StrEnum):
    """`clearing` (the first pass) → `waiting` (for the last possible late write) → `certified`."""

    CLEARING = "clearing"
    WAITING = "waiting"
    CERTIFIED = "certified"


class StoreCount(BaseModel):
    """What one pass did in one store.

    Attributes:
        found: What was there; of a pass that had to be begun again, at least so much.
        deleted: Of that.
        remaining: What the store answered when it was asked again at the pass's end; `None` when it did not answer.
    """

    model_config = ConfigDict(frozen=True)

    found: int = 0
    deleted: int = 0
    remaining: int | None = None


class ErasurePass(BaseModel):
    """One time through all stores: table, cache, queues, mappings, memory, contents, files (with all versions)."""

    model_config = ConfigDict(frozen=True)

    began_at: int
    ended_at: int | None = None
    stores: Mapping[str, StoreCount] = {}


class ErasureReceipt(BaseModel):
    """What became of a project's erasure; times in epoch milliseconds.

    Attributes:
        again_at: When the second pass begins, the one that certifies.
        certified_at: When all stores had answered, after the second pass, that nothing remains.
        kept: What is not erased, and why.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    project_id: str
    state: ErasureState
    requested_at: int
    again_at: int
    certified_at: int | None = None
    first_pass: ErasurePass | None = None
    second_pass: ErasurePass | None = None
    kept: str = _KEPT
