"""What the AWS stand-in keeps over a restart: DynamoDB items and the newest version of every S3 object.

One zip file, replaced atomically: ``state.json`` and one entry per object's content. Queues, event source mappings
and older object versions are not kept; the product makes a queue again when it finds that it does not exist, and its
sweeper dispatches anew what was open.
"""

import json
import os
import time
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from worker_space_local.dynamodb import DynamoStore
from worker_space_local.objects import ObjectServices, StoredObject

_FORMAT = 1


class SnapshotError(Exception):
    """The snapshot file cannot be read; the message says what to do."""


def save(path: Path, tables: DynamoStore, services: ObjectServices, bucket: str) -> None:
    """Write the state to ``path``, which is an old or the new snapshot at every moment."""
    objects = services.objects(bucket)
    state = {
        "format": _FORMAT,
        "tables": {name: list(table.items.values()) for name, table in tables.tables.items()},
        "objects": [{**asdict(item), "content": None} for item in objects],
    }
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("state.json", json.dumps(state, separators=(",", ":")))
        for at, item in enumerate(objects):
            archive.writestr(f"objects/{at}", item.content)
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.replace(path)


def load(path: Path, tables: DynamoStore, services: ObjectServices, bucket: str) -> None:
    """Put the state of ``path`` into tables that exist already; items past their TTL are dropped.

    Raises:
        SnapshotError: the file is damaged or of another format.
    """
    if not path.exists():
        return
    try:
        with zipfile.ZipFile(path) as archive:
            state = json.loads(archive.read("state.json"))
            if state["format"] != _FORMAT:
                raise SnapshotError(
                    f"{path.name} has format {state['format']!r}, not {_FORMAT}: move it away to start empty"
                )
            objects = [
                StoredObject(**{**item, "content": archive.read(f"objects/{at}")})
                for at, item in enumerate(state["objects"])
            ]
    except (zipfile.BadZipFile, KeyError, ValueError) as exc:
        raise SnapshotError(f"{path.name} is damaged ({exc}): move it away to start empty") from exc
    now = time.time()
    for name, items in state["tables"].items():
        table = tables.tables.get(name)
        if table is None:
            continue
        expiry = table.time_to_live.get("AttributeName", "")
        for item in items:
            if not _expired(item.get(expiry), now):
                if "due_at" in item:
                    # The queues are gone and no worker has survived: whatever is open is due now, not after its lease.
                    item["due_at"] = {"N": str(min(int(item["due_at"]["N"]), int(now * 1000)))}
                table.put(table.primary_key(item, whole_item=True), item)
    services.restore(bucket, objects)


def _expired(value: Any, now: float) -> bool:
    return bool(value) and "N" in value and float(value["N"]) < now
