"""Commands that talk with agents."""

import sys

from worker_space_local.cli.conversation import Follower, agent_of, send, tell_end
from worker_space_local.cli.listing import choose_project
from worker_space_local.cli.screen import say, warn
from worker_space_local.cli.telling import ORCHESTRATOR
from worker_space_local.client import Client, ClientError, Json, find_connection, segment


def ask(project: str | None, user: str, text: str, agent: str | None, session: str | None, timeout: float) -> int:
    """Send one message and print the answer; the exit status."""
    with Client(find_connection(user)) as client:
        project = choose_project(client, project)
        agent = agent_of(client, project, session, agent)
        task = send(client, project, text, agent, session)
        name = agent or name_of(client, project, task)
        task, name = Follower(client, project).follow(task, name, timeout=timeout)
        answered = tell_end(name, task)
    say(f"(session {task['session_id']})")
    return 0 if answered else 1


def chat(project: str | None, user: str, agent: str | None, session: str | None, timeout: float) -> None:
    """Send what is typed, line by line, until the input ends."""
    with Client(find_connection(user)) as client:
        project = choose_project(client, project)
        agent = agent_of(client, project, session, agent)
        if sys.stdin.isatty():
            import readline  # noqa: F401 - it gives input() history and editing

            say(f"Chat with {agent or 'the agents'} of project {project}. Ctrl-D ends it.")
        follower = Follower(client, project)
        while (line := _read()) is not None:
            if line.strip():
                session = _turn(client, follower, project, line, agent, session, timeout)
    if session is not None:
        warn(f"(go on with --session {session})")


def _read() -> str | None:
    try:
        return input("you> " if sys.stdin.isatty() else "")
    except (EOFError, KeyboardInterrupt):
        if sys.stdin.isatty():
            say()
        return None


def _turn(
    client: Client,
    follower: Follower,
    project: str,
    line: str,
    agent: str | None,
    session: str | None,
    timeout: float,
) -> str | None:
    """One message of a chat; a refused or lost one is told and does not end the chat."""
    task: Json | None = None
    try:
        task = send(client, project, line, agent, session)
        name = agent or name_of(client, project, task)
        ended, name = follower.follow(task, name, timeout=timeout)
        tell_end(name, ended)
    except ClientError as error:
        say(f"! {error}")
    except KeyboardInterrupt:
        say()
        if task is not None:
            _cancel(client, project, str(task["id"]))
    return str(task["session_id"]) if task is not None else session


def _cancel(client: Client, project: str, task_id: str) -> None:
    try:
        client.post(f"{segment(project)}/tasks/{segment(task_id)}/cancel")
        say("! canceled")
    except ClientError as error:
        say(f"! {error}")


def name_of(client: Client, project: str, task: Json) -> str:
    """What people call the agent of a task."""
    if task["agent_id"] == ORCHESTRATOR:
        return ORCHESTRATOR
    return str(client.get(f"{segment(project)}/agents/{segment(str(task['agent_id']))}").get("name", "agent"))
