"""The locks, and the script that a new machine meets first."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYER = ROOT / "layers/dependencies/requirements.txt"
LOCKS = [*sorted((ROOT / "requirements").glob("*.txt")), LAYER]


def pins(lock: Path) -> dict[str, set[str]]:
    """Versions by package; a universal lock may hold one for each range of interpreters."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(
        r"^([a-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;]+)", lock.read_text("utf-8"), re.MULTILINE
    ):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_lock_pins_hashes_and_names_no_index(lock: Path) -> None:
    text = lock.read_text("utf-8")
    assert pins(lock)
    assert "://" not in text
    assert not re.search(r"^-|@ ", text, re.MULTILINE)
    for requirement in re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in requirement, requirement.splitlines()[0]


def test_the_layer_carries_the_versions_that_the_tests_run_with() -> None:
    tested = pins(ROOT / "requirements/dev.txt")
    shipped = pins(LAYER)
    assert {name for name, versions in shipped.items() if not versions <= tested.get(name, set())} == set()
    assert {"fastapi", "mangum", "upstash-redis", "qdrant-client", "pydantic", "aws-lambda-powertools"} <= set(shipped)


def test_the_layer_leaves_out_what_the_runtime_has_and_what_only_tests_need() -> None:
    assert {"boto3", "botocore", "s3transfer", "moto", "pytest", "uvicorn", "fakeredis"}.isdisjoint(pins(LAYER))


def test_the_installer_is_the_same_in_every_environment() -> None:
    assert pins(ROOT / "requirements/bootstrap.txt")["uv"] == pins(ROOT / "requirements/sam.txt")["uv"]


def install(python: Path | str, venv: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "requirements/install", venv, "requirements/dev.txt"],
        env={"PATH": os.environ["PATH"], "PYTHON": str(python)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_an_interpreter_that_is_too_old_gets_one_sentence(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\ncase "$2" in *exit*) exit 1;; *) echo 3.10.9;; esac\n', "utf-8")
    old.chmod(0o755)
    ended = install(old, tmp_path / "venv")
    assert ended.returncode != 0
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith("error: CPython 3.11 or newer is needed")
    assert "3.10.9" in sentence
    assert not (tmp_path / "venv").exists()


def test_an_interpreter_that_is_missing_gets_one_sentence(tmp_path: Path) -> None:
    ended = install("no-such-python", tmp_path / "venv")
    assert ended.returncode != 0
    (sentence,) = ended.stderr.splitlines()
    assert "no-such-python is not there" in sentence


@pytest.mark.parametrize(
    ("configured", "given", "expected"),
    [
        ("global.index-url='https://a.test/simple'", {}, "https://a.test/simple|"),
        (
            "global.index-url='https://a.test/simple'\n:env:.index-url='https://b.test/simple'",
            {},
            "https://b.test/simple|",
        ),
        ("global.cert='/certificates.pem'\nglobal.client-cert='/mine.pem'", {}, "|/certificates.pem"),
        ("global.index-url='https://a.test/simple'", {"UV_DEFAULT_INDEX": "https://c.test/"}, "https://c.test/|"),
        ("", {}, "|"),
    ],
)
def test_uv_uses_the_index_that_pip_is_set_up_with(
    configured: str, given: dict[str, str], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "configured").write_text(configured, "utf-8")
    pip = tmp_path / "pip"
    pip.write_text(f"#!/bin/sh\ncat {tmp_path}/configured\n", "utf-8")
    pip.chmod(0o755)
    script = f'set -eu; pip={pip}; . {ROOT}/requirements/index.sh; echo "${{UV_DEFAULT_INDEX-}}|${{SSL_CERT_FILE-}}"'
    environment = {"PATH": os.environ["PATH"]} | given
    ended = subprocess.run(
        ["sh", "-c", script], env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout.strip() == expected


def test_help_names_every_target_that_is_for_people() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    shown = subprocess.run(["make", "-C", ROOT, "help"], capture_output=True, text=True, timeout=30, check=True).stdout
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert set(re.findall(r"^  make ([a-z-]+)", shown, re.MULTILINE)) == set(phony.split())


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment that `make` takes for ready, whose command line only says what it was given."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/worker-space"
    command.write_text(
        """#!/bin/sh
trap 'echo stopped; exit 0' TERM
printf '%s\\n' "$@"
[ "$1" = serve ] || exit 0
while :; do sleep 0.05; done
""",
        "utf-8",
    )
    command.chmod(0o755)
    for stamp in (".packages", ".ready"):
        (tmp_path / stamp).touch()
    return tmp_path


def test_run_hands_over_what_a_person_typed_unchanged(venv: Path) -> None:
    question = """what's "in" main.py; `id` & more for $5?"""
    command = [
        "make",
        "-C",
        str(ROOT),
        "--no-print-directory",
        "run",
        f"VENV={venv}",
        "PROJECT=my notes",
        f"ASK={question}",
        "ONCE=1",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.splitlines() == ["run", "--project", "my notes", "--ask", question, "--once"]


def test_run_needs_no_arguments(venv: Path) -> None:
    command = ["make", "-C", str(ROOT), "--no-print-directory", "run", f"VENV={venv}"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split() == ["run"]


def test_a_signal_to_make_serve_reaches_the_stack(venv: Path) -> None:
    command = ["make", "-C", str(ROOT), "--no-print-directory", "serve", f"VENV={venv}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as serving:
        assert serving.stdout is not None
        assert serving.stdout.readline() == "serve\n"
        asked = time.monotonic()
        serving.send_signal(signal.SIGTERM)
        assert serving.stdout.readline() == "stopped\n"
        serving.wait(timeout=10)
    assert time.monotonic() - asked < 5
