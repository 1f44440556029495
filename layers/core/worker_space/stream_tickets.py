"""Tickets for event streams: a browser's EventSource sends no header, so its address must hold what opens the stream.

A ticket opens one session's stream for a minute. While the stream is followed, and so opened again and again at the
same address, its life goes on, but never beyond the token that it was made with, nor beyond an hour:

```
 made ──60 s── │ opened: 60 s more │ opened: 60 s more … │ the token's end, or an hour: nothing opens it any more
```

It names its user, because the table has no other way to find whose it is; kept is a digest of its secret.
"""

import base64
import binascii
import secrets
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, InvalidRequest, Unauthorized
from worker_space.ports import Records
from worker_space.records import Equals, Put, Update
from worker_space.tenancy import Key, TenantContext

__all__ = ["StreamTicket", "StreamTickets", "tenant_of"]

_OPEN_MS: Final = 60_000
_PROLONGED_MS: Final = 20_000
"""A stream is opened several times a minute; this often its ticket is written."""
_LIFE_MS: Final = 3_600_000
_SECRET_BYTES: Final = 32
_MOST_CHARACTERS: Final = 2_048


class StreamTicket(BaseModel):
    """A ticket; `expires_in` are the seconds within which the stream must be opened."""

    model_config = ConfigDict(frozen=True)

    ticket: str = Field(description="A secret: whoever has it reads the session's events.")
    expires_in: int


def tenant_of(ticket: str, project_id: str) -> TenantContext:
    """Whose ticket it claims to be, for a stream of this project; nothing is proven by that.

    Raises:
        Unauthorized: It is no ticket.
    """
    user, _ = _parts(ticket)
    try:
        return TenantContext(user, project_id)
    except InvalidRequest as error:
        raise _refused() from error


class StreamTickets:
    """Makes tickets and checks them."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def issue(self, tenant: TenantContext, session_id: str, *, until: int) -> StreamTicket:
        """A new ticket.

        Args:
            until: Epoch seconds at which the caller's own token ends.
        """
        now = now_ms()
        last = min(now + _LIFE_MS, until * 1000)
        first = min(now + _OPEN_MS, last)
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        item = {
            "session_id": session_id,
            "open_until": first,
            "last_until": last,
            "expires_at": last // 1000,
        }
        await self._records.write(tenant, Put(key=Key.stream_ticket(secret), item=item))
        user = base64.urlsafe_b64encode(tenant.user_id.encode()).decode().rstrip("=")
        return StreamTicket(ticket=f"{user}.{secret}", expires_in=max(0, first - now) // 1000)

    async def open(self, tenant: TenantContext, session_id: str, ticket: str) -> None:
        """Open the stream of a session once more.

        Raises:
            Unauthorized: The ticket is wrong, over, or of another stream; which of these is not told.
        """
        _, secret = _parts(ticket)
        key = Key.stream_ticket(secret)
        item = await self._records.get(tenant, key)
        now = now_ms()
        if item is None or item["session_id"] != session_id or item["open_until"] <= now:
            raise _refused()
        longer = min(now + _OPEN_MS, item["last_until"])
        if longer - item["open_until"] < _PROLONGED_MS:
            return
        unchanged = Equals("open_until", item["open_until"])
        try:
            await self._records.write(tenant, Update(key=key, set={"open_until": longer}, when=unchanged))
        except ConditionFailed:
            # Opened at the same time by another connection, or just erased: the next opening finds out.
            return


def _parts(ticket: str) -> tuple[str, str]:
    """The user's id and the secret."""
    user, dot, secret = ticket.partition(".")
    if not dot or not secret or len(ticket) > _MOST_CHARACTERS:
        raise _refused()
    try:
        padded = user.encode() + b"=" * (-len(user) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode(), secret
    except (binascii.Error, ValueError) as error:
        raise _refused() from error


def _refused() -> Unauthorized:
    return Unauthorized("the ticket does not open this stream here and now: get a new one")
