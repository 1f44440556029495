"""Real requests against the whole stack."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.e2e.conftest import User
from tests.e2e.fake_openai import FakeOpenAI, calls, question, results, says

Users = Callable[[str], User]


def test_the_offline_model_answers_from_the_users_files(user: Users) -> None:
    project = user("ann").project("first-light")
    project.put("lib/main.py", 'import os\n\n\ndef hello(name):\n    """Greet somebody."""\n    # TODO: shout\n')
    session = project.session()
    answer = project.ask(session, "Analyse main.py", "analyst")
    assert (answer["role"], answer["mode"]) == ("assistant", "direct")
    for fact in ("lib/main.py", "hello", "Greet somebody", "`os`", "shout"):
        assert fact in answer["content"]
    assert [m["content"] for m in project.messages(session)] == ["Analyse main.py", answer["content"]]
    assert project.task(answer["id"])["state"] == "completed"
    created = project.ask(session, "Create notes.md with: remember the milk", "writer")
    assert "notes.md" in created["content"]
    assert project.user.http.get(f"{project.base}/files/notes.md").text.strip() == "remember the milk"


def test_two_users_of_the_same_project_id_never_see_each_other(user: Users, model: FakeOpenAI) -> None:
    model.rule = lambda request: (
        says(f"I read: {results(request)[0]}") if results(request) else calls("read_file", path="secret.txt")
    )
    projects = [user(name).project("same") for name in ("eve", "eve1")]
    for project in projects:
        project.put("secret.txt", f"the secret of <{project.user.name}>")
        project.agent("reader", tools=["read_file"], max_concurrency=10)

    def talk(project: Any) -> list[Any]:
        answers = []
        for number in range(5):
            session = project.session()
            answers.append(project.ask(session, f"{project.user.name} asks {number}", "reader")["content"])
        return answers

    with ThreadPoolExecutor(6) as pool:
        all_answers = list(pool.map(talk, projects * 3))
    for project, answers in zip(projects * 3, all_answers, strict=True):
        other = next(each for each in projects if each is not project).user.name
        for answer in answers:
            assert f"the secret of <{project.user.name}>" in answer
            assert f"<{other}>" not in answer
    for request in model.asked("asks"):
        asker = question(request).split()[0]
        assert all(f"<{asker}>" in result for result in results(request))
        strangers = {"eve", "eve1"} - {asker}
        assert not any(f"{stranger} asks" in str(request) for stranger in strangers)


def test_no_more_than_the_agents_cap_reaches_the_model_at_once(user: Users, model: FakeOpenAI) -> None:
    lock, running, most = threading.Lock(), [0], [0]
    pause = threading.Event()

    def rule(request: dict[str, Any]) -> dict[str, Any]:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        pause.wait(0.1)
        with lock:
            running[0] -= 1
        return says("done")

    model.rule = rule
    project = user("cap").project("cap")
    project.agent("two", max_concurrency=2)
    tasks = [project.send(project.session(), f"m{n}", "two") for n in range(10)]
    assert [project.ended(task)["state"] for task in tasks] == ["completed"] * 10
    assert most == [2]


def test_a_session_is_answered_in_order_while_others_go_on(user: Users, model: FakeOpenAI) -> None:
    model.rule = lambda request: says(f"re {question(request)}")
    project = user("order").project("order")
    project.agent("fast", max_concurrency=4)
    sessions = [project.session() for _ in range(3)]
    tasks = [project.send(session, f"{at}.{n}", "fast") for n in range(4) for at, session in enumerate(sessions)]
    for task in tasks:
        project.ended(task)
    for at, session in enumerate(sessions):
        messages = project.messages(session)
        assert [m["content"] for m in messages[1::2]] == [f"re {at}.{n}" for n in range(4)]
    asked = [question(request) for request in model.requests if question(request).startswith("0.")]
    assert asked == ["0.0", "0.1", "0.2", "0.3"]
