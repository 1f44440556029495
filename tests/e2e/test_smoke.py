"""The smoke test that is meant for deployed stacks, against the embedded one."""

import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.smoke.checks import CHECKS
from worker_space_local.issuer import sign_token
from worker_space_local.stack import Stack

ROOT = Path(__file__).parents[2]


def test_the_embedded_stack_passes_the_smoke_test_and_is_as_before(stack: Stack) -> None:
    tokens = {f"TOKEN_{letter}": sign_token(stack.data_dir, f"smoke-{letter}", 3600) for letter in "AB"}
    environment = {**os.environ, **tokens, "API": stack.endpoints["api"], "SMOKE_SECONDS": "60"}
    command = [sys.executable, "-m", "tests.smoke"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("\nok ") == len(CHECKS)
    assert ended.stdout.endswith("passed and cleaned up\n")
    for token in tokens.values():
        headers = {"authorization": f"Bearer {token}"}
        listed = httpx.get(f"{stack.endpoints['api']}/my/projects/", headers=headers, timeout=10).json()
        assert listed["items"] == []
