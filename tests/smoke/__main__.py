"""`make smoke`: isolation and a round trip against a deployed stack, as two of its users see it.

Variables: `API`, its address, or `STACK`, the CloudFormation stack that tells it; `TOKEN_A` and `TOKEN_B`, of two
users; `SMOKE_SECONDS`, how long an answer may take (120). Without them it says what is missing and is skipped.
"""

import os
import sys
import time

from infra.deployment import DeploymentError, find
from tests.smoke.checks import CHECKS, Stage, clean_up
from tests.smoke.people import Person, SmokeError, subject_of


def skipped(why: str) -> int:
    print(f"skipped: {why}")
    return 0


def main() -> int:
    """Run the checks; 1 when one failed, 2 when the tokens are one user's, 0 otherwise."""
    api, stack = os.environ.get("API", "").rstrip("/"), os.environ.get("STACK", "")
    tokens = [os.environ.get(name, "") for name in ("TOKEN_A", "TOKEN_B")]
    if not api:
        if not stack:
            return skipped("give API=https://… of a deployed stack, or STACK=its name, with TOKEN_A=… and TOKEN_B=…")
        try:
            api = find(stack).api
        except DeploymentError as error:
            return skipped(str(error))
        if not api:
            return skipped("this stack is not in CloudFormation: give API=its address")
    if not all(tokens):
        return skipped(f"give TOKEN_A and TOKEN_B, tokens of two users, to try {api}")
    if subject_of(tokens[0]) == subject_of(tokens[1]) is not None:
        print("error: TOKEN_A and TOKEN_B are of one user: isolation needs two", file=sys.stderr)
        return 2
    seconds = float(os.environ.get("SMOKE_SECONDS") or "120")
    stage = Stage(
        ann=Person("Ann", api, tokens[0]),
        bob=Person("Bob", api, tokens[1]),
        nobody=Person("nobody", api, None),
        seconds=seconds,
    )
    try:
        return smoke(api, stage)
    finally:
        for person in (stage.ann, stage.bob, stage.nobody):
            person.close()


def smoke(api: str, stage: Stage) -> int:
    """Every check until one fails, then the cleaning; the exit status."""
    print(f"smoke test of {api}, project {stage.shop} of two users")
    status = 0
    try:
        for check in CHECKS:
            began = time.monotonic()
            try:
                check(stage)
            except (SmokeError, LookupError, TypeError) as error:
                # An answer of another shape is a finding, too.
                told = error if isinstance(error, SmokeError) else repr(error)
                print(f"FAIL {check.__doc__}\n     {told}")
                status = 1
                break
            print(f"ok   {check.__doc__} ({time.monotonic() - began:.1f} s)")
    finally:
        left = clean_up(stage)
        for problem in left:
            print(f"left behind: {problem}")
    print("passed" if not status else "failed", "and cleaned up" if not left else "and not cleaned up")
    return status or (1 if left else 0)


if __name__ == "__main__":
    sys.exit(main())
