"""Two users of a deployed stack, and what one of them finds out about the other's things."""

import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx

__all__ = ["Person", "SmokeError", "expect", "subject_of", "until"]

_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 2.0


class SmokeError(Exception):
    """A check failed; the message says what was expected and what came."""


def expect(true: object, what: str) -> None:
    """Go on if `true` is.

    Raises:
        SmokeError: It is not.
    """
    if not true:
        raise SmokeError(what)


def until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """What `true` returns, once it is true.

    Raises:
        SmokeError: It did not become true in time.
    """
    deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while not (value := true()):
        if time.monotonic() > deadline:
            raise SmokeError(f"not within {seconds:.0f} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)
    return value


def subject_of(token: str) -> str | None:
    """Whose token it is, unverified; `None` for what is no JWT."""
    try:
        payload = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return str(found)


class Person:
    """One user's client.

    Args:
        api: Address of the API.
        token: The user's; `None` for somebody without one.
    """

    def __init__(self, name: str, api: str, token: str | None) -> None:
        self.name = name
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        # Longer than the 30 s after which API Gateway answers for the function.
        self._http = httpx.Client(base_url=api, headers=headers, timeout=35, follow_redirects=False)

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """One request, whatever comes of it.

        Raises:
            SmokeError: There is no answer.
        """
        try:
            return self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise SmokeError(f"{method} {path}: no answer: {error!r}") from error

    def call(self, method: str, path: str, *statuses: int, **arguments: Any) -> Any:
        """The JSON of an answer with one of these statuses, or its text if it is no JSON.

        Raises:
            SmokeError: It has another status.
        """
        answer = self.ask(method, path, **arguments)
        wanted = " or ".join(map(str, statuses))
        expect(
            answer.status_code in statuses,
            f"{self.name}: {method} {path} answered {answer.status_code} instead of {wanted}: {answer.text[:300]}",
        )
        if not answer.content or "json" not in answer.headers.get("content-type", ""):
            return answer.text
        try:
            return answer.json()
        except ValueError as error:
            raise SmokeError(f"{method} {path} answered no JSON: {answer.text[:300]}") from error

    def cannot_tell(
        self, method: str, foreign: str, missing: str, hidden: Mapping[str, str], **arguments: Any
    ) -> httpx.Response:
        """Ask for somebody else's thing and for one that nobody has: both answers are the same 404.

        Args:
            hidden: What stands in `foreign` and, in its place, in `missing`: it may be repeated to the one who sent it.

        Raises:
            SmokeError: They differ.
        """
        theirs, nobodys = (self.ask(method, path, **arguments) for path in (foreign, missing))
        expect(theirs.status_code == 404, f"{self.name}: {method} {foreign} answered {theirs.status_code}, not 404")
        shapes = [_shape(theirs, hidden.keys()), _shape(nobodys, hidden.values())]
        expect(
            shapes[0] == shapes[1],
            f"{self.name}: {method} {foreign} can be told from a missing one: {shapes[0]} and {shapes[1]}",
        )
        return theirs


def _shape(answer: httpx.Response, sent: Any) -> tuple[int, str, str]:
    text = answer.text
    for value in sorted(sent, key=len, reverse=True):
        text = text.replace(value, "…")
    # Each request has an id of its own.
    text = re.sub(r'"(request_id|instance)":\s*"[^"]*"', "", text)
    return answer.status_code, answer.headers.get("content-type", ""), text
