"""Repeating a request safely: an `Idempotency-Key` is stored in the very transaction that creates.

(draft-ietf-httpapi-idempotency-key-header.) A second request with the key finds what the first one made; with the
same key and another body it is refused. The record is kept for a day; DynamoDB's TTL deletes late, so its time is
compared here.
"""

import time
from dataclasses import dataclass
from typing import Final, Literal

from worker_space.errors import Conflict
from worker_space.ports import Owner, Records
from worker_space.records import Any_, AtMost, Item, Missing, Put
from worker_space.tenancy import Key

__all__ = ["Repeat", "find_repeat", "remember"]

_DAY: Final = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """A request that may come again.

    Attributes:
        kind: What it creates, so that one key may be used once for each kind of request.
        key: The client's key.
        fingerprint: A digest of the request's body.
        scope: Whose keys it is compared with: the project's, or the user's (for projects themselves).
    """

    kind: str
    key: str
    fingerprint: str
    scope: Literal["tenant", "user"] = "tenant"

    @property
    def place(self) -> Key:
        """Where the record of the key is kept."""
        return Key.idempotency(self.kind, self.key, self.scope)

    def same(self, stored: Item) -> str:
        """What the first request with this key made.

        Raises:
            Conflict: The key was used with another body.
        """
        if stored["fingerprint"] != self.fingerprint:
            raise Conflict("this Idempotency-Key was used with another body: use a new key for a new request")
        return str(stored["made"])


def remember(repeat: Repeat, made: str) -> Put:
    """The write that keeps the key; its condition fails when the key is known and not expired."""
    now = int(time.time())
    return Put(
        key=repeat.place,
        item={"made": made, "fingerprint": repeat.fingerprint, "expires_at": now + _DAY},
        when=Any_(Missing("sk"), AtMost("expires_at", now)),
    )


async def find_repeat(records: Records, owner: Owner, repeat: Repeat) -> str | None:
    """What the first request with this key made, or `None` when this is the first.

    Raises:
        Conflict: The key was used with another body.
    """
    stored = await records.get(owner, repeat.place)
    if stored is None or stored["expires_at"] <= int(time.time()):
        return None
    return repeat.same(stored)
