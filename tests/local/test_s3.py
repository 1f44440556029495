"""S3 as its clients see it: conditions, versions, ranges, keys that are hard to spell."""

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "worker-space-local"


def refused(call: Any, **named: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call(Bucket=BUCKET, **named)
    error = caught.value.response
    return error["ResponseMetadata"]["HTTPStatusCode"], error["Error"]["Code"]


def put(s3: "S3Client", key: str, body: bytes = b"one", **more: Any) -> str:
    return s3.put_object(Bucket=BUCKET, Key=key, Body=body, **more)["ETag"]


def content(s3: "S3Client", key: str, **more: Any) -> bytes:
    return s3.get_object(Bucket=BUCKET, Key=key, **more)["Body"].read()


def test_a_conditional_put_checks_what_is_there(s3: "S3Client") -> None:
    first = put(s3, "c/put", IfNoneMatch="*")
    assert refused(s3.put_object, Key="c/put", IfNoneMatch="*") == (412, "PreconditionFailed")
    assert refused(s3.put_object, Key="c/put", IfMatch='"other"') == (412, "PreconditionFailed")
    assert refused(s3.put_object, Key="c/none", IfMatch=first) == (404, "NoSuchKey")
    assert refused(s3.put_object, Key="c/none", IfNoneMatch=first) == (501, "NotImplemented")
    put(s3, "c/put", b"two", IfMatch=first)
    assert content(s3, "c/put") == b"two"


def test_a_deleted_object_counts_as_missing_in_conditions(s3: "S3Client") -> None:
    first = put(s3, "c/gone")
    s3.delete_object(Bucket=BUCKET, Key="c/gone")
    assert refused(s3.put_object, Key="c/gone", IfMatch=first) == (404, "NoSuchKey")
    put(s3, "c/gone", b"new", IfNoneMatch="*")
    assert content(s3, "c/gone") == b"new"


def test_a_conditional_copy_checks_source_and_target(s3: "S3Client") -> None:
    first = put(s3, "c/source & more", b"source")
    put(s3, "c/target")
    source: Any = {"Bucket": BUCKET, "Key": "c/source & more"}
    failed = (412, "PreconditionFailed")
    assert refused(s3.copy_object, Key="c/target", CopySource=source, IfNoneMatch="*") == failed
    assert refused(s3.copy_object, Key="c/target", CopySource=source, IfMatch='"x"') == failed
    assert refused(s3.copy_object, Key="c/copy", CopySource=source, CopySourceIfMatch='"x"') == failed
    s3.copy_object(Bucket=BUCKET, Key="c/copy", CopySource=source, CopySourceIfMatch=first, IfNoneMatch="*")
    assert content(s3, "c/copy") == b"source"


def test_a_conditional_delete_spares_a_newer_version(s3: "S3Client") -> None:
    first = put(s3, "c/del")
    second = put(s3, "c/del", b"two")
    assert refused(s3.delete_object, Key="c/del", IfMatch=first) == (412, "PreconditionFailed")
    assert refused(s3.delete_object, Key="c/none", IfMatch="*") == (404, "NoSuchKey")
    s3.delete_object(Bucket=BUCKET, Key="c/del", IfMatch=second)
    assert refused(s3.get_object, Key="c/del") == (404, "NoSuchKey")


def test_a_multipart_upload_can_be_conditional(s3: "S3Client") -> None:
    def upload(**condition: Any) -> None:
        begun = s3.create_multipart_upload(Bucket=BUCKET, Key="c/multi")["UploadId"]
        named: Any = {"Bucket": BUCKET, "Key": "c/multi", "UploadId": begun}
        part = s3.upload_part(**named, PartNumber=1, Body=b"x" * 100)
        parts: Any = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        s3.complete_multipart_upload(**named, MultipartUpload=parts, **condition)

    upload(IfNoneMatch="*")
    for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"x"'}):
        with pytest.raises(ClientError, match="PreconditionFailed"):
            upload(**condition)
    upload(IfMatch=s3.head_object(Bucket=BUCKET, Key="c/multi")["ETag"])


def test_versions_ranges_and_metadata(s3: "S3Client") -> None:
    old = s3.put_object(
        Bucket=BUCKET, Key="v/a", Body=b"0123456789", Metadata={"task": "t#1"}, ContentType="text/plain"
    )
    put(s3, "v/a", b"new")
    assert content(s3, "v/a") == b"new"
    assert content(s3, "v/a", VersionId=old["VersionId"], Range="bytes=2-4") == b"234"
    head = s3.head_object(Bucket=BUCKET, Key="v/a", VersionId=old["VersionId"])
    assert (head["Metadata"], head["ContentType"], head["ContentLength"]) == ({"task": "t#1"}, "text/plain", 10)
    versions = s3.list_object_versions(Bucket=BUCKET, Prefix="v/a")["Versions"]
    assert [version["IsLatest"] for version in versions] == [True, False]
    with pytest.raises(ClientError, match="404"):
        s3.head_object(Bucket=BUCKET, Key="v/none")


@pytest.mark.parametrize(
    "name", ["a b", "ü/ñ", "100%25", "q?x=1&y", "plus+plus", "#hash", "a//b", "semi;colon", "'quote'", "日本", "é"]
)
def test_a_key_is_kept_as_it_is_spelt(s3: "S3Client", name: str) -> None:
    put(s3, f"k/{name}", name.encode())
    assert content(s3, f"k/{name}") == name.encode()
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"k/{name}")["Contents"]
    assert [item["Key"] for item in listed] == [f"k/{name}"]
    s3.delete_object(Bucket=BUCKET, Key=f"k/{name}")


def test_a_listing_comes_in_pages_and_folders(s3: "S3Client") -> None:
    for at in range(5):
        put(s3, f"l/{at}")
    put(s3, "l/sub/x")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="l/", PaginationConfig={"PageSize": 2})
    assert [item["Key"] for page in pages for item in page["Contents"]] == [*(f"l/{at}" for at in range(5)), "l/sub/x"]
    folders = s3.list_objects_v2(Bucket=BUCKET, Prefix="l/", Delimiter="/")
    assert [found["Prefix"] for found in folders["CommonPrefixes"]] == ["l/sub/"]
