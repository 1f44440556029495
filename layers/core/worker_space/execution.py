"""Answering one message: to a named agent, waiting for the result as long as the gateway allows."""

from dataclasses import dataclass

from worker_space.bus import AgentBus, Sent
from worker_space.errors import InvalidRequest, NotFound
from worker_space.idempotency import Repeat
from worker_space.messages import MessageRequest, MessageResponse
from worker_space.tasks import Task, TaskState
from worker_space.tenancy import TenantContext
from worker_space.texts import Texts

__all__ = ["Execution", "Reply"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of a message so far.

    Attributes:
        response: The answer, if the task has completed.
        outcome: Why there is none, if it has ended otherwise.
    """

    task: Task
    response: MessageResponse | None = None
    outcome: str | None = None


class Execution:
    """Sends messages and waits for their answers."""

    def __init__(self, bus: AgentBus, texts: Texts) -> None:
        self._bus = bus
        self._texts = texts

    async def direct_execution(
        self,
        tenant: TenantContext,
        session_id: str,
        request: MessageRequest,
        *,
        wait_seconds: float,
        repeat: Repeat | None = None,
    ) -> Reply:
        """Send a message straight to the agent that it names.

        Args:
            wait_seconds: How long to wait for the answer; 0 returns at once.

        Raises:
            InvalidRequest: The message names no agent.
            RequestError: As `AgentBus.send_task`.
        """
        if request.target_agent is None:
            raise InvalidRequest("a direct message names its target_agent")
        return await self._answer(tenant, session_id, request, wait_seconds, repeat)

    async def orchestrated_execution(
        self,
        tenant: TenantContext,
        session_id: str,
        request: MessageRequest,
        *,
        wait_seconds: float,
        repeat: Repeat | None = None,
    ) -> Reply:
        """Let the orchestrator choose who answers, or plan, whichever agent the session names.

        Args:
            wait_seconds: How long to wait for the answer; 0 returns at once.

        Raises:
            InvalidRequest: The message names an agent.
            RequestError: As `AgentBus.send_task`.
        """
        if request.target_agent is not None:
            raise InvalidRequest("a message for the orchestrator names no target_agent")
        return await self._answer(tenant, session_id, request, wait_seconds, repeat, orchestrate=True)

    async def handle_message(
        self,
        tenant: TenantContext,
        session_id: str,
        request: MessageRequest,
        *,
        wait_seconds: float,
        repeat: Repeat | None = None,
    ) -> Reply:
        """Answer a message: by the agent that it or its session names, else as the orchestrator decides.

        Args:
            wait_seconds: How long to wait for the answer; 0 returns at once.

        Raises:
            RequestError: As `AgentBus.send_task`.
        """
        return await self._answer(tenant, session_id, request, wait_seconds, repeat)

    async def _answer(
        self,
        tenant: TenantContext,
        session_id: str,
        request: MessageRequest,
        wait_seconds: float,
        repeat: Repeat | None,
        *,
        orchestrate: bool = False,
    ) -> Reply:
        sent = await self._bus.send_task(
            tenant,
            session_id=session_id,
            content=request.content,
            target_agent=request.target_agent,
            orchestrate=orchestrate,
            on_busy=request.on_busy,
            repeat=repeat,
        )
        return await self.reply(tenant, sent, wait_seconds=wait_seconds)

    async def reply(self, tenant: TenantContext, sent: Sent, *, wait_seconds: float) -> Reply:
        """What has come, or comes within `wait_seconds`, of a message that was sent."""
        if wait_seconds > 0:
            task, answer = await self._bus.wait_for_result(tenant, sent, seconds=wait_seconds)
        else:
            task, answer = await self._bus.result(tenant, sent)
        if not task.state.ended:
            return Reply(task=task)
        text = "" if answer is None else await self._texts.read(tenant, answer)
        if task.state is not TaskState.COMPLETED:
            return Reply(task=task, outcome=text or f"the task was {task.state.value}")
        if answer is None:
            raise NotFound("the session of this task was deleted")
        return Reply(
            task=task,
            response=MessageResponse(
                id=task.id,
                content=text,
                agent_id=task.agent_id,
                mode="orchestrated" if task.mode == "orchestrated" else "direct",
                session_id=sent.session_id,
                created_at=answer["created_at"],
            ),
        )
