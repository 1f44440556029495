"""`…/tasks/`: what the project's agents do and have done."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response

from worker_space.api.deps import EXISTING, ServicesOf, Space, TaskId
from worker_space.api.pages import Listing, PageAsked, encode
from worker_space.api.problems import documented
from worker_space.api.services import Services
from worker_space.errors import Conflict, NotFound
from worker_space.projects import SpaceState, no_project
from worker_space.records import Item
from worker_space.steering import task_of
from worker_space.steps import StepSummary, summaries
from worker_space.tasks import Task, TaskState
from worker_space.tenancy import Key, TenantContext

__all__ = ["TaskView", "router"]

router = APIRouter(tags=["tasks"], prefix="/my/projects/{project_id}/tasks")

_EXAMPLE: Final = {
    "id": "task_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "type": "message",
    "state": "completed",
    "session_id": "session_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "agent_id": "agent_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "payload": {"message": 0},
    "attempt": 1,
    "agent_version": 1,
    "steps": 2,
    "recall": "ok",
    "input_tokens": 812,
    "output_tokens": 64,
    "error": None,
    "created_at": 1795305600000,
    "started_at": 1795305600100,
    "ended_at": 1795305602000,
    "cancel_requested": False,
}
_STEP: Final = {
    "number": 0,
    "kind": "model",
    "at": 1795305600900,
    "tool_calls": [{"name": "read_file", "arguments": {"path": "main.py"}}],
    "results": [],
    "ms": 740,
}


class TaskView(Task):
    """A task with its answer, once it has completed."""

    answer: str | None = None


def _shown(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


async def _item(services: Services, tenant: TenantContext, task_id: str) -> Item:
    """The task as stored; the project is looked at in the same call."""
    space, item = await services.records.get_many(tenant, [Key.space(), Key.task(task_id)])
    if space is None or space["state"] == SpaceState.DELETED.value:
        raise no_project(tenant.project_id)
    if item is None:
        raise NotFound(f"this project has no task {task_id[:80]!r}")
    return item


@router.get(
    "/",
    operation_id="list_tasks",
    summary="List the tasks",
    dependencies=[EXISTING],
    responses={200: _shown("A page.", {"items": [_EXAMPLE], "next": None}), **documented()},
)
async def list_tasks(
    space: Space,
    services: ServicesOf,
    page: PageAsked,
    state: Annotated[TaskState | None, Query(description="Only tasks in this state.")] = None,
) -> Listing[Task]:
    """The newest first. With `state`, a page may hold fewer tasks than its limit; `next` says whether to go on."""
    found = await services.records.query(
        space.tenant, Key.tasks(), limit=page.limit, after=page.after(Key.tasks()), descending=True
    )
    tasks = [task_of(item) for item in found.items]
    return Listing(items=[task for task in tasks if state in (None, task.state)], next=encode(found.after))


@router.get(
    "/{task_id}",
    operation_id="get_task",
    summary="Look at a task",
    responses={200: _shown("The task.", {**_EXAMPLE, "answer": "main.py defines …"}), **documented()},
)
async def get_task(task_id: TaskId, space: Space, services: ServicesOf) -> TaskView:
    """With its answer when it has completed, and its error when it has failed."""
    item = await _item(services, space.tenant, task_id)
    task = task_of(item)
    answer: str | None = None
    if task.state is TaskState.COMPLETED and "plan_key" in item:
        answer = await services.texts.read(space.tenant, item)
    elif task.state is TaskState.COMPLETED:
        message = await services.records.get(space.tenant, Key.message(task.session_id, item["number"] + 1))
        # The session, and the answer with it, may have been deleted since.
        answer = None if message is None else await services.texts.read(space.tenant, message)
    return TaskView(**task.model_dump(), answer=answer)


@router.get(
    "/{task_id}/steps/",
    operation_id="list_steps",
    summary="See what an agent did, step by step",
    responses={200: _shown("All steps.", {"items": [_STEP], "next": None}), **documented()},
)
async def list_steps(task_id: TaskId, space: Space, services: ServicesOf) -> Listing[StepSummary]:
    """Which tools were called on which paths; long arguments are cut, results' contents are left out."""
    await _item(services, space.tenant, task_id)
    return Listing(items=await summaries(services.ledger, services.texts, space.tenant, task_id))


@router.post(
    "/{task_id}/cancel",
    operation_id="cancel_task",
    summary="Cancel a task",
    dependencies=[EXISTING],
    responses={
        200: _shown("It is canceled.", {**_EXAMPLE, "state": "canceled"}),
        202: {
            **_shown("It was asked to stop.", {**_EXAMPLE, "state": "working", "cancel_requested": True}),
            "model": Task,
        },
        **documented(409),
    },
)
async def cancel_task(task_id: TaskId, space: Space, response: Response) -> Task:
    """A waiting task is canceled at once; a running one stops before its next model call or tool effect."""
    task = await space.cancel_task(task_id)
    if task.state.ended and task.state is not TaskState.CANCELED:
        raise Conflict(f"the task has ended already: it is {task.state.value}")
    if not task.state.ended:
        response.status_code = 202
    return task
