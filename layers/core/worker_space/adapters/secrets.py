"""Secrets from AWS Secrets Manager, by reference: a function's configuration names them and never holds them.

They are asked for at first use and again after a quarter of an hour, so that a rotated key arrives without a
deployment. What was read stays in use while Secrets Manager does not answer.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import SecretStr

from worker_space.adapters.aws import error_code
from worker_space.errors import Unavailable
from worker_space.settings import Settings

__all__ = ["SECRET_FIELDS", "SecretSettings"]

SECRET_FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    "secret": {"upstash_token": "redis_token", "qdrant_api_key": "qdrant_api_key"},
    "model_secret": {"openai_api_key": "openai_api_key"},
}
"""By the setting that names a secret: the keys of its JSON object, and the settings that they fill."""

_DEADLINE_SECONDS: Final = 2.0
_KEPT_SECONDS: Final = 900.0
_PAUSE_SECONDS: Final = 60.0
_FIRST_PAUSE_SECONDS: Final = 10.0
_DEPENDENCY: Final = "secrets"
_log = logging.getLogger(__name__)


class SecretSettings:
    """A deployment's settings with its secrets filled in; for one thread.

    Args:
        declared: What the environment says. A secret that stands there itself is not replaced.
        client: Makes a boto3 `secretsmanager` client without retries, whose deadline is 1 s to connect and 1 s to
            answer; not asked for where `declared` names no secret.
        clock: Seconds that only grow.
    """

    def __init__(
        self, declared: Settings, *, client: Callable[[], Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._declared = declared
        self._names = {name: fields for name, fields in SECRET_FIELDS.items() if getattr(declared, name)}
        self._client = client
        self._clock = clock
        self._connected: Any = None
        self._asked_at = 0.0
        self._ask_at: float | None = None
        self._current = declared
        self._read: set[str] = set()

    def __repr__(self) -> str:
        return f"SecretSettings({sorted(self._names)}, read={sorted(self._read)})"

    def current(self) -> Settings:
        """The settings as they are now; the same object as before while no secret has changed. May block for 2 s.

        Without the stores' secret at the start, the settings lack its keys: cache and memory refuse, which costs speed
        and recall but no answer. What was never read is asked for again after 10 s, by whoever calls then.

        Raises:
            Unavailable: The models' secret was never read: a task that began without it would fail for good.
        """
        if self._names and (self._ask_at is None or self._clock() >= self._ask_at):
            self._refresh()
        if "model_secret" in self._names and "model_secret" not in self._read:
            raise Unavailable(_DEPENDENCY, "the models' secret could not be read")
        return self._current

    def doubt(self) -> None:
        """Have the secrets asked for again soon, at most once a minute: somebody was refused with them."""
        if self._ask_at is not None:
            self._ask_at = min(self._ask_at, self._asked_at + _PAUSE_SECONDS)

    def _refresh(self) -> None:
        self._asked_at = self._clock()
        found: dict[str, SecretStr] = {}
        failed = False
        for name, fields in self._names.items():
            # Where the first gave no answer in time, one deadline is enough for one request.
            if failed and self._clock() - self._asked_at >= _DEADLINE_SECONDS / 2:
                break
            try:
                found |= self._content(getattr(self._declared, name), fields)
                self._read.add(name)
            except Unavailable as error:
                failed = True
                _log.error("the secret %r is not read: %s", getattr(self._declared, name), error)
        pause = _PAUSE_SECONDS if len(self._read) == len(self._names) else _FIRST_PAUSE_SECONDS
        self._ask_at = self._asked_at + (pause if failed else _KEPT_SECONDS)
        changed = {field: value for field, value in found.items() if value != getattr(self._current, field)}
        if changed:
            self._current = self._current.model_copy(update=changed)

    def _content(self, name: str, fields: Mapping[str, str]) -> dict[str, SecretStr]:
        """The settings that one secret fills.

        Raises:
            Unavailable: No answer, a refusal, or another content than a JSON object of texts; it quotes no content.
        """
        if self._connected is None:
            self._connected = self._client()
        try:
            text = self._connected.get_secret_value(SecretId=name)["SecretString"]
        except ClientError as error:
            raise Unavailable(_DEPENDENCY, error_code(error)) from error
        except BotoCoreError as error:
            raise Unavailable(_DEPENDENCY, type(error).__name__) from error
        except KeyError:
            raise Unavailable(_DEPENDENCY, "it holds bytes, not text") from None
        try:
            content = json.loads(text)
        except ValueError:
            # From nothing: the error's text and object would carry the secret into a log.
            raise Unavailable(_DEPENDENCY, "its text is no JSON") from None
        if not isinstance(content, dict):
            raise Unavailable(_DEPENDENCY, "its text is no JSON object")
        given = self._declared.model_fields_set
        return {
            field: SecretStr(content[key])
            for key, field in fields.items()
            if field not in given and isinstance(content.get(key), str) and content[key]
        }
