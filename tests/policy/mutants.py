"""Builds of the package with one of its own checks broken."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.policy.deployment import ROOT

__all__ = ["MUTANTS", "Mutant"]

_VICTIM: Final = "useralice_projectprivate"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One broken build.

    Attributes:
        broken: What is wrong with it, in words.
        changes: By module: a text that stands there once, and what takes its place.
        wrong_credentials: The break is so deep that STS itself is asked for the victim's credentials: what AWS would
            say to the asker's is all that can be shown.
    """

    broken: str
    changes: Mapping[str, tuple[tuple[str, str], ...]]
    wrong_credentials: bool = False

    def build(self, folder: Path) -> Path:
        """Copy the package into a folder and break it.

        Raises:
            ValueError: The text to replace does not stand there once: the package has changed.
        """
        shutil.copytree(
            ROOT / "layers/core/worker_space", folder / "worker_space", ignore=shutil.ignore_patterns("__pycache__")
        )
        for name, changes in self.changes.items():
            module = folder / "worker_space" / name
            text = module.read_text("utf-8")
            for old, new in changes:
                if text.count(old) != 1:
                    raise ValueError(f"{name} holds {old!r} {text.count(old)} times")
                text = text.replace(old, new)
            module.write_text(text, "utf-8")
        return folder


MUTANTS: Final[Mapping[str, Mutant]] = {
    "partition": Mutant(
        broken="every item is looked for in the victim's partition",
        changes={
            "tenancy.py": (("return partition_of(owner.token)", f'return partition_of("{_VICTIM}")'),),
        },
    ),
    "names": Mutant(
        broken="prefixes and queues are spelled with the victim's token",
        changes={
            "tenancy.py": (
                ('return f"{tenant.token}/"', f'return "{_VICTIM}/"'),
                ('return f"_content/{tenant.token}/"', f'return "_content/{_VICTIM}/"'),
                (
                    'return f"{self.prefix}_{tenant.token}_g{generation}.fifo"',
                    f'return f"{{self.prefix}}_{_VICTIM}_g{{generation}}.fifo"',
                ),
            ),
        },
    ),
    "paths": Mutant(
        broken="paths are joined without a check, so that `..` leads out of the prefix",
        changes={
            "paths.py": (
                ("    if not isinstance(text, str):\n", "    return text\n    if not isinstance(text, str):\n"),
            ),
            "adapters/s3.py": (
                (
                    'return f"{self._names.workspace(tenant)}{path}"',
                    'return __import__("posixpath").normpath(f"{self._names.workspace(tenant)}{path}")',
                ),
            ),
        },
    ),
    "header": Mutant(
        broken="routes take the user from a header",
        changes={
            "api/deps.py": (
                ("    return user\n\n\nUser", '    return UserContext(request.headers["x-user-id"])\n\n\nUser'),
            ),
        },
    ),
    "worker": Mutant(
        broken="an agent's tools work on the victim's project",
        changes={
            "jobs/task_worker.py": (
                (
                    "            tools = ToolContext(\n                tenant=tenant,\n",
                    '            tools = ToolContext(\n                tenant=TenantContext("alice", "private"),\n',
                ),
            ),
        },
    ),
    "token": Mutant(
        broken="every project has the victim's token, which is also what credentials are asked for by",
        changes={
            "tenancy.py": (
                (
                    '        readable = f"user{self.user_id}_project{self.project_id}"\n',
                    f'        return "{_VICTIM}"\n        readable = ""\n',
                ),
            ),
        },
        wrong_credentials=True,
    ),
}
