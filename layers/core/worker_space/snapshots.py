"""Lambda SnapStart: an environment is initialised once, when a version is published, and restored many times.

What one initialisation leaves behind is the start of every environment, so it may hold neither a connection nor a
secret, and nothing that is meant to differ. Everything of that kind is made at the first invocation (`bootstrap`); what
is worth keeping is modules. Ids and tokens come from the operating system, which gives each environment its own.
(https://docs.aws.amazon.com/lambda/latest/dg/snapstart-uniqueness.html)
"""

import importlib
import random

from worker_space.bootstrap import forget_environment

__all__ = ["ready_for_snapshots"]


def ready_for_snapshots(*modules: str) -> None:
    """Have `modules` imported before a snapshot is taken, and start afresh after one is restored.

    Nothing is imported now, and nothing at all happens where Lambda takes no snapshot: the hooks are its runtime's.
    A restored environment has 10 s for its hooks; these take milliseconds.
    """
    try:
        from snapshot_restore_py import register_after_restore, register_before_snapshot
    except ModuleNotFoundError:
        # It comes with Lambda's runtime and is not needed elsewhere.
        return
    for module in modules:
        register_before_snapshot(importlib.import_module, module)
    register_after_restore(_start_afresh)


def _start_afresh() -> None:
    forget_environment()
    # Spreads the pauses between repetitions; restored environments would all take the same ones.
    random.seed()
