"""A browser's EventSource, as far as the standard goes (WHATWG HTML, 9.2): parses a stream and comes again."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Told:
    """One event as its listeners get it."""

    id: str
    type: str
    data: str


@dataclass
class EventSource:
    """What a stream has told so far; `feed` takes bytes as they come, `closed` forgets an event that was cut."""

    told: list[Told] = field(default_factory=list)
    last_id: str = ""
    retry_ms: int = 3000
    _rest: bytes = b""
    _id: str = ""
    _type: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line.decode())

    def closed(self) -> None:
        self._rest, self._type, self._data, self._id = b"", "", [], self.last_id

    def _line(self, line: str) -> None:
        if not line:
            self.last_id = self._id
            if self._data:
                self.told.append(Told(self.last_id, self._type or "message", "\n".join(self._data)))
            self._type, self._data = "", []
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id":
            self._id = value
        elif name == "retry":
            self.retry_ms = int(value)

    async def follow(self, opened: Callable[[dict[str, str]], Awaitable[bytes]], *, until: str) -> None:
        """Open the stream again and again until an event of type `until` is told."""
        while not any(each.type == until for each in self.told):
            self.feed(await opened({"Last-Event-ID": self.last_id} if self.last_id else {}))
            self.closed()
