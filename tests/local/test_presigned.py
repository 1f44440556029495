"""Presigned addresses of S3: what the stand-in takes is what AWS takes, and nothing else."""

import base64
import hashlib
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.credentials import Credentials

from worker_space_local.presigned import Signed, refusal

BUCKET = "worker-space-local"
Client = Any


@pytest.fixture(scope="module")
def signer(aws_url: str) -> Iterator[Client]:
    connect: Any = boto3.client
    config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
    client = connect("s3", endpoint_url=aws_url, region_name="us-east-1", config=config)
    yield client
    client.close()


def put_address(signer: Client, key: str, size: int, *, seconds: int = 60, **more: Any) -> str:
    parameters = {"Bucket": BUCKET, "Key": key, "ContentLength": size, "ContentType": "text/plain", **more}
    return str(signer.generate_presigned_url("put_object", Params=parameters, ExpiresIn=seconds))


def get_address(signer: Client, key: str, *, seconds: int = 60, **more: Any) -> str:
    parameters = {"Bucket": BUCKET, "Key": key, **more}
    return str(signer.generate_presigned_url("get_object", Params=parameters, ExpiresIn=seconds))


def send(method: str, url: str, content: bytes | None = None, **headers: str) -> tuple[int, str]:
    """The status and S3's code for what it refused."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = httpx.request(method, url, content=content, headers=named, timeout=20)
    code = answer.text.partition("<Code>")[2].partition("</Code>")[0] if answer.is_error else ""
    return answer.status_code, code


REFUSED = (403, "SignatureDoesNotMatch")
TEXT = {"content_type": "text/plain"}


@pytest.mark.parametrize("key", ["p/plain", "p/a b+c%41~'(x).txt", "p/ä/日本", "p/q?x=1&y#z"])
def test_a_signed_upload_and_download_work(signer: Client, s3: Client, key: str) -> None:
    assert send("PUT", put_address(signer, key, 5), b"hello", **TEXT) == (200, "")
    stored = s3.get_object(Bucket=BUCKET, Key=key)
    assert (stored["Body"].read(), stored["ContentType"]) == (b"hello", "text/plain")
    assert stored["ETag"] == f'"{hashlib.md5(b"hello").hexdigest()}"'
    assert httpx.get(get_address(signer, key)).content == b"hello"
    assert httpx.get(get_address(signer, key), headers={"Range": "bytes=1-2"}).content == b"el"


def test_an_upload_of_another_size_is_refused(signer: Client) -> None:
    url = put_address(signer, "p/size", 5)
    for content in (b"hell", b"hello!", b""):
        assert send("PUT", url, content, **TEXT) == REFUSED
    chunked = httpx.put(url, content=iter([b"hel", b"lo"]), headers={"content-type": "text/plain"})
    assert chunked.status_code == 403


def test_an_upload_under_another_type_condition_or_checksum_is_refused(signer: Client, s3: Client) -> None:
    checksum = base64.b64encode(hashlib.sha256(b"hello").digest()).decode()
    url = put_address(signer, "p/bound", 5, IfNoneMatch="*", ChecksumSHA256=checksum)
    whole = {"content_type": "text/plain", "if_none_match": "*", "x_amz_checksum_sha256": checksum}
    for name, value in (("content_type", "text/html"), ("if_none_match", '"x"'), ("x_amz_checksum_sha256", "x")):
        assert send("PUT", url, b"hello", **{**whole, name: value}) == REFUSED
        assert send("PUT", url, b"hello", **{each: whole[each] for each in whole if each != name}) == REFUSED
    assert send("PUT", url, b"jello", **whole) == (400, "BadDigest")
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET, Prefix="p/bound")
    assert send("PUT", url, b"hello", **whole) == (200, "")
    assert send("PUT", url, b"hello", **whole) == (412, "PreconditionFailed")


def test_a_header_of_s3s_own_must_be_signed(signer: Client) -> None:
    url = put_address(signer, "p/meta", 5)
    for name in ("x_amz_meta_effect", "x_amz_acl", "x_amz_copy_source"):
        assert send("PUT", url, b"hello", **TEXT, **{name: "x"}) == (403, "AccessDenied")


def test_an_address_is_good_for_one_key_method_and_query(signer: Client, s3: Client) -> None:
    s3.put_object(Bucket=BUCKET, Key="p/mine", Body=b"mine")
    s3.put_object(Bucket=BUCKET, Key="p/other", Body=b"secret")
    url = get_address(signer, "p/mine", seconds=60)
    assert send("GET", url) == (200, "")
    for altered in (
        url.replace("p/mine", "p/other"),
        url.replace("p/mine", "p/mine/../other"),
        url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
        url.replace("us-east-1", "eu-west-1"),
        f"{url}&versionId=null",
        f"{url}&response-content-type=text%2Fhtml",
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url[: url.index("X-Amz-Signature=")] + "X-Amz-Signature=",
    ):
        answer = httpx.get(altered)
        assert (answer.status_code, b"secret" in answer.content) == (403, False), altered
    for method in ("PUT", "DELETE", "POST", "HEAD"):
        assert send(method, url)[0] == 403
    assert s3.get_object(Bucket=BUCKET, Key="p/mine")["Body"].read() == b"mine"


def test_an_address_ends_with_its_time(signer: Client, s3: Client) -> None:
    s3.put_object(Bucket=BUCKET, Key="p/late", Body=b"late")
    url = get_address(signer, "p/late", seconds=1)
    time.sleep(1.1)
    assert send("GET", url) == (403, "AccessDenied")
    assert "Request has expired" in httpx.get(url).text


def test_the_clock_decides_from_the_first_to_the_last_second(signer: Client) -> None:
    place = urlsplit(get_address(signer, "p/clock", seconds=60))
    headers = {"host": place.netloc}
    request = Signed(method="GET", path=place.path, query=place.query, headers=headers, content=b"")
    now = time.time()
    secrets = {"testing": "testing"}
    assert refusal(request, secrets, now) is None
    assert refusal(request, secrets, now + 58) is None
    for moment, said in ((now + 61, "expired"), (now - 3_600, "not valid yet")):
        found = refusal(request, secrets, moment)
        assert found is not None
        assert (found.status, said in found.message) == (403, True)


def test_a_stranger_and_nobody_are_refused(signer: Client, s3: Client, aws_url: str) -> None:
    s3.put_object(Bucket=BUCKET, Key="p/closed", Body=b"closed")
    url = get_address(signer, "p/closed")
    assert send("GET", url.partition("?")[0]) == (403, "AccessDenied")
    assert send("PUT", url.partition("?")[0], b"x") == (403, "AccessDenied")
    assert send("GET", f"{aws_url}/{BUCKET}?list-type=2") == (403, "AccessDenied")
    assert send("GET", url.replace("testing%2F", "stranger%2F")) == (403, "InvalidAccessKeyId")
    assert send("GET", url, authorization="AWS4-HMAC-SHA256 x") == (400, "InvalidArgument")
    for broken in ("X-Amz-Expires=soon", "X-Amz-Expires=0", "X-Amz-Expires=604801"):
        assert send("GET", url.replace("X-Amz-Expires=60", broken)) == (400, "AuthorizationQueryParametersError")


def test_an_address_signed_the_old_way_is_refused_as_in_newer_regions(s3: Client) -> None:
    url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "p/old"}, ExpiresIn=60)
    assert "X-Amz-Signature" not in url
    assert send("GET", url) == (403, "AccessDenied")


def test_a_version_and_a_file_name_can_be_part_of_the_address(signer: Client, s3: Client) -> None:
    version = s3.put_object(Bucket=BUCKET, Key="p/v", Body=b"old")["VersionId"]
    s3.put_object(Bucket=BUCKET, Key="p/v", Body=b"new")
    named = "attachment; filename*=UTF-8''%C3%A4.txt"
    answer = httpx.get(get_address(signer, "p/v", VersionId=version, ResponseContentDisposition=named))
    assert (answer.status_code, answer.content, answer.headers["content-disposition"]) == (200, b"old", named)


def test_credentials_of_a_session_are_known_by_their_key_alone() -> None:
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest

    request = AWSRequest("GET", "http://127.0.0.1:1/bucket/key", headers={})
    S3SigV4QueryAuth(Credentials("k", "s", "token"), "s3", "eu-central-1", expires=60).add_auth(request)
    place = urlsplit(str(request.url))
    arrived = Signed(method="GET", path=place.path, query=place.query, headers={"host": "127.0.0.1:1"}, content=b"")
    assert refusal(arrived, {"k": "s"}) is None
    assert refusal(arrived, {"k": "other"}) is not None
