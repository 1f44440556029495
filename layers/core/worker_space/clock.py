"""Time as the records keep it."""

import time

__all__ = ["now_ms"]


def now_ms() -> int:
    """Epoch milliseconds by this machine's clock."""
    return time.time_ns() // 1_000_000
