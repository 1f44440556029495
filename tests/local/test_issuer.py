"""Tokens of the development issuer, verified as the API verifies them."""

import json
import stat
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from worker_space_local.issuer import Issuer, IssuerError, sign_token


def verify(token: str, issuer: Issuer, audience: str = "worker-space") -> dict[str, object]:
    client = jwt.PyJWKClient(issuer.jwks_url)
    key = client.get_signing_key_from_jwt(token)
    claims: dict[str, object] = jwt.decode(
        token,
        key,
        algorithms=["RS256"],
        issuer=issuer.url,
        audience=audience,
        options={"require": ["exp", "iat", "sub", "jti"]},
    )
    return claims


def test_a_token_is_verified_against_the_published_key(tmp_path: Path) -> None:
    with Issuer(tmp_path) as issuer:
        (tmp_path / "endpoints.json").write_text(json.dumps({"issuer": issuer.url}))
        first, second = sign_token(tmp_path, "auth0|ada", 60), sign_token(tmp_path, "auth0|ada", 60)
        claims = verify(first, issuer)
        assert claims["sub"] == "auth0|ada"
        assert claims["jti"] != verify(second, issuer)["jti"]
        assert verify(sign_token(tmp_path, "u", audience="other"), issuer, "other")["aud"] == "other"
        with pytest.raises(jwt.ExpiredSignatureError):
            verify(sign_token(tmp_path, "ada", -1), issuer)


def test_the_key_outlives_a_restart_and_is_the_owners_alone(tmp_path: Path) -> None:
    with Issuer(tmp_path) as issuer:
        token = sign_token(tmp_path, "ada", issuer=issuer.url)
        port = int(issuer.url.rsplit(":", 1)[-1])
    with Issuer(tmp_path, port) as issuer:
        assert verify(token, issuer)["sub"] == "ada"
    assert stat.S_IMODE((tmp_path / "issuer.pem").stat().st_mode) == 0o600


def test_another_folders_key_is_not_trusted(tmp_path: Path) -> None:
    with Issuer(tmp_path / "a") as issuer, Issuer(tmp_path / "b"):
        forged = sign_token(tmp_path / "b", "ada", issuer=issuer.url)
        with pytest.raises(jwt.PyJWKClientError):
            verify(forged, issuer)


def test_discovery_points_to_the_keys(tmp_path: Path) -> None:
    with Issuer(tmp_path) as issuer:
        found = httpx.get(f"{issuer.url}/.well-known/openid-configuration").json()
        assert (found["issuer"], found["jwks_uri"]) == (issuer.url, issuer.jwks_url)
        keys = httpx.get(issuer.jwks_url).json()["keys"]
        assert [(key["kty"], key["alg"], key["use"], "d" in key) for key in keys] == [("RSA", "RS256", "sig", False)]
        assert httpx.get(f"{issuer.url}/admin").status_code == 404


def test_no_token_without_a_stack_or_a_key(tmp_path: Path) -> None:
    with pytest.raises(IssuerError, match="start it first"):
        sign_token(tmp_path, "ada")
    with pytest.raises(IssuerError, match="no signing key"):
        sign_token(tmp_path, "ada", issuer="x")
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "issuer.pem").write_bytes(other)
    with pytest.raises(IssuerError, match="not an RSA key"):
        sign_token(tmp_path, "ada", issuer="x")
