"""Small functions, run by AWS's own runtime client against the local Runtime API."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import awslambdaric
import pytest

from worker_space_local.runtime_api import Function, LocalFunction

PACKAGES = Path(awslambdaric.__file__).parents[1]


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """The runtime client and what it imports, apart from everything else that this environment has."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for name in ("awslambdaric", "runtime_client*", "simplejson", "snapshot_restore_py.py"):
        for found in PACKAGES.glob(name):
            (folder / found.name).symlink_to(found)
    return folder


@pytest.fixture
def made(tmp_path: Path, packages: Path) -> Iterator[Callable[..., LocalFunction]]:
    """Makes a function of the text of its app.py; ended with the test."""
    running: list[LocalFunction] = []

    def make(code: str, *, timeout: float = 20, **variables: str) -> LocalFunction:
        folder = tmp_path / f"function{len(running)}"
        folder.mkdir()
        (folder / "app.py").write_text(code, "utf-8")
        function = Function(
            name="small",
            folder=folder,
            variables=variables,
            python=Path(sys.executable),
            libraries=(packages,),
            timeout_seconds=timeout,
            log=tmp_path / "log",
        )
        running.append(LocalFunction(function))
        return running[-1]

    yield make
    for each in running:
        each.__exit__(None, None, None)


def test_a_handler_gets_the_event_its_context_and_its_variables(made: Callable[..., LocalFunction]) -> None:
    function = made(
        "import os\n"
        "def handler(event, context):\n"
        "    left = context.get_remaining_time_in_millis()\n"
        "    return [event, context.function_name, 0 < left <= 20_000, os.environ['COLOUR'], os.environ.get('HOME')]\n",
        COLOUR="blue",
    )
    outcome = function.invoke({"n": 1})
    assert not outcome.failed, outcome.payload
    # Nothing of this process's environment is there.
    assert "HOME" in os.environ
    assert outcome.payload == [{"n": 1}, "small", True, "blue", None]


def test_an_environment_serves_one_invocation_after_the_other(made: Callable[..., LocalFunction]) -> None:
    function = made("count = 0\ndef handler(event, context):\n    global count\n    count += 1\n    return count\n")
    outcomes = [function.invoke({}) for _ in range(3)]
    assert [outcome.payload for outcome in outcomes] == [1, 2, 3]
    assert len({outcome.environment for outcome in outcomes}) == 1


def test_invocations_that_overlap_get_environments_of_their_own(made: Callable[..., LocalFunction]) -> None:
    function = made("import time\ndef handler(event, context):\n    time.sleep(1.0)\n    return 'done'\n")
    function.invoke({})
    outcomes = []
    threads = [threading.Thread(target=lambda: outcomes.append(function.invoke({}))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.payload for outcome in outcomes] == ["done", "done"]
    assert len({outcome.environment for outcome in outcomes}) == 2


def test_a_hung_handler_is_killed_at_its_timeout_and_the_next_invocation_starts_afresh(
    made: Callable[..., LocalFunction],
) -> None:
    function = made(
        "import os, time\nserved = 0\n"
        "def handler(event, context):\n"
        "    global served\n    served += 1\n"
        "    if event == 'hang':\n        time.sleep(60)\n"
        "    return [os.getpid(), served]\n",
        timeout=1.5,
    )
    first = function.invoke("work")
    hung = function.invoke("hang")
    assert hung.failed
    assert hung.payload["errorType"] == "Sandbox.Timedout"
    assert "timed out after 1.50 seconds" in hung.payload["errorMessage"]
    assert 1.4 < hung.seconds < 10
    pid = first.payload[0]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    after = function.invoke("work")
    assert after.payload[0] != pid
    assert after.payload[1] == 1
    assert after.environment != hung.environment


def test_an_exception_is_the_invocations_error_and_the_environment_goes_on(made: Callable[..., LocalFunction]) -> None:
    function = made("def handler(event, context):\n    return 1 // event\n")
    failed, fine = function.invoke(0), function.invoke(1)
    assert failed.failed
    assert failed.payload["errorType"] == "ZeroDivisionError"
    assert fine.payload == 1
    assert fine.environment == failed.environment


def test_a_process_that_exits_fails_its_invocation_at_once(made: Callable[..., LocalFunction]) -> None:
    function = made("import os\ndef handler(event, context):\n    os._exit(event)\n")
    outcome = function.invoke(7)
    assert outcome.failed
    assert outcome.payload["errorType"] == "Runtime.ExitError"
    assert "exit status 7" in outcome.payload["errorMessage"]
    assert outcome.seconds < 15
    assert function.invoke(0).environment != outcome.environment


def test_an_error_at_import_is_reported_as_the_invocations(made: Callable[..., LocalFunction]) -> None:
    outcome = made("import no_such_package\n").invoke({})
    assert outcome.failed
    assert outcome.payload["errorType"] == "Runtime.ImportModuleError"
    assert "no_such_package" in outcome.payload["errorMessage"]


def test_a_process_that_ends_before_its_first_invocation_is_reported(made: Callable[..., LocalFunction]) -> None:
    outcome = made("import os\nos._exit(3)\n").invoke({})
    assert outcome.failed
    assert "exit status 3" in outcome.payload["errorMessage"]


def test_an_environment_is_frozen_between_invocations(made: Callable[..., LocalFunction]) -> None:
    function = made(
        "import threading, time\nticks = 0\n"
        "def tick():\n"
        "    global ticks\n"
        "    while True:\n        ticks += 1\n        time.sleep(0.02)\n"
        "threading.Thread(target=tick, daemon=True).start()\n"
        "def handler(event, context):\n    return ticks\n"
    )
    first = function.invoke({}).payload
    time.sleep(1)
    # 50 ticks would have passed in an environment that went on.
    assert function.invoke({}).payload - first < 20


def test_an_answer_that_lambda_would_not_take_is_an_error(made: Callable[..., LocalFunction]) -> None:
    outcome = made("def handler(event, context):\n    return 'x' * event\n").invoke(6 * 1024 * 1024 + 200)
    assert outcome.failed
    assert outcome.payload["errorType"] == "Function.ResponseSizeTooLarge"


def test_only_what_the_path_names_can_be_imported(made: Callable[..., LocalFunction], packages: Path) -> None:
    function = made(
        "import importlib.util, sys\n"
        "def handler(event, context):\n"
        "    return [sys.path, [name for name in event if importlib.util.find_spec(name)]]\n"
    )
    path, found = function.invoke(["json", "awslambdaric", "pytest"]).payload
    # The client puts the folder before what the path names.
    assert list(dict.fromkeys(path))[:2] == [str(function.function.folder), str(packages)]
    assert [entry for entry in path if "site-packages" in entry] == []
    assert found == ["json", "awslambdaric"]


def test_a_variable_that_lambda_reserves_is_refused(made: Callable[..., LocalFunction]) -> None:
    with pytest.raises(ValueError, match="AWS_REGION"):
        made("def handler(event, context): ...", AWS_REGION="eu-central-1").invoke({})
