"""`…/plans/`: goals split into tasks of several agents."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from worker_space.api.deps import EXISTING, Idempotency, Preference, Preferred, ServicesOf, Space
from worker_space.api.pages import Listing, PageAsked, fitting
from worker_space.api.problems import documented, task_canceled, task_failed
from worker_space.api.services import Services
from worker_space.errors import NotFound, TooLarge
from worker_space.ids import is_id
from worker_space.messages import MAX_CONTENT_BYTES
from worker_space.plan_requests import PlanReply
from worker_space.plans import NewPlan, Plan, PlanState, PlanTask
from worker_space.tasks import Task, TaskState
from worker_space.tenancy import Key, TenantContext, project_address

__all__ = ["PlanAccepted", "PlanTaskView", "PlanView", "router"]

router = APIRouter(tags=["plans"], prefix="/my/projects/{project_id}/plans")

_ID: Final = "plan_01k9y3zj0c6f0m8d2h4v5w7x9q"
_TASK_ID: Final = "task_01k9y3zj0c6f0m8d2h4v5w7x9q"
_EXAMPLE: Final = {
    "id": _ID,
    "goal": "Review src/cart.py and write a README",
    "session_id": "session_01k9y3zj0c6f0m8d2h4v5w7x9q",
    "task_id": _TASK_ID,
    "state": "running",
    "version": 2,
    "tasks": [
        {
            "key": "review",
            "agent_id": "agent_01k9y3zj0c6f0m8d2h4v5w7x9q",
            "instructions": "Review src/cart.py",
            "depends_on": [],
            "state": "ready",
            "task_id": "task_01k9y3zj0c6f0m8d2h4v5w7x9r",
            "error": None,
            "task_state": "working",
        },
        {
            "key": "readme",
            "agent_id": "agent_01k9y3zj0c6f0m8d2h4v5w7x9r",
            "instructions": "Write a README",
            "depends_on": ["review"],
            "state": "waiting",
            "task_id": "task_01k9y3zj0c6f0m8d2h4v5w7x9s",
            "error": None,
            "task_state": "submitted",
        },
    ],
    "approval_id": None,
    "created_at": 1795305600000,
    "updated_at": 1795305600100,
    "ended_at": None,
}
_TASK: Final = {
    "id": _TASK_ID,
    "type": "message",
    "state": "submitted",
    "session_id": _EXAMPLE["session_id"],
    "agent_id": "orchestrator",
    "payload": {"message": 0},
    "mode": "orchestrated",
    "plan_id": _ID,
    "attempt": 0,
    "created_at": 1795305600000,
}


class PlanTaskView(PlanTask):
    """A plan's task, and how far the task on the bus is that runs it; its answer is at `…/tasks/{task_id}`."""

    task_state: TaskState | None = None


class PlanView(Plan):
    """A plan with the states of its tasks on the bus."""

    tasks: tuple[PlanTaskView, ...]


class PlanAccepted(BaseModel):
    """A request whose plan is still to come; `href` is where it will be."""

    model_config = ConfigDict(frozen=True)

    task: Task
    href: str


def _shown(description: str, example: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": example}}}


_ACCEPTED: Final = {
    **_shown("The plan is still to come.", {"task": _TASK, "href": f"/my/projects/shop/plans/{_ID}"}),
    "model": PlanAccepted,
}


async def _plan_id(plan_id: Annotated[str, Path(description="The plan's id.", examples=["plan_01k9…"])]) -> str:
    if not is_id("plan", plan_id):
        raise NotFound(f"this project has no plan {plan_id[:80]!r}")
    return plan_id


PlanId = Annotated[str, Depends(_plan_id)]


async def _bounded(new: NewPlan) -> NewPlan:
    if len(new.goal.encode()) > MAX_CONTENT_BYTES:
        raise TooLarge(f"a goal takes at most {MAX_CONTENT_BYTES} bytes: put the text in a file and name the file")
    return new


async def _viewed(services: Services, tenant: TenantContext, plan: Plan) -> PlanView:
    keys = [Key.task(task.task_id) for task in plan.tasks if task.task_id is not None]
    items = await services.records.get_many(tenant, keys) if keys else []
    states = {item["id"]: TaskState(item["state"]) for item in items if item is not None}
    tasks = tuple(PlanTaskView(**task.model_dump(), task_state=states.get(task.task_id or "")) for task in plan.tasks)
    return PlanView(**{**plan.model_dump(), "tasks": tasks})


async def _answer(
    services: Services, space: Space, reply: PlanReply, preference: Preference, request: Request, *, status: int
) -> Response:
    path = request.scope["path"]
    headers = {} if preference.applied is None else {"Preference-Applied": preference.applied}
    href = f"{project_address(space.tenant.project_id)}/plans/{reply.plan_id}"
    headers |= {"Location": href}
    if reply.plan is not None:
        view = await _viewed(services, space.tenant, reply.plan)
        return Response(view.model_dump_json(), status_code=status, headers=headers, media_type="application/json")
    if reply.task.state is TaskState.CANCELED:
        return task_canceled(reply.outcome or "the task was canceled", path, task_id=reply.task.id)
    if reply.task.state.ended:
        return task_failed(reply.outcome or "there is no plan", path, task=reply.task)
    accepted = PlanAccepted(task=reply.task, href=href)
    return Response(accepted.model_dump_json(), status_code=202, headers=headers, media_type="application/json")


@router.post(
    "/",
    status_code=201,
    operation_id="create_plan",
    summary="Make a plan for a goal",
    response_model=PlanView,
    responses={201: _shown("The plan.", _EXAMPLE), 202: _ACCEPTED, **documented(400, 402, 409, 413, 429, 502)},
)
async def create_plan(
    new: Annotated[NewPlan, Depends(_bounded)],
    space: Space,
    services: ServicesOf,
    idempotency: Idempotency,
    preference: Preferred,
    request: Request,
) -> Response:
    """The goal becomes a message of the session; the plan's answer, one of its answers.

    Without `tasks` the orchestrator makes the plan. It is proposed only, unless `execute` is true; a plan that is
    larger than the project's policy allows waits for the user's word even then.
    """
    reply = await services.plan_requests.create(
        space.tenant, new, wait_seconds=preference.seconds, repeat=idempotency.repeat
    )
    return await _answer(services, space, reply, preference, request, status=201)


@router.get(
    "/",
    operation_id="list_plans",
    summary="List the plans",
    dependencies=[EXISTING],
    responses={200: _shown("A page.", {"items": [_EXAMPLE], "next": None}), **documented()},
)
async def list_plans(
    space: Space,
    services: ServicesOf,
    page: PageAsked,
    state: Annotated[PlanState | None, Query(description="Only plans in this state.")] = None,
) -> Listing[Plan]:
    """The newest first. With `state`, or where plans are long, a page may hold fewer than its limit: see `next`."""
    after = page.after(Key.plans())
    plans: Sequence[Plan]
    plans, following = await services.plans.page(space.tenant, limit=page.limit, after=after)
    fits = fitting(plans, following, lambda plan: Key.plan(plan.id))
    return Listing(items=[plan for plan in fits.items if state in (None, plan.state)], next=fits.next)


@router.get(
    "/{plan_id}",
    operation_id="get_plan",
    summary="Look at a plan",
    dependencies=[EXISTING],
    responses={200: _shown("The plan.", _EXAMPLE), **documented()},
)
async def get_plan(plan_id: PlanId, space: Space, services: ServicesOf) -> PlanView:
    """With the states of its tasks: `state` in the plan, `task_state` on the bus."""
    return await _viewed(services, space.tenant, await services.plans.get(space.tenant, plan_id))


@router.post(
    "/{plan_id}/execute",
    operation_id="execute_plan",
    summary="Carry out a proposed plan",
    response_model=PlanView,
    dependencies=[EXISTING],
    responses={200: _shown("It runs.", _EXAMPLE), 202: _ACCEPTED, **documented(402, 409, 429, 502)},
)
async def execute_plan(
    plan_id: PlanId,
    space: Space,
    services: ServicesOf,
    idempotency: Idempotency,
    preference: Preferred,
    request: Request,
) -> Response:
    """Its answer comes as a message of its session. If the plan waits for the user's word, this confirms it."""
    reply = await services.plan_requests.execute(
        space.tenant, plan_id, wait_seconds=preference.seconds, repeat=idempotency.repeat(f"plan-execute:{plan_id}")
    )
    return await _answer(services, space, reply, preference, request, status=200)


@router.post(
    "/{plan_id}/cancel",
    operation_id="cancel_plan",
    summary="Stop a plan",
    dependencies=[EXISTING],
    responses={
        200: _shown("It is canceled.", {**_EXAMPLE, "state": "canceled"}),
        202: {**_shown("It was asked to stop.", _EXAMPLE), "model": PlanView},
        **documented(409),
    },
)
async def cancel_plan(plan_id: PlanId, space: Space, services: ServicesOf, response: Response) -> PlanView:
    """What waits is canceled at once; tasks that run stop before their next model call or tool effect."""
    plan = await services.plan_requests.cancel(space.tenant, plan_id)
    if not plan.state.ended:
        response.status_code = 202
    return await _viewed(services, space.tenant, plan)


@router.post(
    "/{plan_id}/tasks/{key}/retry",
    operation_id="retry_plan_task",
    summary="Try a task of an ended plan again",
    response_model=PlanView,
    dependencies=[EXISTING],
    responses={200: _shown("The plan runs again.", _EXAMPLE), 202: _ACCEPTED, **documented(402, 409, 429, 502)},
)
async def retry_plan_task(
    plan_id: PlanId,
    key: Annotated[str, Path(description="The task's key in the plan.", examples=["review"])],
    space: Space,
    services: ServicesOf,
    idempotency: Idempotency,
    preference: Preferred,
    request: Request,
) -> Response:
    """What failed because of it runs again, too, under new task ids; a new answer is composed in the session.

    409 while the plan runs, when the task has completed, and when what it depends on has not.
    """
    repeat = idempotency.repeat(f"plan-retry:{plan_id}:{key[:80]}")
    reply = await services.plan_requests.retry(
        space.tenant, plan_id, key, wait_seconds=preference.seconds, repeat=repeat
    )
    return await _answer(services, space, reply, preference, request, status=200)
