"""A run that asks, over the real adapters: what memory adapters accept, DynamoDB, SQS and S3 accept, too."""

import time
from dataclasses import replace
from typing import Any

from tests.functions.test_handlers import acknowledge, received
from tests.memory_stack import ScriptedModel, calls, says
from worker_space.bootstrap import Environment
from worker_space.composition import Parts, compose
from worker_space.consent import ApprovalState
from worker_space.messages import NewSession
from worker_space.ports import Lease
from worker_space.projects import NewProject, ProjectChanges
from worker_space.records import Update
from worker_space.tasks import Delivery
from worker_space.tenancy import Key, TenantContext, UserContext


def _work(environment: Environment, parts: Parts, tenant: TenantContext) -> None:
    (record,) = received(environment, tenant)["Records"]
    name = record["eventSourceARN"].rpartition(":")[2]
    lease = Lease(queue_url=f"https://sqs/{name}", receipt_handle=record["receiptHandle"])
    delivery = Delivery.model_validate_json(record["body"])
    environment.run(parts.worker.handle(delivery, lease, deadline=time.monotonic() + 60))
    acknowledge(environment, record)


def test_calls_are_asked_for_confirmed_edited_rejected_and_expire(environment: Environment) -> None:
    model = ScriptedModel()
    parts = compose(replace(environment.ports, model=model), environment.settings)
    tenant, services = TenantContext(f"a-{environment.settings.prefix}", "shop"), parts.services
    run: Any = environment.run
    run(services.projects.create(UserContext(tenant.user_id), NewProject(id="shop", name="Shop")))
    changes = ProjectChanges.model_validate({"policy": {"ask": ["deleting", "write_file"], "plan_tasks": 3}})
    assert run(services.projects.update(tenant, changes)).policy.ask == ("deleting", "write_file")
    for path in ("a.txt", "b.txt", "c.txt"):
        run(services.files.write(tenant, path, b"x"))
    session = run(services.collaborators.sessions.create(tenant, NewSession()))
    large: dict[str, object] = {"path": "large.txt", "content": "ü" * 40_000}
    model.script = [
        calls(("delete_file", {"path": "a.txt"}), ("delete_file", {"path": "b.txt"})),
        calls(("write_file", large), ("delete_file", {"path": "c.txt"})),
        says("done"),
    ]
    bus = services.collaborators.bus
    sent = run(bus.send_task(tenant, session_id=session.id, content="clean up", target_agent="coder"))
    approvals = services.approvals

    def asked() -> Any:
        _work(environment, parts, tenant)
        (found,), _ = run(approvals.page(tenant, limit=10, after=None, state=ApprovalState.PENDING))
        return found

    run(approvals.confirm(tenant, asked().id))
    run(approvals.reject(tenant, asked().id, reason="kept"))
    assert (third := asked()).truncated
    edited = {**large, "content": "é" * 40_000}
    assert run(approvals.confirm(tenant, third.id, arguments=edited)).edited_arguments == edited
    last = asked()
    run(services.records.write(tenant, Update(key=Key.approval(last.id), set={"expires_at": 1})))
    run(services.records.write(tenant, Update(key=Key.task(sent.task_id), set={"due_at": 1})))
    assert run(parts.sweeper.sweep(seconds=5))["expired"] == 1
    _work(environment, parts, tenant)
    task, answer = run(bus.result(tenant, sent))
    assert (task.state.value, answer["content"]) == ("completed", "done")
    files = run(services.files.list(tenant, recursive=True)).files
    assert {file.path: file.size for file in files} == {"b.txt": 1, "c.txt": 1, "large.txt": 80_000}
    found, _ = run(approvals.page(tenant, limit=10, after=None))
    assert [each.state.value for each in found] == ["expired", "confirmed", "rejected", "confirmed"]
