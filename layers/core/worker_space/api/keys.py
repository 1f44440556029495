"""The token issuer's public keys, fetched from its JWKS (RFC 7517) and kept for some minutes.

```
 fresh (< 5 min)      known kid: at once            unknown kid: fetch, at most once in 10 s
 stale                known kid: fetch, at most once in 10 s; while the issuer is down the old key keeps working
 never fetched        fetch; an issuer that is down is `Unavailable`
```

All requests of one moment share one fetch, so forged key ids cause no storm.
"""

import asyncio
import json
import logging
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from worker_space.errors import Unavailable

__all__ = ["ALGORITHMS", "SigningKeys", "fetch"]

ALGORITHMS: Final = ("RS256", "ES256")
_FRESH_SECONDS: Final = 300.0
_PAUSE_SECONDS: Final = 10.0
_DEADLINE_SECONDS: Final = 1.8
_MAX_BYTES: Final = 512 * 1024
_MIN_RSA_BITS: Final = 2048
_DEPENDENCY: Final = "the token issuer"
_log = logging.getLogger(__name__)


def fetch(url: str) -> bytes:
    """The document at `url`, within about 2 s.

    Raises:
        OSError: The issuer does not answer in time, or not with a document of reasonable size.
        ValueError: The URL is none of http or https.
    """
    if not url.startswith(("https://", "http://")):
        raise ValueError("the URL of the keys must be http or https")
    until = time.monotonic() + _DEADLINE_SECONDS
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310 - checked above
    with urllib.request.urlopen(request, timeout=_DEADLINE_SECONDS) as answer:  # noqa: S310 - checked above
        content = b""
        while chunk := answer.read1(65_536):
            content += chunk
            if len(content) > _MAX_BYTES or time.monotonic() > until:
                raise OSError("the answer is too large or too slow")
    return content


class SigningKeys:
    """The keys by their ids. Nothing in it belongs to a tenant, so it may outlive requests.

    Args:
        url: Where the issuer serves its JWKS.
        fetch: Reads that document; it may block, and is called in a thread.
        clock: Monotonic seconds.
    """

    def __init__(
        self, url: str, *, fetch: Callable[[str], bytes] = fetch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = url
        self._fetch = fetch
        self._clock = clock
        self._keys: Mapping[str, PyJWK] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, kid: str) -> PyJWK | None:
        """The key with this id, or `None` when the issuer has none such.

        Raises:
            Unavailable: The issuer does not answer, and no key of it is known yet.
        """
        found = self._keys.get(kid)
        fresh = self._fetched_at is not None and self._clock() - self._fetched_at < _FRESH_SECONDS
        if found is not None and fresh:
            return found
        await self._refresh()
        if self._fetched_at is None:
            raise Unavailable(_DEPENDENCY, "its keys cannot be fetched")
        return self._keys.get(kid)

    async def _refresh(self) -> None:
        running = self._fetching
        if running is not None and not running.done() and running.get_loop() is asyncio.get_running_loop():
            # Shielded: a request that is given up must not take the others' fetch with it.
            await asyncio.shield(running)
            return
        now = self._clock()
        if self._tried_at is not None and now - self._tried_at < _PAUSE_SECONDS:
            return
        self._tried_at = now
        self._fetching = asyncio.create_task(self._load())
        await asyncio.shield(self._fetching)

    async def _load(self) -> None:
        try:
            content = await asyncio.wait_for(asyncio.to_thread(self._fetch, self._url), _DEADLINE_SECONDS + 0.2)
            keys = _parse(content)
        except (OSError, ValueError) as error:
            _log.warning("the issuer's keys were not fetched: %s", type(error).__name__)
            return
        if not keys:
            _log.warning("the issuer's document holds no usable key")
            return
        self._keys, self._fetched_at = keys, self._clock()


def _parse(content: bytes) -> dict[str, PyJWK]:
    """The keys that may sign our tokens: RSA of 2,048 bits or more, or P-256, with an id and not for encryption.

    Raises:
        ValueError: The document is no JWKS.
    """
    document: Any = json.loads(content)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("the document is no key set")
    keys: dict[str, PyJWK] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str) or entry.get("use", "sig") != "sig":
            continue
        try:
            key = PyJWK(entry)
        except PyJWTError:
            # Of a kind this library does not know: tokens signed with it are refused as unknown.
            continue
        if _usable(key):
            keys[entry["kid"]] = key
    return keys


def _usable(key: PyJWK) -> bool:
    if key.algorithm_name == "RS256":
        return isinstance(key.key, rsa.RSAPublicKey) and key.key.key_size >= _MIN_RSA_BITS
    if key.algorithm_name == "ES256":
        return isinstance(key.key, ec.EllipticCurvePublicKey) and isinstance(key.key.curve, ec.SECP256R1)
    return False
