"""What the core needs of the outside world. Every method takes the tenant first; adapters implement one port each.

All methods raise `Unavailable` when the dependency does not answer within its deadline or fails on its own account.
"""

from worker_space.ports.cache import Cache
from worker_space.ports.context import ContextEntry, ContextMatch, ContextStore, Embedder
from worker_space.ports.files import Content, FileBody, FileInfo, FilePage, Files, SignedRequest
from worker_space.ports.model import Model
from worker_space.ports.queues import FoundMapping, FoundQueues, Lease, Queues
from worker_space.ports.table import QUEUE_FIELDS, DueItems, Owner, Records, SpacesByToken

__all__ = [
    "QUEUE_FIELDS",
    "Cache",
    "Content",
    "ContextEntry",
    "ContextMatch",
    "ContextStore",
    "DueItems",
    "Embedder",
    "FileBody",
    "FileInfo",
    "FilePage",
    "Files",
    "FoundMapping",
    "FoundQueues",
    "Lease",
    "Model",
    "Owner",
    "Queues",
    "Records",
    "SignedRequest",
    "SpacesByToken",
]
