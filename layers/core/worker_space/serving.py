"""For whom a request or a delivery is served, as whoever let it in has found out.

The stores' credentials are taken for them (`adapters.credentials`), and not for whomever a later call names. A call
that names somebody else's data by mistake is then refused by the store itself, without any check of ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from worker_space.tenancy import TenantContext, UserContext

__all__ = ["entitled", "serving", "serving_project"]

_SERVED: Final[ContextVar[TenantContext | UserContext | None]] = ContextVar("served", default=None)


@contextmanager
def serving(served: TenantContext | UserContext) -> Iterator[None]:
    """What happens inside happens for `served`: the verified token's user, or the tenant of a delivery."""
    before = _SERVED.set(served)
    try:
        yield
    finally:
        _SERVED.reset(before)


def serving_project(project_id: str) -> None:
    """Until the end of `serving` a user: what happens from here on is about this project of theirs."""
    served = _SERVED.get()
    if isinstance(served, UserContext):
        _SERVED.set(TenantContext(served.user_id, project_id))


def entitled(owner: TenantContext | UserContext) -> TenantContext | UserContext:
    """With whose rights a call about `owner`'s data is made; with `owner`'s where nobody in particular is served."""
    served = _SERVED.get()
    if served is None:
        return owner
    if isinstance(served, UserContext) and isinstance(owner, TenantContext):
        # The user is certain; which of their projects it is about, the request has still to say.
        return TenantContext(served.user_id, owner.project_id)
    return served
