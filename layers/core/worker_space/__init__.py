"""Worker Space: isolated spaces of AI agents, one for each (user, project) pair."""

from worker_space.agents import Agent, AgentChanges, AgentConfig
from worker_space.errors import WorkerSpaceError
from worker_space.manager import WorkerSpaceManager
from worker_space.messages import MessageRequest, MessageResponse
from worker_space.settings import Settings
from worker_space.space import UserWorkerSpace
from worker_space.tasks import Task, TaskState
from worker_space.tenancy import TenantContext, UserContext

__all__ = [
    "Agent",
    "AgentChanges",
    "AgentConfig",
    "MessageRequest",
    "MessageResponse",
    "Settings",
    "Task",
    "TaskState",
    "TenantContext",
    "UserContext",
    "UserWorkerSpace",
    "WorkerSpaceError",
    "WorkerSpaceManager",
]
