"""A project's files as the command line sends and gets them: small ones through the API, large ones past it.

A large file goes by an address of the store itself, which the API gives for this one file. The token never goes there.
"""

import errno
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote, urlsplit

import httpx

from worker_space_local.client import Client, ClientError, Json, Problem, Unreachable, segment

THROUGH_API_BYTES: Final = 3_000_000
"""A Lambda function takes and answers 6 MB, and bytes grow by a third on their way, some kinds of text more."""
_CHUNK: Final = 1 << 20
# A store says nothing before it has taken, and looked at, all of a file.
_TIMEOUT: Final = httpx.Timeout(300.0, connect=5.0)
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

Moved = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file as the project has it."""

    size: int
    version: str


@dataclass(frozen=True, kw_only=True)
class Digests:
    """What a file of this machine was when it was read."""

    size: int
    md5: str
    sha256: str


def digests(path: Path) -> Digests:
    """Read a file once and say what it is.

    Raises:
        OSError: It cannot be read.
    """
    md5, sha256, count = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
            count += len(chunk)
    return Digests(size=count, md5=md5.hexdigest(), sha256=sha256.hexdigest())


class ProjectFiles:
    """The files of one project; safe to use from several threads.

    Every method raises `Problem` when the API or the store refuses, and `Unreachable` when one does not answer.

    Args:
        client: The API.
        project: The project's id.
    """

    def __init__(self, client: Client, project: str) -> None:
        self._client = client
        self._project = project
        self._store = httpx.Client(timeout=_TIMEOUT, trust_env=not client.connection.local)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()

    def entries(self, folder: str = "") -> dict[str, Entry]:
        """All files below a folder, by path."""
        return {str(entry["path"]): _entry(entry) for entry in self.listing(folder, recursive=True) if _is_file(entry)}

    def listing(self, folder: str = "", *, recursive: bool = False) -> Iterator[Json]:
        """Files and folders as the API shows them."""
        parameters = {"recursive": str(recursive).lower(), **({"path": folder} if folder else {})}
        return self._client.items(f"{segment(self._project)}/files/", **parameters)

    def head(self, name: str) -> Entry:
        """One file."""
        answer = self._client.request("HEAD", self._address(name))
        return Entry(size=int(answer.headers["content-length"]), version=_version(answer))

    def send(self, name: str, path: Path, known: Digests, version: str | None, moved: Moved) -> str:
        """Store a file if the project still has `version` of it (`None`: has no such file).

        Args:
            name: The path in the project.
            path: The file.
            known: What it was when it was compared; if it was changed since, a large one is refused.
            version: Of the project's file.
            moved: Is told how many bytes have gone.

        Returns:
            The new version.

        Raises:
            Problem: With status 412 when somebody changed the project's file meanwhile.
            OSError: The file cannot be read.
        """
        condition = {"If-Match": f'"{version}"'} if version else {"If-None-Match": "*"}
        if known.size <= THROUGH_API_BYTES:
            headers = {"Content-Type": "application/octet-stream", **condition}
            data = path.read_bytes()
            answer = self._client.request("PUT", self._address(name), content=data, headers=headers)
            moved(len(data))
            return _version(answer)
        body = {"path": name, "size": known.size, "sha256": known.sha256}
        given = self._client.request(
            "POST", f"{segment(self._project)}/file-uploads/", json=body, headers=condition
        ).json()
        with path.open("rb") as file:

            def chunks() -> Iterator[bytes]:
                left = known.size
                while chunk := file.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        break
                    yield chunk
                    moved(len(chunk))
                if left:
                    raise OSError(errno.EIO, "it changed while it was sent")

            with self._open(given, chunks()) as answer:
                answer.read()
                return _version(answer)

    def fetch(self, name: str, entry: Entry, write: Callable[[bytes], object], moved: Moved) -> None:
        """Give a file's bytes to `write`, piece by piece.

        Raises:
            Problem: With status 412 when the project's file is not `entry` any more.
        """
        if entry.size <= THROUGH_API_BYTES:
            answer = self._client.request("GET", self._address(name), headers={"If-Match": f'"{entry.version}"'})
            write(answer.content)
            moved(len(answer.content))
            return
        given = self._client.request("POST", f"{segment(self._project)}/file-downloads/", json={"path": name}).json()
        if given["version"] != entry.version:
            raise Problem(412, {"title": "the project's file is at another version"}, "")
        with self._open(given) as answer:
            # As stored: an encoding that somebody noted on the file is not the transfer's.
            for chunk in answer.iter_raw(_CHUNK):
                write(chunk)
                moved(len(chunk))

    def remove(self, name: str) -> None:
        """Delete a file."""
        self._client.request("DELETE", self._address(name))

    def signed(self, url: str) -> bytes:
        """What the store has at an address that the API gave."""
        with self._open({"method": "GET", "url": url, "headers": {}}) as answer:
            return b"".join(answer.iter_raw(_CHUNK))

    def _address(self, name: str) -> str:
        return f"{segment(self._project)}/files/{quote(name)}"

    @contextmanager
    def _open(self, given: Json, content: Iterator[bytes] | None = None) -> Iterator[httpx.Response]:
        """The store's answer to a request that the API has signed, while it comes."""
        url, headers = str(given["url"]), given["headers"]
        place = urlsplit(url)
        if place.scheme != "https" and not (place.scheme == "http" and place.hostname in _LOOPBACK):
            raise ClientError(f"the API gave an address at {place.hostname} that is not https: no file goes there")
        try:
            with self._store.stream(str(given["method"]), url, headers=headers, content=content) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _refusal(answer)
                yield answer
        except httpx.TimeoutException as error:
            raise Unreachable(f"the store at {place.netloc} did not answer in time") from error
        except httpx.HTTPError as error:
            raise Unreachable(
                f"the connection to the store at {place.netloc} broke ({type(error).__name__})"
            ) from error


def _refusal(answer: httpx.Response) -> Problem:
    """What S3 said, as a problem of ours; 412 means the same from both."""
    said = {name: (re.findall(f"<{name}>([^<]*)</{name}>", answer.text) or [""])[0] for name in ("Code", "Message")}
    body = {"title": f"the store refused: {said['Code'] or answer.reason_phrase}", "detail": said["Message"]}
    return Problem(answer.status_code, body, answer.reason_phrase)


def _version(answer: httpx.Response) -> str:
    tag: str = answer.headers.get("etag", "")
    return tag.strip('"')


def _is_file(entry: Json) -> bool:
    return entry.get("kind") == "file"


def _entry(entry: Json) -> Entry:
    return Entry(size=int(entry["size"]), version=str(entry["version"]).strip('"'))
