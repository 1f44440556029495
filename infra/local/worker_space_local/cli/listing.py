"""Commands that list or change single things of a project."""

from worker_space_local.cli.screen import clean, clock, one_line, say, seconds, table
from worker_space_local.client import Client, ClientError, find_connection, segment


def choose_project(client: Client, project: str | None) -> str:
    """The project a command is about: the one named, else the only one.

    Raises:
        ClientError: None was named, and there is none or more than one.
    """
    if project is not None:
        return project
    found = [str(entry["id"]) for entry in client.items("")]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ClientError("you have no project yet: make one of a folder with `worker-space push DIR`")
    raise ClientError(f"you have {len(found)} projects: choose with --project ({', '.join(found[:10])})")


def agents(project: str | None, user: str) -> None:
    """Print a project's agents."""
    with Client(find_connection(user)) as client:
        project = choose_project(client, project)
        rows = [
            (str(a["name"]), str(a["model"]), str(a["max_concurrency"]), ", ".join(a["tools"]) or "-", str(a["id"]))
            for a in client.items(f"{segment(project)}/agents/")
        ]
    if rows:
        table(("NAME", "MODEL", "AT ONCE", "TOOLS", "ID"), rows)
    else:
        say(f"project {project} has no agents: add one with `worker-space agents create FILE.json`")


def create_agent(project: str | None, user: str, agent: object) -> None:
    """Add an agent to a project."""
    with Client(find_connection(user)) as client:
        project = choose_project(client, project)
        made = client.post(f"{segment(project)}/agents/", agent)
    say(f"agent {one_line(str(made['name']))} ({made['id']}) is in project {project}")


def tasks(project: str | None, user: str, state: str | None, limit: int) -> None:
    """Print a project's newest tasks."""
    with Client(find_connection(user)) as client:
        project = choose_project(client, project)
        names = {str(a["id"]): str(a["name"]) for a in client.items(f"{segment(project)}/agents/")}
        parameters = {"state": state} if state else {}
        rows = []
        for task in client.items(f"{segment(project)}/tasks/", **parameters):
            took = "-"
            if isinstance(task.get("ended_at"), int):
                took = seconds(task["ended_at"] - task["created_at"])
            agent = names.get(str(task["agent_id"]), str(task["agent_id"]))
            error = (task.get("error") or {}).get("message", "")
            rows.append((str(task["id"]), task["state"], agent, clock(task["created_at"]), took, str(error)))
            if len(rows) == limit:
                break
    if rows:
        table(("ID", "STATE", "AGENT", "CREATED", "TOOK", "ERROR"), rows)
    else:
        say(f"project {project} has no {state + ' ' if state else ''}tasks")


def cancel_task(project: str | None, user: str, task_id: str) -> None:
    """Cancel a task and print what became of it."""
    with Client(find_connection(user)) as client:
        project = choose_project(client, project)
        task = client.post(f"{segment(project)}/tasks/{segment(task_id)}/cancel")
    state = clean(str(task["state"]))
    note = ", it stops before its next step" if state in {"submitted", "working"} else ""
    say(f"task {task_id} is {state}{note}")
