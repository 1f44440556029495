"""A way from Docker's containers to the running stack: ``python -m worker_space_local.bridge --host 172.17.0.1``.

The stand-ins listen on 127.0.0.1 alone, which a container cannot reach. This relays the same ports from an address of
this machine that containers can, by default Docker's own bridge, which no other machine reaches. The AWS stand-in asks
for no password: give no address of a real network.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from worker_space_local.issuer import ENDPOINTS_FILE
from worker_space_local.server import HOST
from worker_space_local.stack import DEFAULT_DATA_DIR

SERVICES = ("aws", "redis", "qdrant", "jwks")
_BYTES = 65536


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while content := await reader.read(_BYTES):
            writer.write(content)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


@contextlib.asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def relay(host: str, port: int) -> asyncio.Server:
    """Accept connections at ``host`` and pass their bytes to the same port of 127.0.0.1, both ways.

    Raises:
        OSError: nobody can listen there.
    """
    # Once a connection's asking side has ended, nothing but its task refers to what still waits for the answer: without
    # this the garbage collector takes both (docs.python.org: asyncio.create_task).
    open_: set[asyncio.Task[None] | None] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        open_.add(task)
        try:
            async with _closing(writer):
                try:
                    answers, asked = await asyncio.open_connection(HOST, port)
                except ConnectionError:
                    return
                async with _closing(asked):
                    await asyncio.gather(_copy(reader, asked), _copy(answers, writer))
        finally:
            open_.discard(task)

    return await asyncio.start_server(connected, host, port)


def ports(data_dir: Path) -> set[int]:
    """The ports of the running stack that functions ask.

    Raises:
        FileNotFoundError: no stack runs there.
    """
    endpoints = json.loads((data_dir / ENDPOINTS_FILE).read_text("utf-8"))
    parts = [urlsplit(endpoints[name]) for name in SERVICES]
    return {part.port for part in parts if part.hostname == HOST and part.port}


async def _serve(host: str, numbers: Iterable[int]) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with contextlib.AsyncExitStack() as servers:
        for port in sorted(numbers):
            await servers.enter_async_context(await relay(host, port))
        print(f"containers reach the stack at {host}; Ctrl-C ends it", flush=True)
        await stopped.wait()


def main(arguments: list[str] | None = None) -> int:
    """Relay until Ctrl-C or SIGTERM; 1 when there is no stack or no such address."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True, help="address of this machine that containers reach")
    parser.add_argument(
        "--data-dir", type=Path, default=Path(os.environ.get("WORKER_SPACE_DATA_DIR") or DEFAULT_DATA_DIR)
    )
    given = parser.parse_args(arguments)
    try:
        asyncio.run(_serve(given.host, ports(given.data_dir)))
    except FileNotFoundError:
        print(f"no stack runs in {str(given.data_dir)!r}: start it with `make serve`", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"cannot listen on {given.host!r} ({exc.strerror}): is Docker running?", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
