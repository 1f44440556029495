"""Who calls: the bearer token of a request, verified against the issuer's keys. There is no switch that skips it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import jwt

from worker_space.api.keys import ALGORITHMS, SigningKeys
from worker_space.errors import InvalidRequest, Unauthorized, Unavailable
from worker_space.tenancy import UserContext

__all__ = ["Caller", "TokenVerifier", "bearer_token"]

_LEEWAY_SECONDS: Final = 5
_MAX_CHARACTERS: Final = 8_192
_REQUIRED: Final = ("exp", "sub", "iss", "aud")


def bearer_token(authorization: Sequence[str]) -> str:
    """The token in a request's Authorization headers (RFC 6750, section 2.1).

    Raises:
        Unauthorized: There is no such header, more than one, or it holds no bearer token.
    """
    if not authorization:
        raise Unauthorized("send a token: Authorization: Bearer …")
    scheme, _, token = authorization[0].strip().partition(" ")
    token = token.strip()
    if len(authorization) > 1 or scheme.casefold() != "bearer" or not token or len(token) > _MAX_CHARACTERS:
        raise Unauthorized("send one token: Authorization: Bearer …")
    return token


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls; `until` is when the token ends, in epoch seconds."""

    user: UserContext
    until: int


class TokenVerifier:
    """Checks tokens of one issuer for one audience.

    Args:
        issuer: The expected `iss`.
        audience: The expected `aud`.
        keys: The issuer's.
    """

    def __init__(self, *, issuer: str, audience: str, keys: SigningKeys) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys

    async def caller(self, token: str) -> Caller:
        """The user whom a token names.

        Raises:
            Unauthorized: The token is not valid here and now; the message says why, without quoting it.
            Unavailable: The issuer's keys cannot be had, or this deployment names no issuer.
        """
        if not self._issuer or not self._audience:
            raise Unavailable("the token issuer", "this deployment names none")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as error:
            raise Unauthorized("the token is no signed JWT") from error
        kid = header.get("kid")
        # `crit` names extensions that a verifier must understand (RFC 7515, section 4.1.11); we use none.
        if header.get("alg") not in ALGORITHMS or not isinstance(kid, str) or "crit" in header:
            raise Unauthorized(f"the token must be signed with {' or '.join(ALGORITHMS)} and name its key (kid)")
        key = await self._keys.key(kid)
        if key is None:
            raise Unauthorized("the token is signed with a key that its issuer does not have")
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_SECONDS,
                options={"require": list(_REQUIRED)},
            )
            return Caller(user=UserContext(claims["sub"]), until=int(claims["exp"]))
        except jwt.ExpiredSignatureError as error:
            raise Unauthorized("the token has expired: get a new one") from error
        except jwt.PyJWTError as error:
            raise Unauthorized(f"the token is not valid here: {_reason(error)}") from error
        except InvalidRequest as error:
            raise Unauthorized("the token's sub is no usable user id") from error


def _reason(error: jwt.PyJWTError) -> str:
    # PyJWT's own texts may quote claims of a token that nobody has signed.
    reasons: dict[type[jwt.PyJWTError], str] = {
        jwt.InvalidSignatureError: "its signature does not fit",
        jwt.InvalidIssuerError: "it is from another issuer",
        jwt.InvalidAudienceError: "it is for another audience",
        jwt.ImmatureSignatureError: "it is from the future",
        jwt.MissingRequiredClaimError: f"it needs the claims {', '.join(_REQUIRED)}",
    }
    return next((text for kind, text in reasons.items() if isinstance(error, kind)), "it cannot be read")
