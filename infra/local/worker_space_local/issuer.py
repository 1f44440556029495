"""The development token issuer: an RS256 key in the data folder, its JWKS over HTTP, and tokens signed with it."""

import base64
import hashlib
import json
import os
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from worker_space_local.server import HOST

KEY_FILE = "issuer.pem"
ENDPOINTS_FILE = "endpoints.json"
DEFAULT_AUDIENCE = "worker-space"


class IssuerError(Exception):
    """A token cannot be signed; the message says what to do."""


def _base64url(value: int) -> str:
    content = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def make_key(data_dir: Path) -> None:
    """Make the signing key, readable by its owner only, unless there is one."""
    path = data_dir / KEY_FILE
    if path.exists():
        return
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    part = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    part.replace(path)


def _key(data_dir: Path) -> rsa.RSAPrivateKey:
    try:
        content = (data_dir / KEY_FILE).read_bytes()
    except FileNotFoundError as exc:
        raise IssuerError(f"There is no signing key in {str(data_dir)!r}: start the stack once (make serve)") from exc
    key = serialization.load_pem_private_key(content, password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise IssuerError(f"{KEY_FILE} in {str(data_dir)!r} is not an RSA key: remove it and start the stack")
    return key


def public_key(data_dir: Path) -> dict[str, str]:
    """Return the signing key's public half as a JWK, its id the key's thumbprint (RFC 7638).

    Raises:
        IssuerError: there is no usable key yet.
    """
    numbers = _key(data_dir).public_key().public_numbers()
    required = {"e": _base64url(numbers.e), "kty": "RSA", "n": _base64url(numbers.n)}
    digest = hashlib.sha256(json.dumps(required, sort_keys=True, separators=(",", ":")).encode()).digest()
    identity = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return {**required, "alg": "RS256", "use": "sig", "kid": identity}


def sign_token(
    data_dir: Path,
    user: str,
    ttl: int = 3600,
    *,
    issuer: str | None = None,
    audience: str | None = None,
) -> str:
    """Sign a token for ``user`` that is good for ``ttl`` seconds; contacts nobody.

    Args:
        data_dir: the stack's data folder.
        user: the claim ``sub``.
        ttl: seconds until it expires; negative for one that has expired.
        issuer: the claim ``iss``; by default that of the running stack, from its ``endpoints.json``.
        audience: the claim ``aud``; by default ``JWT_AUDIENCE``, else ``worker-space``.

    Raises:
        IssuerError: no stack runs on this folder and no issuer is given, or there is no key.
    """
    if issuer is None:
        try:
            issuer = str(json.loads((data_dir / ENDPOINTS_FILE).read_text())["issuer"])
        except FileNotFoundError as exc:
            raise IssuerError(f"No stack runs on {str(data_dir)!r}: start it first (make serve)") from exc
    now = int(time.time())
    claims = {
        "iss": issuer,
        "aud": audience or os.environ.get("JWT_AUDIENCE") or DEFAULT_AUDIENCE,
        "sub": user,
        "iat": now,
        "exp": now + ttl,
        "jti": str(uuid.uuid4()),
    }
    return jwt.encode(claims, _key(data_dir), algorithm="RS256", headers={"kid": public_key(data_dir)["kid"]})


class Issuer:
    """Serves the key of a data folder on 127.0.0.1, in a thread, while the context is open.

    Args:
        data_dir: the folder that holds the key; it is made if it is not there.
        port: where to listen; 0 for any free port.
    """

    def __init__(self, data_dir: Path, port: int = 0) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        make_key(data_dir)
        documents: dict[str, Any] = {"/.well-known/jwks.json": {"keys": [public_key(data_dir)]}}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """Answer with a document, or 404."""
                document = documents.get(self.path)
                content = json.dumps(document or {"error": "not found"}).encode()
                self.send_response(404 if document is None else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Keep quiet: the supervisor's output is for people."""

        self._server = ThreadingHTTPServer((HOST, port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{HOST}:{self._server.server_address[1]}"
        self.jwks_url = f"{self.url}/.well-known/jwks.json"
        documents["/.well-known/openid-configuration"] = {
            "issuer": self.url,
            "jwks_uri": self.jwks_url,
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
        }
        self._thread = Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="issuer", daemon=True
        )

    def __enter__(self) -> Self:
        """Start serving."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
