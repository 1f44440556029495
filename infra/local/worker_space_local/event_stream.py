"""A session's events as the command line reads them: the stream of server-sent events, resumed where it ended."""

import json
import time
from collections.abc import Sequence
from typing import Final

import httpx

from worker_space_local.client import Client, Json, Problem, Unreachable, passing, segment

_PAUSE: Final = 0.5


class EventStream:
    """One session's stream.

    Args:
        client: The API.
        project: The project's id.
        session: The session's id.
        patience: Seconds for which an API that does not answer is asked again.

    Attributes:
        last: The number of the newest event read; 0 before the first.
    """

    def __init__(self, client: Client, project: str, session: str, *, patience: float = 10.0) -> None:
        self._client = client
        self._path = f"{segment(project)}/chat/{segment(session)}/events"
        self._patience = patience
        self.last = 0

    def read(self, *, wait: float) -> Sequence[Json]:
        """The next events, oldest first; none if nothing has happened.

        Args:
            wait: Seconds to wait for the first one; the API waits about 25 s at most.

        Raises:
            Problem: The API refuses; 404 also where it knows no events.
            Unreachable: It does not answer.
        """
        events = _events(self._answer(wait).text)
        if events:
            self.last = int(events[-1]["seq"])
        return events

    def _answer(self, wait: float) -> httpx.Response:
        until = time.monotonic() + self._patience
        while True:
            try:
                return self._client.request(
                    "GET",
                    self._path,
                    params={"wait": f"{max(0.0, wait):.3f}"},
                    headers={"Last-Event-ID": str(self.last)},
                )
            except (Unreachable, Problem) as error:
                if not passing(error) or time.monotonic() > until:
                    raise
            time.sleep(_PAUSE)


def _events(stream: str) -> list[Json]:
    """The events of an answer; the API writes the JSON of each into one line."""
    found = []
    for line in stream.split("\n"):
        if line.startswith("data:"):
            event = json.loads(line.removeprefix("data:"))
            if isinstance(event, dict) and isinstance(event.get("seq"), int):
                found.append(event)
    return found
