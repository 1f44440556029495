"""The built functions and layers under Lambda's runtime client: gateway, queue, schedule, timeouts, two tenants."""

import json
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from tests.runtime.conftest import Account, artifacts, event
from worker_space.settings import Settings

pytestmark = artifacts


def project(account: Account, user: str, id_: str = "shop") -> None:
    body = {"id": id_, "name": "The online shop"}
    status, made = account.ask(user, event("api_create_project"), body=body)
    assert (status, made.get("id")) == (201, id_), made


def sent(account: Account, user: str, content: str) -> Any:
    """A message's task, as accepted."""
    body = {"content": content, "target_agent": "analyst"}
    status, accepted = account.ask(user, event("api_send_message"), body=body)
    assert status == 202, accepted
    return accepted["task"]


def task(account: Account, user: str, id_: str) -> Any:
    template = event("api_create_project")
    return account.ask(user, template, method="GET", path=f"/my/projects/shop/tasks/{id_}")[1]


def worked(account: Account) -> Any:
    """Have the worker take the next message; what it answered."""
    batch, delete = account.batch()
    outcome = account.invoke("WorkerFunction", batch)
    assert not outcome.failed, outcome.payload
    delete()
    return outcome


def hanging_copy(built: Path, place: Path, body: str) -> Path:
    """A built function with a second handler beside its own: `hang.handler`, of this body."""
    folder = place / "hanging"
    shutil.copytree(built, folder)
    (folder / "hang.py").write_text(f"import time\nimport app\n\ndef handler(event, context):\n{body}", "utf-8")
    return folder


def test_a_request_and_a_batch_go_through_the_deployed_functions(account: Account) -> None:
    project(account, "ann")
    status, kept = account.ask(
        "ann",
        event("api_create_project"),
        path="/my/projects/shop/tools/write_file",
        body={"path": "main.py", "content": '"""Sells pears."""\n'},
    )
    assert status == 200, kept
    accepted = sent(account, "ann", "Analyse main.py")
    assert accepted["state"] == "submitted"
    assert worked(account).payload == {"batchItemFailures": []}
    done = task(account, "ann", accepted["id"])
    assert done["state"] == "completed", done
    assert "Sells pears." in json.dumps(
        account.ask(
            "ann",
            event("api_create_project"),
            method="GET",
            path=f"/my/projects/shop/chat/{accepted['session_id']}/messages/",
        )
    )


def test_messages_as_the_repository_carries_them_change_nothing(account: Account) -> None:
    # As `sam local invoke --event` sends them. The queue knows no such delivery: the worker may not begin, and says so.
    message = event("sqs_task")["Records"][0]["messageId"]
    outcome = account.invoke("WorkerFunction", event("sqs_task"))
    assert outcome.payload == {"batchItemFailures": [{"itemIdentifier": message}]}
    assert account.invoke("DeadLetterFunction", event("dead_letter")).payload == {"batchItemFailures": []}


def test_two_tenants_in_one_environment_see_nothing_of_each_other(account: Account) -> None:
    environments = set()
    for user, secret in (("bob", "walnut-7731"), ("cat", "cherry-1888")):
        project(account, user)
        file = {"path": "secret.txt", "content": f"{secret}\n"}
        status, kept = account.ask(
            user, event("api_create_project"), path="/my/projects/shop/tools/write_file", body=file
        )
        assert status == 200, kept
    tasks = {}
    for user in ("bob", "cat"):
        tasks[user] = sent(account, user, "Read secret.txt")
        environments.add(worked(account).environment)
    assert len(environments) == 1
    for user, other, own, foreign in (("bob", "cat", "walnut", "cherry"), ("cat", "bob", "cherry", "walnut")):
        path = f"/my/projects/shop/chat/{tasks[user]['session_id']}/messages/"
        said = json.dumps(account.ask(user, event("api_create_project"), method="GET", path=path))
        assert own in said
        assert foreign not in said
        status, missing = account.ask(other, event("api_create_project"), method="GET", path=path)
        assert status == 404
        assert own not in json.dumps(missing)


def test_the_schedule_reaches_the_cleanup(account: Account) -> None:
    outcome = account.invoke("CleanupFunction", event("schedule"))
    assert not outcome.failed, outcome.payload
    assert outcome.payload
    assert all(isinstance(count, int) for count in outcome.payload.values())


def test_a_dead_letter_is_sent_once_more_and_then_fails_its_task(account: Account) -> None:
    project(account, "dan")
    accepted = sent(account, "dan", "List the files")
    states = []
    for _ in range(2):
        batch, delete = account.batch()
        letter = event("dead_letter")
        letter["Records"][0] |= {field: batch["Records"][0][field] for field in ("body", "md5OfBody")}
        delete()
        outcome = account.invoke("DeadLetterFunction", letter)
        assert outcome.payload == {"batchItemFailures": []}
        states.append(task(account, "dan", accepted["id"])["state"])
    assert states == ["submitted", "failed"]


def test_a_worker_that_hangs_after_its_work_is_killed_and_the_answer_given_once(
    account: Account, tmp_path: Path
) -> None:
    project(account, "eve")
    accepted = sent(account, "eve", "List the files")
    batch, delete = account.batch()
    folder = hanging_copy(
        account.folder("WorkerFunction"), tmp_path, "    app.handler(event, context)\n    time.sleep(600)\n"
    )
    hanging = account.start("WorkerFunction", folder=folder, handler="hang.handler", timeout_seconds=12)
    outcome = hanging.invoke(batch)
    assert outcome.payload["errorType"] == "Sandbox.Timedout"
    # The batch was not acknowledged: its mapping delivers it again, to an environment that was just started.
    again = account.invoke("WorkerFunction", batch)
    assert again.payload == {"batchItemFailures": []}
    delete()
    path = f"/my/projects/shop/chat/{accepted['session_id']}/messages/"
    _, said = account.ask("eve", event("api_create_project"), method="GET", path=path)
    assert [message["role"] for message in said["items"]] == ["user", "assistant"]


def test_an_api_that_hangs_is_killed_at_its_timeout_and_serves_the_next_request(
    account: Account, tmp_path: Path
) -> None:
    folder = hanging_copy(
        account.folder("ApiFunction"),
        tmp_path,
        "    if event['rawPath'] == '/hang':\n        time.sleep(600)\n    return app.handler(event, context)\n",
    )
    hanging = account.start("ApiFunction", folder=folder, handler="hang.handler", timeout_seconds=6)
    health = account.request("eve", event("api_create_project"), method="GET", path="/health")
    hang = account.request("eve", event("api_create_project"), method="GET", path="/hang")
    outcomes = [hanging.invoke(each) for each in (health, hang, health)]
    assert [outcome.failed for outcome in outcomes] == [False, True, False]
    assert outcomes[1].payload["errorType"] == "Sandbox.Timedout"
    assert [outcome.payload["statusCode"] for outcome in (outcomes[0], outcomes[2])] == [200, 200]
    assert outcomes[0].environment == outcomes[1].environment != outcomes[2].environment


def test_a_store_that_hangs_returns_the_message_instead_of_hanging_the_worker(account: Account) -> None:
    project(account, "gil")
    accepted = sent(account, "gil", "List the files")
    batch, delete = account.batch()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        alone = account.start("WorkerFunction", AWS_ENDPOINT_URL=address)
        outcome = alone.invoke(batch)
    message = batch["Records"][0]["messageId"]
    assert outcome.payload == {"batchItemFailures": [{"itemIdentifier": message}]}
    assert account.invoke("WorkerFunction", batch).payload == {"batchItemFailures": []}
    delete()
    assert task(account, "gil", accepted["id"])["state"] == "completed"


def test_settings_take_every_variable_that_the_template_sets(account: Account) -> None:
    for function in account.described.values():
        settings = Settings.from_environment(function.variables)
        assert settings.table == account.stack.endpoints["table"]


def test_the_functions_log_names_no_user_file_or_word_of_a_conversation(account: Account) -> None:
    project(account, "marker-user", "shop")
    file = {"path": "marker-file.txt", "content": "marker-content\n"}
    account.ask("marker-user", event("api_create_project"), path="/my/projects/shop/tools/write_file", body=file)
    sent(account, "marker-user", "Read marker-file.txt and think of a marker-word")
    worked(account)
    account.invoke("CleanupFunction", event("schedule"))
    log = account.log.read_text("utf-8")
    assert [line for line in log.splitlines() if "marker-" in line] == []


def test_a_warm_invocation_is_quick(account: Account) -> None:
    project(account, "fay")
    started = time.monotonic()
    status, _ = account.ask("fay", event("api_create_project"), method="GET", path="/my/projects/shop/agents/")
    assert status == 200
    assert time.monotonic() - started < 2
