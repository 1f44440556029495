"""Who may call: real tokens, real signatures, and what an attacker or an outage makes of them."""

import asyncio
import base64
import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from tests.api.service import Service, kind
from tests.api.signing import FakeIssuer, claims, ec_entry, ec_key, rsa_entry, rsa_key, token
from worker_space.api.keys import SigningKeys, fetch
from worker_space.errors import Unavailable

pytestmark = pytest.mark.anyio


@pytest.fixture
def issuer() -> FakeIssuer:
    return FakeIssuer()


@pytest.fixture
def service(issuer: FakeIssuer) -> Service:
    return Service(issuer=issuer)


async def ask(service: Service, given: str | None, scheme: str = "Bearer") -> httpx.Response:
    headers = {} if given is None else {"Authorization": f"{scheme} {given}"}
    return await service.call("GET", "/my/projects/", user=None, headers=headers)


def unsigned(header: dict[str, Any], body: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(body).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_valid_token_is_taken(service: Service, scheme: str) -> None:
    assert (await ask(service, token(), scheme)).status_code == 200


async def test_a_token_signed_by_an_elliptic_key_is_taken(service: Service) -> None:
    signed = jwt.encode(claims(), ec_key("second"), algorithm="ES256", headers={"kid": "second"})
    assert (await ask(service, signed)).status_code == 200


def _forged() -> dict[str, str]:
    public = (
        rsa_key("first")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    now = int(time.time())
    stranger = jwt.encode(claims(), rsa_key("stranger"), algorithm="RS256", headers={"kid": "first"})
    good = token()
    # The classic: the public key as the secret of a symmetric algorithm. PyJWT refuses to make it, so it is made here.
    head = unsigned({"alg": "HS256", "typ": "JWT", "kid": "first"}, claims()).rsplit(".", 1)[0]
    mac = (
        base64.urlsafe_b64encode(
            jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(head.encode(), public)
        )
        .rstrip(b"=")
        .decode()
    )
    return {
        "no token": "",
        "not a token": "abc",
        "expired": token(exp=now - 60),
        "no expiry": token(exp=None),
        "no subject": token(sub=None),
        "no issuer": token(iss=None),
        "no audience": token(aud=None),
        "another issuer": token(iss="https://evil.test"),
        "an issuer that ours begins with": token(iss="https://issuer"),
        "another audience": token(aud="other"),
        "from the future": token(nbf=now + 86_400),
        "no key id": token(kid=None),
        "an unknown key id": token(kid="nobody"),
        "another key of the same id": stranger,
        "none": unsigned({"alg": "none", "kid": "first"}, claims()),
        "NONE": unsigned({"alg": "NoNe", "kid": "first"}, claims()),
        "HS256 with the public key": f"{head}.{mac}",
        "the algorithm of another key": unsigned({"alg": "ES256", "kid": "first"}, claims(), b"x" * 64),
        "a critical extension": token(headers={"crit": ["exp"], "exp": 1}),
        "changed claims": ".".join(
            [good.split(".")[0], unsigned({}, claims("mallory")).split(".")[1], good.split(".")[2]]
        ),
        "a cut signature": good[:-8],
        "an empty subject": token(sub=""),
        "a subject that is no text": unsigned({"alg": "RS256", "kid": "first"}, claims() | {"sub": 7}, b"x"),
        "a subject with a control character": token(sub="al\nice"),
        "a subject that is too long": token(sub="a" * 256),
        "a token that is too long": token(padding="x" * 9000),
    }


FORGED = _forged()


@pytest.mark.parametrize("why", FORGED)
async def test_any_other_token_is_401_and_is_not_quoted(service: Service, why: str) -> None:
    answer = await ask(service, FORGED[why])
    assert answer.status_code == 401
    assert kind(answer) == "unauthorized"
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert not FORGED[why] or FORGED[why] not in answer.text


async def test_no_header_another_scheme_and_two_headers_are_401(service: Service) -> None:
    assert (await ask(service, None)).status_code == 401
    assert (await ask(service, token(), "Basic")).status_code == 401
    twice = [("Authorization", f"Bearer {token()}"), ("Authorization", f"Bearer {token('bob')}")]
    assert (await service.client.get("/my/projects/", headers=twice)).status_code == 401


async def test_a_clock_may_be_some_seconds_off_but_not_more(service: Service) -> None:
    now = int(time.time())
    assert (await ask(service, token(exp=now - 2))).status_code == 200
    assert (await ask(service, token(exp=now - 11))).status_code == 401


async def test_the_token_is_looked_at_before_the_body_and_the_route(service: Service) -> None:
    answer = await service.call(
        "POST", "/my/projects/", user=None, content=b"{", headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 401
    assert (await service.call("GET", "/my/projects/x/nowhere", user=None)).status_code == 401


async def test_no_token_reaches_the_log(service: Service, issuer: FakeIssuer, caplog: pytest.LogCaptureFixture) -> None:
    good = token()
    with caplog.at_level(logging.DEBUG):
        for given in (good, *FORGED.values()):
            await ask(service, given)
        issuer.down = True
        issuer.now += 1000
        await ask(service, good)
    parts = {part for given in (good, *FORGED.values()) for part in given.split(".") if len(part) > 40}
    assert not [part for part in parts if part in caplog.text]


# -- the issuer's keys


async def test_keys_are_fetched_once_in_five_minutes(service: Service, issuer: FakeIssuer) -> None:
    for _ in range(3):
        await ask(service, token())
        issuer.now += 90
    assert issuer.asked == 1
    issuer.now += 200
    await ask(service, token())
    assert issuer.asked == 2


async def test_forged_key_ids_cause_no_storm(service: Service, issuer: FakeIssuer) -> None:
    await ask(service, token())
    issuer.now += 60
    for number in range(20):
        assert (await ask(service, token(kid=f"forged{number}"))).status_code == 401
    assert issuer.asked == 2


async def test_a_new_key_is_taken_within_ten_seconds(service: Service, issuer: FakeIssuer) -> None:
    await ask(service, token())
    issuer.entries.append(rsa_entry("third", rsa_key("third")))
    signed = jwt.encode(claims(), rsa_key("third"), algorithm="RS256", headers={"kid": "third"})
    assert (await ask(service, signed)).status_code == 401
    issuer.now += 10
    assert (await ask(service, signed)).status_code == 200


async def test_a_withdrawn_key_is_refused_after_five_minutes(service: Service, issuer: FakeIssuer) -> None:
    await ask(service, token())
    issuer.entries = [ec_entry("second", ec_key("second"))]
    issuer.now += 301
    assert (await ask(service, token())).status_code == 401


async def test_known_keys_keep_working_while_the_issuer_is_down(service: Service, issuer: FakeIssuer) -> None:
    await ask(service, token())
    issuer.down = True
    issuer.now += 10_000
    assert (await ask(service, token())).status_code == 200
    assert (await ask(service, token(kid="unknown"))).status_code == 401
    assert issuer.asked == 2


async def test_an_issuer_that_was_never_reached_is_503_and_never_open(service: Service, issuer: FakeIssuer) -> None:
    issuer.down = True
    answer = await ask(service, token())
    assert answer.status_code == 503
    assert kind(answer) == "unavailable"
    assert answer.headers["retry-after"]
    issuer.down = False
    issuer.now += 10
    assert (await ask(service, token())).status_code == 200


async def test_the_first_requests_share_one_fetch(service: Service, issuer: FakeIssuer) -> None:
    answers = await asyncio.gather(*(ask(service, token()) for _ in range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert issuer.asked == 1


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{"kty": "oct", "k": "c2VjcmV0", "kid": "first", "alg": "HS256"}],
        [rsa_entry("first", rsa_key("first"), use="enc")],
        [rsa_entry("first", rsa_key("weak", 1024))],
        [{"kty": "RSA", "kid": "first", "n": "!", "e": "AQAB"}, "nonsense", {"kty": "new", "kid": "first"}],
    ],
    ids=["none", "symmetric", "for encryption", "weak", "broken"],
)
async def test_a_key_set_without_a_usable_key_lets_nobody_in(entries: list[Any]) -> None:
    issuer = FakeIssuer(entries=entries)
    with pytest.raises(Unavailable):
        await issuer.keys().key("first")


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"keys": 7}', b"\xff"])
async def test_a_document_that_is_no_key_set_is_as_good_as_none(content: bytes) -> None:
    with pytest.raises(Unavailable):
        await SigningKeys("https://issuer.test", fetch=lambda url: content).key("first")


@pytest.mark.parametrize("settings", [{"jwt_issuer": ""}, {"jwt_audience": ""}])
async def test_a_deployment_without_an_issuer_lets_nobody_in(service: Service, settings: dict[str, str]) -> None:
    service.replace(settings=service.services.settings.model_copy(update=settings))
    assert (await ask(service, token())).status_code == 503


# -- fetching


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if self.path == "/missing" else 200)
            self.end_headers()
            if self.path == "/large":
                self.wfile.write(b" " * 600_000)
            else:
                self.wfile.write(b'{"keys": []}')

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_key_set_is_fetched_over_http(server: str) -> None:
    assert json.loads(fetch(f"{server}/jwks")) == {"keys": []}


@pytest.mark.parametrize("path", ["/missing", "/large"])
def test_an_error_or_an_endless_answer_is_no_key_set(server: str, path: str) -> None:
    with pytest.raises(OSError, match=r"404|too large"):
        fetch(server + path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://issuer.test/jwks", ""])
def test_only_http_is_fetched(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        fetch(url)


async def test_a_hanging_issuer_costs_seconds_not_the_request(service: Service) -> None:
    released = threading.Event()

    def hang(url: str) -> bytes:
        released.wait(10)
        return b""

    began = time.monotonic()
    with pytest.raises(Unavailable):
        await SigningKeys("https://issuer.test", fetch=hang).key("first")
    assert time.monotonic() - began < 4
    released.set()
