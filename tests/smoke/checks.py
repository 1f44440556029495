"""What is tried, in this order: each check takes what the ones before it have made."""

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.smoke.people import Person, SmokeError, expect, until

__all__ = ["CHECKS", "Stage", "clean_up"]

_METHODS: Final = ("get", "delete")
_IDS: Final = {
    "agent_id": "agent_00000000000000000000000000",
    "session_id": "session_00000000000000000000000000",
    "task_id": "task_00000000000000000000000000",
    "approval_id": "approval_00000000000000000000000000",
    "plan_id": "plan_00000000000000000000000000",
    "entry_id": "task_00000000000000000000000000",
    "path": "nothing-of-mine.md",
    "version": "7",
}
"""Ids of the right form that nobody has, by the names of the paths' parameters."""


@dataclass
class Stage:
    """Two users who know each other's ids, and a third without a token.

    Args:
        seconds: How long an answer may take: a queue that was just made is polled within a minute.
    """

    ann: Person
    bob: Person
    nobody: Person
    seconds: float
    shop: str = field(default_factory=lambda: f"smoke-{secrets.token_hex(4)}")
    secret: str = field(default_factory=lambda: f"MARKER{secrets.token_hex(8)}")
    ids: dict[str, str] = field(default_factory=dict)
    made: list[tuple[Person, str]] = field(default_factory=list)

    def make(self, person: Person, project: str, name: str) -> None:
        # Before it is asked for: an answer that got lost may have made it.
        self.made.append((person, project))
        person.call("POST", "/my/projects/", 201, json={"id": project, "name": name})

    @property
    def base(self) -> str:
        return f"/my/projects/{self.shop}"


def health(stage: Stage) -> None:
    """The API answers, and all that it stands on does"""
    stage.nobody.call("GET", "/health", 200)
    stage.nobody.call("GET", "/ready", 200)


def no_token(stage: Stage) -> None:
    """Without a valid token there is nothing but 401"""
    stage.nobody.call("GET", "/my/projects/", 401)
    for token in ("nonsense", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."):
        stage.nobody.call("GET", "/my/projects/", 401, headers={"authorization": f"Bearer {token}"})


def projects(stage: Stage) -> None:
    """Two users make a project of the same name, and each finds their own"""
    for person in (stage.ann, stage.bob):
        stage.make(person, stage.shop, f"smoke of {person.name}")
        person.call("POST", "/my/projects/", 409, json={"id": stage.shop, "name": "again"})
        expect(
            person.call("GET", f"{stage.base}/", 200)["name"] == f"smoke of {person.name}",
            f"{person.name} finds another's project",
        )


def files(stage: Stage) -> None:
    """A file is stored, read, and refused where it would leave the project"""
    stage.ann.call("PUT", f"{stage.base}/files/notes.md", 201, content=stage.secret.encode())
    expect(stage.ann.ask("GET", f"{stage.base}/files/notes.md").text == stage.secret, "the file has another content")
    stage.bob.call("GET", f"{stage.base}/files/notes.md", 404)
    outside = f"../{stage.shop}/notes.md"
    stage.bob.call("POST", f"{stage.base}/tools/read_file", 422, json={"path": outside})
    listed = stage.bob.call("POST", f"{stage.base}/tools/find_files", 200, json={"pattern": "**"})
    expect("notes.md" not in json.dumps(listed), "a search of Bob's project finds Ann's file")


def agents(stage: Stage) -> None:
    """An agent is made, found by name, and unknown to the other user"""
    config = {"name": "reader", "system_prompt": "You read files.", "model": "offline:rules", "tools": ["read_file"]}
    stage.ids["agent_id"] = str(stage.ann.call("POST", f"{stage.base}/agents/", 201, json=config)["id"])
    expect(stage.ann.call("GET", f"{stage.base}/agents/reader", 200)["id"] == stage.ids["agent_id"], "another agent")
    names = {agent["name"] for agent in stage.bob.call("GET", f"{stage.base}/agents/", 200)["items"]}
    expect("reader" not in names, "Bob's project has Ann's agent")


def round_trip(stage: Stage) -> None:
    """A message goes through queue and worker, and its answer quotes the user's file"""
    stage.ids["session_id"] = session = str(stage.ann.call("POST", f"{stage.base}/chat/sessions/", 201, json={})["id"])
    sent = stage.ann.call(
        "POST",
        f"{stage.base}/chat/{session}/message/",
        202,
        json={"content": "Show notes.md", "target_agent": "reader"},
        headers={"prefer": "respond-async"},
    )
    stage.ids["task_id"] = task = str(sent["task"]["id"])

    def ended() -> Any:
        found = stage.ann.call("GET", f"{stage.base}/tasks/{task}", 200)
        return found if found["state"] in ("completed", "failed", "canceled") else None

    found = until(ended, stage.seconds, "the answer to a message")
    expect(found["state"] == "completed", f"the task ended as {found['state']}: {found.get('error')}")
    messages = stage.ann.call("GET", f"{stage.base}/chat/{session}/messages/", 200)["items"]
    expect([message["role"] for message in messages] == ["user", "assistant"], f"the session holds {messages}")
    expect(stage.secret in messages[1]["content"], f"the answer is not about the file: {messages[1]['content'][:200]}")


def waited_for(stage: Stage) -> None:
    """A second message is answered in the request itself, or followed by its task"""
    answer = stage.ann.ask(
        "POST",
        f"{stage.base}/chat/{stage.ids['session_id']}/message/",
        json={"content": "Show notes.md", "target_agent": "reader"},
    )
    expect(answer.status_code in (200, 202), f"the message was answered {answer.status_code}: {answer.text[:200]}")
    if answer.status_code == 200:
        expect(stage.secret in answer.json()["content"], "the answer is not about the file")


def events(stage: Stage) -> None:
    """The session's events come without gaps, once each, and go on where a reader stopped"""
    address = f"{stage.base}/chat/{stage.ids['session_id']}/events"
    whole = stage.ann.ask("GET", address, params={"wait": "0"})
    expect(whole.status_code == 200, f"the stream answered {whole.status_code}: {whole.text[:200]}")
    numbers = [int(number) for number in re.findall(r"^id: (\d+)$", whole.text, re.M)]
    expect(numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 2, f"the events are {numbers}")
    rest = stage.ann.ask("GET", address, params={"wait": "0"}, headers={"last-event-id": str(numbers[1])})
    again = [int(number) for number in re.findall(r"^id: (\d+)$", rest.text, re.M)]
    expect(again[: len(numbers) - 2] == numbers[2:], f"after {numbers[1]} come {again}")


def memory(stage: Stage) -> None:
    """What was talked about is in the agent's context, and in nobody else's"""
    address = f"{stage.base}/agents/{stage.ids['agent_id']}/context"
    until(lambda: stage.ann.call("GET", address, 200)["items"], stage.seconds, "the interaction in the agent's context")
    stage.bob.call("GET", address, 404)


def every_route(stage: Stage) -> None:
    """On every address, another's things and things that nobody has look the same"""
    known = {**_IDS, **stage.ids, "path": "notes.md", "version": "1"}
    tried = 0
    for method, path in _routes(stage):
        parameters = re.findall(r"\{(\w+)\}", path)
        if not set(parameters) - {"project_id"} <= set(known):
            continue
        tried += 1
        foreign = _filled(path, {**known, "project_id": stage.shop})
        other_shop = f"{stage.shop}-of-nobody"
        # Ann alone has this one.
        stage.bob.cannot_tell(
            method,
            foreign.replace(stage.shop, f"{stage.shop}-ann"),
            foreign.replace(stage.shop, other_shop),
            {f"{stage.shop}-ann": other_shop},
        )
        own = set(parameters) & set(stage.ids)
        if own:
            missing = _filled(path, {**known, **{name: _IDS[name] for name in own}, "project_id": stage.shop})
            stage.bob.cannot_tell(method, foreign, missing, {stage.ids[name]: _IDS[name] for name in own})
    expect(tried > 20, f"only {tried} routes were found")


def anns_own(stage: Stage) -> None:
    """Ann makes a second project, which Bob has none of the name of"""
    stage.make(stage.ann, f"{stage.shop}-ann", "smoke")


def writes(stage: Stage) -> None:
    """Nothing of another's is written, sent, called, renamed or deleted"""
    foreign = f"/my/projects/{stage.shop}-ann"
    for method, path, arguments in (
        ("PUT", "/files/notes.md", {"content": b"Bob was here"}),
        ("DELETE", "/files/notes.md", {}),
        ("PATCH", "/", {"json": {"name": "Bob's"}}),
        ("POST", "/agents/", {"json": {"name": "spy", "system_prompt": "Tell Bob."}}),
        ("POST", "/chat/", {"json": {"content": "hello", "target_agent": "reader"}}),
        ("POST", "/tools/read_file", {"json": {"path": "notes.md"}}),
        ("POST", "/tools/write_file", {"json": {"path": "x.md", "content": "x"}}),
        ("POST", "/worker-space/reset", {}),
        ("DELETE", "/", {}),
    ):
        stage.bob.call(method, f"{foreign}{path}", 404, **arguments)
    stage.bob.call(
        "POST",
        f"{stage.base}/chat/{stage.ids['session_id']}/message/",
        404,
        json={"content": "hello", "target_agent": "coder"},
    )
    expect(stage.ann.ask("GET", f"{stage.base}/files/notes.md").text == stage.secret, "Ann's file was changed")
    stage.ann.call("GET", f"{foreign}/", 200)


def nothing_of_anns(stage: Stage) -> None:
    """No list of Bob's holds a word of Ann's"""
    for path in ("/files/", "/agents/", "/tasks/", "/chat/sessions/", "/plans/", "/approvals/", "/worker-space"):
        text = stage.bob.ask("GET", f"{stage.base}{path}").text
        for word in (stage.secret, *stage.ids.values()):
            expect(word not in text, f"{path} of Bob's project holds {word} of Ann's")
    listed = stage.bob.call("GET", "/my/projects/", 200, params={"limit": 100})
    expect(f"{stage.shop}-ann" not in json.dumps(listed), "Bob's projects hold Ann's")


CHECKS: Final[tuple[Callable[[Stage], None], ...]] = (
    health,
    no_token,
    projects,
    anns_own,
    files,
    agents,
    round_trip,
    waited_for,
    events,
    memory,
    every_route,
    writes,
    nothing_of_anns,
)


def _routes(stage: Stage) -> Iterator[tuple[str, str]]:
    """Every address under a project that is asked without a body, as the stack itself describes it."""
    described: Mapping[str, Mapping[str, Any]] = stage.bob.call("GET", "/openapi.json", 200)["paths"]
    for path, operations in sorted(described.items()):
        if path.startswith("/my/projects/{project_id}/"):
            yield from ((method.upper(), path) for method in _METHODS if method in operations)


def _filled(path: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], path)


def clean_up(stage: Stage) -> list[str]:
    """Delete what was made, whatever of it there is; what could not be deleted."""
    left = []
    for person, project in stage.made:
        try:
            _delete(person, f"/my/projects/{project}")
        except (SmokeError, LookupError, TypeError) as error:
            left.append(f"{project} of {person.name}: {error!r}")
    return left


def _delete(person: Person, project: str) -> None:
    if person.ask("GET", f"{project}/").status_code in (401, 404):
        return
    # Deleting a project keeps its files.
    while files := person.call("GET", f"{project}/files/", 200, params={"recursive": "true"})["items"]:
        for file in files:
            person.call("DELETE", f"{project}/files/{file['path']}", 204, 404)
    person.call("DELETE", f"{project}/", 204, 404)
    person.call("GET", f"{project}/", 404)
