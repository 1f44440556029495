"""From the user's message to an answer: each request of it has its script."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from worker_space.adapters.offline import changing, looking
from worker_space.adapters.offline.dialogue import Call, Script
from worker_space.adapters.offline.markdown import bullets, failed, listed, words
from worker_space.adapters.offline.requests import (
    Append,
    Compose,
    Delete,
    FindFiles,
    Help,
    ListFiles,
    Look,
    Marks,
    Move,
    Overview,
    Plan,
    Recall,
    Remember,
    Replace,
    Request,
    Search,
    Show,
    Unknown,
    Write,
)
from worker_space.adapters.offline.understanding import understand

__all__ = ["Desk", "reply"]

_ROLE: Final = re.compile(r"(?i)\s*you are (?:a|an|the)\s+(?:\w+\s+)?(coder|analyst|writer|planner)\b")
_MOST_RECALLED: Final = 5
_ABLE: Final = (
    ("read_file", "analyse, explain or show a file: “Analyse main.py”, “Read lines 10-20 of app.py”"),
    ("list_directory", "list files and describe the project: “List the files”, “What is in this project?”"),
    ("search_files", "search: “Where is parse used?”, “Find TODO”"),
    ("write_file", "store a text as given: “Create notes.md with 'buy milk'”, “Append 'eggs' to notes.md”"),
    ("edit_file", "replace a text: “Replace 'a' with 'b' in notes.md”"),
    ("move_file", "rename: “Rename a.md to b.md”"),
    ("delete_file", "delete: “Delete a.md”"),
    ("remember", "remember and recall: “Remember that the release is on Friday”"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What a script knows beside the message.

    Attributes:
        role: `coder`, `analyst`, `writer`, `planner` or nothing, by the first words of the system prompt.
        earlier: What the user said before in this session, oldest first.
        tools: Names of the tools the agent has.
        given: What the tasks before it came to, where the message is a task of a plan.
    """

    role: str
    earlier: Sequence[str]
    tools: Sequence[str]
    given: str = ""

    @classmethod
    def of(cls, system_prompt: str, earlier: Sequence[str], tools: Sequence[str], given: str = "") -> "Desk":
        """The desk of an agent with this prompt; only its beginning counts, for what was recalled stands below."""
        match = _ROLE.match(system_prompt)
        return cls(role=match[1].lower() if match else "", earlier=earlier, tools=tools, given=given)


def reply(desk: Desk, message: str) -> Script:
    """The script of the whole message."""
    answers: list[str] = []
    for request in understand(message):
        answers.append((yield from _answer(desk, request, answers[-1] if answers else desk.given)))
    return "\n\n---\n\n".join(answers)


def _answer(desk: Desk, request: Request, before: str) -> Script:
    match request:
        case Look():
            return (yield from looking.look(request, desk.role))
        case Show():
            return (yield from looking.show(request))
        case ListFiles():
            return (yield from looking.list_files(request))
        case Overview():
            return (yield from looking.overview(desk.role))
        case Marks():
            return (yield from looking.marks())
        case Search():
            return (yield from looking.search(request))
        case FindFiles():
            return (yield from looking.find_files(request))
        case Plan():
            return (yield from looking.plan(request))
        case Write():
            return (yield from _write(desk, request, before))
        case Append():
            return (yield from changing.append(request))
        case Replace():
            return (yield from changing.replace(request))
        case Move():
            return (yield from changing.move(request))
        case Delete():
            return (yield from changing.delete(request))
        case Remember():
            return (yield from _remember(request))
        case Recall():
            return (yield from _recall(desk, request))
        case Help():
            return "I am the offline model: fixed rules, no language model.\n\n" + _abilities(desk)
        case Compose() | Unknown():
            return (yield from _beyond(desk, request))
        case _:
            assert_never(request)


def _write(desk: Desk, request: Write, before: str) -> Script:
    content = request.content
    if content is None:
        if not before:
            return "I have no answer yet that I could store: ask for it in the same message, before the file."
        content = before + "\n"
    elif not isinstance(content, str):
        content = (yield from _answer(desk, content, before)) + "\n"
    return (yield from changing.write(request, content))


def _remember(request: Remember) -> Script:
    result = yield Call("remember", {"text": request.text})
    if result.error is not None:
        return failed("remember that", result)
    return f"I will remember: {words(request.text)}"


def _recall(desk: Desk, request: Recall) -> Script:
    topic = request.topic.strip(" ?.!")
    said = [text for text in desk.earlier if _shares_a_word(text, topic)][-_MOST_RECALLED:]
    sections: list[str] = []
    result = yield Call("search_context", {"query": topic or "what the user said", "limit": _MOST_RECALLED})
    if result.error is None and (
        found := [words(entry["text"]) for entry in result.items("matches") if isinstance(entry.get("text"), str)]
    ):
        sections.append("From this agent's memory, best first:\n\n" + bullets(found))
    if said:
        sections.append("You said earlier in this session:\n\n" + bullets([words(text) for text in said]))
    if not sections and result.error is None:
        sections.append(f"I remember nothing about {topic}." if topic else "I remember nothing yet.")
    if result.error is not None:
        sections.append(failed("search this agent's memory", result))
    return "\n\n".join(sections)


def _shares_a_word(text: str, topic: str) -> bool:
    wanted = {word for word in re.findall(r"\w+", topic.lower()) if len(word) > 2 and word not in {"the", "our", "you"}}
    return not wanted if not topic else bool(wanted & set(re.findall(r"\w+", text.lower())))


def _beyond(desk: Desk, request: Compose | Unknown) -> Script:
    """What rules cannot do: said plainly, with the facts of the file that the message names."""
    if isinstance(request, Compose):
        start = "The offline model cannot compose a text: it has fixed rules and no language model."
        start += " A text to store must stand in the message, best in quotes."
    else:
        start = "The offline model did not understand this: it has fixed rules and no language model."
    if request.path is None:
        return f"{start}\n\n{_abilities(desk)}"
    facts = yield from looking.look(Look(path=request.path), desk.role)
    return f"{start} What it can say of the file you name:\n\n{facts}"


def _abilities(desk: Desk) -> str:
    able = [line for tool, line in _ABLE if tool in desk.tools]
    if not able:
        return "This agent has no tools, so I can do nothing with the project's files."
    return "With this agent's tools I can\n\n" + bullets(able) + f"\n\nTools: {listed(list(desk.tools), 20)}."
