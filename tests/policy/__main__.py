"""Prints what the deployed policies say of every call of the isolation suite's world: `python -m tests.policy`."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.policy.mutants import MUTANTS
from tests.policy.playing import play
from tests.policy.verdicts import broken_builds_table, own_calls_table


def show(rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for place, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if place == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def main() -> None:
    """Play all builds and print the tables."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        played = play(folder)
        print(f"The build of this working tree, API switched to tenants' credentials: {len(played.records)} calls\n")
        show(own_calls_table(played.records, played.deployed))
        print("\nBuilds with one of their own checks broken, attacked by another user\n")
        attacks = {}
        for build, mutant in MUTANTS.items():
            (folder / build).mkdir()
            attacked = play(folder, package=mutant.build(folder / build / "package"))
            attacks[build] = (mutant.broken, mutant.wrong_credentials, attacked.records, attacked.deployed)
        show(broken_builds_table(attacks))
        print(
            "\n(*) This build asks STS for the victim's credentials, because the token that names everything also names"
            "\n    them. No policy can know better; the property tests of the token are the wall here."
        )


if __name__ == "__main__":
    main()
