"""What starting each function costs, with and without compiled modules: ``python -m tests.runtime.import_times``.

Wants what `make runtime-test` built. Prints CPU seconds, the least of several starts, without those of an empty
interpreter: for the layers as they ship, and for the same layers without their compiled modules, as a machine without
Lambda's Python builds them.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FUNCTIONS = ("ApiFunction", "WorkerFunction", "CleanupFunction", "DeadLetterFunction")


def interpreter() -> str:
    """The interpreter that the layers were built for."""
    command = ["make", "-s", "-C", str(ROOT / "layers/core"), "compiler"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return found or str(getattr(sys, "_base_executable", sys.executable))


def seconds(python: str, code: str, path: str, starts: int) -> float:
    """The CPU time of the quickest of several runs."""
    times = []
    for _ in range(starts):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Settings are read by the first invocation: importing needs none.
        subprocess.run([python, "-S", "-B", "-c", code], env={"PYTHONPATH": path}, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def main() -> int:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, default=ROOT / ".aws-sam" / "runtime")
    parser.add_argument("--starts", type=int, default=5)
    given = parser.parse_args()
    if not (given.artifacts / "opt").is_dir():
        print(f"nothing is built in {given.artifacts}: make runtime-test", file=sys.stderr)
        return 1
    python = interpreter()
    with tempfile.TemporaryDirectory() as bare:
        plain = Path(bare) / "python"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(given.artifacts / "opt" / "python", plain, ignore=ignored, copy_function=os.link if
                        os.stat(bare).st_dev == os.stat(given.artifacts).st_dev else shutil.copy2)  # fmt: skip
        print("| function | with compiled modules | without |\n|---|---|---|")
        for name in FUNCTIONS:
            cells = []
            for layers in (given.artifacts / "opt" / "python", plain):
                path = os.pathsep.join(
                    map(str, (given.artifacts / "build" / name, layers, given.artifacts / "runtime"))
                )
                empty = seconds(python, "pass", path, given.starts)
                cells.append(f"{seconds(python, 'import app', path, given.starts) - empty:.2f} s")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
