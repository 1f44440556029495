"""`WorkerSpaceManager`: hands out worker spaces, one per (user, project) and invocation."""

from worker_space.cleanup import CleanupReport
from worker_space.space import Collaborators, UserWorkerSpace
from worker_space.tenancy import TenantContext

__all__ = ["WorkerSpaceManager"]


class WorkerSpaceManager:
    """Lives as long as one invocation or request; if it lived longer, it would carry tenants from one to the next."""

    def __init__(self, parts: Collaborators) -> None:
        self._parts = parts
        self._spaces: dict[TenantContext, UserWorkerSpace] = {}

    def get_or_create(self, user_id: str, project_id: str) -> UserWorkerSpace:
        """The one worker space of that pair in this invocation; concurrent calls get the same one."""
        tenant = TenantContext(user_id, project_id)
        # `setdefault` on a dict is atomic, so racing callers agree on one value.
        return self._spaces.setdefault(tenant, UserWorkerSpace(tenant, self._parts))

    async def cleanup(self, user_id: str, project_id: str) -> CleanupReport:
        """Release the backend resources of that pair and of no other; the next `get_or_create` makes a new one.

        Raises:
            NotFound: The user has no such project.
        """
        space = self.get_or_create(user_id, project_id)
        try:
            return await space.cleanup()
        finally:
            self._spaces.pop(space.tenant, None)
