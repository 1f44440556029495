"""Runs a module, and ends it with the supervisor: ``python -m worker_space_local.child MODULE ARGS``.

The supervisor holds the writing end of a pipe and gives each child the reading end. When the supervisor is gone, even
by SIGKILL, the pipe ends and the child stops itself.
"""

import os
import runpy
import signal
import sys
import threading
import time

LIFELINE = "WORKER_SPACE_LIFELINE"
_GRACE_SECONDS = 4.0


def _watch(lifeline: int) -> None:
    while os.read(lifeline, 1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def main() -> None:
    """Watch the lifeline and run the module named in the arguments."""
    lifeline = os.environ.pop(LIFELINE, None)
    if lifeline is not None:
        threading.Thread(target=_watch, args=(int(lifeline),), name="lifeline", daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
