"""A token issuer for tests: real keys, real signatures, a JWKS as bytes."""

import json
import time
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from worker_space.api.keys import SigningKeys

ISSUER = "https://issuer.test"
AUDIENCE = "worker-space"


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key for `name`; made once, because making one takes its time."""
    assert name
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    assert name
    return ec.generate_private_key(ec.SECP256R1())


def rsa_entry(kid: str, key: rsa.RSAPrivateKey, **more: Any) -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", "alg": "RS256", **more}


def ec_entry(kid: str, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", "alg": "ES256"}


def claims(user: str = "alice", **changes: Any) -> dict[str, Any]:
    """Valid claims with changes; a claim changed to `None` is left out."""
    now = int(time.time())
    given = {"iss": ISSUER, "aud": AUDIENCE, "sub": user, "iat": now, "exp": now + 3600, **changes}
    return {name: value for name, value in given.items() if value is not None}


def token(
    user: str = "alice", *, kid: str | None = "first", headers: dict[str, Any] | None = None, **changes: Any
) -> str:
    """A token signed with the RSA key called `first`."""
    named = {} if kid is None else {"kid": kid}
    return jwt.encode(
        claims(user, **changes), rsa_key("first"), algorithm="RS256", headers={**named, **(headers or {})}
    )


@dataclass
class FakeIssuer:
    """Serves a key set, counts how often it is asked, and can be down."""

    entries: list[dict[str, Any]] = field(
        default_factory=lambda: [rsa_entry("first", rsa_key("first")), ec_entry("second", ec_key("second"))]
    )
    asked: int = 0
    down: bool = False
    now: float = 1000.0

    def fetch(self, url: str) -> bytes:
        self.asked += 1
        if self.down:
            raise OSError("connection refused")
        return json.dumps({"keys": self.entries}).encode()

    def keys(self) -> SigningKeys:
        return SigningKeys("https://issuer.test/jwks", fetch=self.fetch, clock=lambda: self.now)
