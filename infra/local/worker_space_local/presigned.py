"""Presigned S3 requests: Signature Version 4 in the query, checked as S3 checks it.

moto takes any signature for good, so an address that was altered, has expired or is used for another file would work
here and fail on AWS. Requests that are signed in a header come from the stack's own processes and are not checked.
"""

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, unquote_to_bytes

_ALGORITHM = "AWS4-HMAC-SHA256"
_NEEDED = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders")
_SCOPE = re.compile(r"(?P<key>[^/]+)/(?P<date>\d{8})/(?P<region>[a-z0-9-]+)/s3/aws4_request")
_WEEK = 7 * 24 * 3600
# How far a client's clock may be ahead of S3's.
_SKEW_SECONDS = 15 * 60


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """S3's answer to a request that may not be made."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Signed:
    """One HTTP request as it arrived: path and query undecoded, header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    content: bytes


def refusal(request: Signed, secrets: Mapping[str, str], now: float | None = None) -> Refusal | None:
    """Why S3 would not take a request for an object, or ``None`` when it would.

    Args:
        request: what arrived.
        secrets: secret access keys by access key id.
        now: epoch seconds, by default this moment's.
    """
    parameters = dict(parse_qsl(request.query, keep_blank_values=True))
    if "X-Amz-Signature" not in parameters:
        if "authorization" in request.headers:
            return None
        if "Signature" in parameters:
            return _denied("AccessDenied", "Sign addresses with AWS4-HMAC-SHA256, the version before is not taken")
        return _denied("AccessDenied", "Access Denied")
    if "authorization" in request.headers:
        return Refusal(status=400, code="InvalidArgument", message="Only one auth mechanism allowed")
    return (
        _bad_time_or_scope(parameters, secrets, time.time() if now is None else now)
        or _bad_signature(request, parameters, secrets)
        or _bad_content(request)
    )


def _denied(code: str, message: str) -> Refusal:
    return Refusal(status=403, code=code, message=message)


def _bad_time_or_scope(parameters: Mapping[str, str], secrets: Mapping[str, str], now: float) -> Refusal | None:
    scope = _SCOPE.fullmatch(parameters.get("X-Amz-Credential", ""))
    expires = parameters.get("X-Amz-Expires", "")
    try:
        date = datetime.strptime(parameters.get("X-Amz-Date", ""), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        date = None
    if (
        any(name not in parameters for name in _NEEDED)
        or parameters["X-Amz-Algorithm"] != _ALGORITHM
        or scope is None
        or date is None
        or scope["date"] != date.strftime("%Y%m%d")
        or not (expires.isascii() and expires.isdigit() and 1 <= int(expires[:10]) <= _WEEK)
    ):
        wrong = "Query-string authentication needs valid X-Amz- parameters"
        return Refusal(status=400, code="AuthorizationQueryParametersError", message=wrong)
    if scope["key"] not in secrets:
        return _denied("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
    if date.timestamp() > now + _SKEW_SECONDS:
        return _denied("AccessDenied", "Request is not valid yet")
    if now >= date.timestamp() + int(expires):
        return _denied("AccessDenied", "Request has expired")
    return None


def _bad_signature(request: Signed, parameters: Mapping[str, str], secrets: Mapping[str, str]) -> Refusal | None:
    names = parameters["X-Amz-SignedHeaders"].split(";")
    unsigned = [name for name in request.headers if name.startswith("x-amz-") and name not in names]
    if unsigned or "host" not in names:
        return _denied("AccessDenied", "There were headers present in the request which were not signed")
    query = "&".join(
        f"{name}={value}"
        for name, value in sorted(
            (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
            for name, value in parse_qsl(request.query, keep_blank_values=True)
            if name != "X-Amz-Signature"
        )
    )
    canonical = "\n".join(
        [
            request.method,
            quote(unquote_to_bytes(request.path), safe="/-_.~"),
            query,
            *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in names),
            "",
            ";".join(names),
            "UNSIGNED-PAYLOAD",
        ]
    )
    key_id, *scope = parameters["X-Amz-Credential"].split("/")
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join([_ALGORITHM, parameters["X-Amz-Date"], "/".join(scope), digest])
    key = f"AWS4{secrets[key_id]}".encode()
    for part in (*scope, text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(key.hex().encode(), parameters["X-Amz-Signature"].encode()):
        return _denied(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided.",
        )
    return None


def _bad_content(request: Signed) -> Refusal | None:
    length = request.headers.get("content-length", "0")
    if length != str(len(request.content)):
        return Refusal(status=400, code="IncompleteBody", message="The content is not as long as Content-Length says")
    expected = request.headers.get("x-amz-checksum-sha256")
    if expected is not None and expected != base64.b64encode(hashlib.sha256(request.content).digest()).decode():
        return Refusal(
            status=400, code="BadDigest", message="The SHA256 you specified did not match the calculated checksum."
        )
    return None
