"""Archives for tests: a project with something of every kind, and its archive as lines."""

import asyncio
import io
import json
import zipfile
from typing import Any

from tests.api.service import Service
from tests.memory_stack import calls, says
from worker_space.errors import ModelError

Lines = dict[str, list[Any]]


def opened(data: bytes) -> Lines:
    """What an archive holds, by file, without the time of the archive itself."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        found: Lines = {}
        for name in archive.namelist():
            text = archive.read(name).decode()
            found[name] = (
                [json.loads(text)] if name.endswith(".json") else [json.loads(line) for line in text.split("\n")[:-1]]
            )
        del found["manifest.json"][0]["exported_at"]
        # Memories have no order of their own.
        found["context.jsonl"].sort(key=lambda line: (line["agent_id"], line["id"]))
        return found


def packed(lines: Lines) -> bytes:
    """The other way round, with a time and true counts."""
    data = io.BytesIO()
    counts = {name: len(found) for name, found in lines.items() if name.endswith(".jsonl")}
    manifest = {**lines["manifest.json"][0], "exported_at": 1, "counts": counts}
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, found in {**lines, "manifest.json": [manifest]}.items():
            archive.writestr(name, "".join(json.dumps(line) + "\n" for line in found))
    return data.getvalue()


async def export(service: Service, project: str = "shop", *, user: str = "alice") -> bytes:
    answer = await service.call("GET", f"/my/projects/{project}/export", user=user)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    return answer.content


async def bring(service: Service, data: bytes, query: str = "?id=copy", *, user: str = "alice", **headers: str) -> Any:
    return await service.call("POST", f"/my/projects/import{query}", user=user, content=data, headers=headers)


async def say(service: Service, address: str, content: str, agent: str = "coder", **more: Any) -> Any:
    body = {"content": content, "target_agent": agent, **more}
    return await service.call("POST", address, json=body, headers={"Prefer": "wait=25"})


async def full(service: Service, user: str = "alice") -> str:
    """A project with something of every kind, and nothing open."""
    project = await service.project(user=user)
    call, model = service.call, service.stack.model
    await call("PATCH", f"{project}/", user=user, json={"name": "The shop", "policy": {"ask": ["delete_file"]}})
    await call("PATCH", f"{project}/", user=user, json={"limits": {"agents": 7}})
    checker = {"name": "checker", "system_prompt": "You check.", "metadata": {"role": "qa", "capabilities": ["check"]}}
    await call("POST", f"{project}/agents/", user=user, json={**checker, "temperature": 0.5})
    await call("PATCH", f"{project}/agents/checker", user=user, json={"enabled": False, "max_concurrency": 2})
    await call("DELETE", f"{project}/agents/planner", user=user)
    await call("PUT", f"{project}/files/notes/a.txt", user=user, content=b"alpha")
    await call("PUT", f"{project}/files/b.txt", user=user, content=b"beta")
    async with service.worker(user):
        headers = {"Prefer": "wait=25"}

        async def send(address: str, content: str) -> Any:
            body = {"content": content, "target_agent": "coder"}
            return await call("POST", address, user=user, json=body, headers=headers)

        first = await send(f"{project}/chat/", "hello")
        session = f"{project}/chat/{first.json()['session_id']}"
        model.script = [calls(("write_file", {"path": "c.txt", "content": "x" * 40_000})), says("y" * 40_000)]
        assert (await send(f"{session}/message/", "write " + "z" * 40_000)).status_code == 200
        model.script = [ModelError("no")]
        assert (await send(f"{session}/message/", "fail")).status_code == 502
        model.script = [calls(("delete_file", {"path": "b.txt"})), says("as you say")]
        asked = await send(f"{session}/message/", "delete b.txt")
        assert asked.status_code == 202, asked.text
        approval = (await call("GET", f"{project}/approvals/", user=user)).json()["items"][0]["id"]
        assert (
            await call("POST", f"{project}/approvals/{approval}/reject", user=user, json={"reason": "no"})
        ).is_success
        await until(service, asked.json()["href"], "completed", user=user)
        await _plan(service, project, user)
    await call("POST", f"{project}/agents/writer/context", user=user, json={"text": "The sky is blue."})
    await call("POST", f"{project}/chat/sessions/", user=user, json={"title": "An empty one"})
    return project


async def until(service: Service, address: str, state: str, *, user: str = "alice") -> None:
    """Wait until a task or plan is in a state."""
    for _ in range(2_000):
        found = (await service.call("GET", address, user=user)).json()["state"]
        if found == state:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"it is {found} and not {state}")


async def _plan(service: Service, project: str, user: str) -> None:
    """One plan that was carried out, with an output too long for the table, and one that is only proposed."""
    tasks = [
        {"key": "look", "agent": "coder", "instructions": "w" * 8_000},
        {"key": "tell", "agent": "writer", "instructions": "Tell.", "depends_on": ["look"]},
    ]
    service.stack.model.script = [says("v" * 40_000)]
    run = {"goal": "Look and tell", "execute": True, "tasks": tasks}
    made = await service.call("POST", f"{project}/plans/", user=user, json=run)
    assert made.status_code == 201, made.text
    address = f"{project}/plans/{made.json()['id']}"
    await until(service, address, "completed", user=user)
    later = {"goal": "Look later", "tasks": tasks[:1]}
    assert (await service.call("POST", f"{project}/plans/", user=user, json=later)).status_code == 201
