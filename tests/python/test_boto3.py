"""boto3 against Coffer: the operations its users call first, with boto3's own defaults for signing and checksums."""

import datetime
import hashlib
import io
import json
import os
from functools import partial

import pytest
import requests
from botocore.exceptions import ClientError

from conftest import settled


def error_code(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize("size", [0, 1, 4096, 128 * 1024 - 1, 262144 + 1, 5 * 1024 * 1024 + 3])
def test_an_object_comes_back_as_it_went_in(s3, bucket, size):
    body = os.urandom(size)
    put = s3.put_object(Bucket=bucket, Key="dir/object", Body=body, ContentType="text/x-test", Metadata={"colour": "blue"})
    got = s3.get_object(Bucket=bucket, Key="dir/object")
    assert got["Body"].read() == body
    assert got["ETag"] == put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert got["ContentType"] == "text/x-test" and got["Metadata"] == {"colour": "blue"}
    assert got["ContentLength"] == size


def test_empty_and_refused_bodies_leave_the_connection_in_order(server, bucket):
    """boto3 announces each body and waits for `100 Continue`; one client keeps one connection."""
    s3 = server.client(max_pool_connections=1, read_timeout=60)
    refusals = [(dict(Bucket="no-" + bucket), "NoSuchBucket"), (dict(ContentMD5="AAAA"), "InvalidDigest"),
                (dict(IfNoneMatch="*"), "PreconditionFailed")]
    for size in [0, 1, 0, 50_000, 3_000_000]:
        for wrong, code in refusals:
            s3.put_object(Bucket=bucket, Key="k", Body=b"x" * size)
            assert error_code(s3.put_object, **{"Bucket": bucket, "Key": "k", "Body": b"y" * size, **wrong})[0] == code
            assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x" * size


@pytest.mark.parametrize("key", ["a", "a/b", "a//b", "/a", "a/", "../x", ".", "..", "a b+c%20d", "ü/é/漢", "a\x01b", "k" * 1024, "?x=1&y", "#"])
def test_every_key_is_an_ordinary_name(s3, bucket, key):
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]
    s3.delete_object(Bucket=bucket, Key=key)
    assert error_code(s3.get_object, Bucket=bucket, Key=key) == ("NoSuchKey", 404)


def test_ranges(s3, bucket):
    body = os.urandom(3_000_000)
    s3.put_object(Bucket=bucket, Key="k", Body=body)
    for header, part in [("bytes=0-0", body[:1]), ("bytes=100-299", body[100:300]), ("bytes=-7", body[-7:]),
                         ("bytes=2999999-", body[-1:]), ("bytes=524287-1572864", body[524287:1572865])]:
        got = s3.get_object(Bucket=bucket, Key="k", Range=header)
        assert got["Body"].read() == part and got["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert error_code(s3.get_object, Bucket=bucket, Key="k", Range="bytes=3000000-") == ("InvalidRange", 416)


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_are_stored_and_returned(s3, bucket, algorithm):
    try:
        put = s3.put_object(Bucket=bucket, Key="k", Body=b"some bytes", ChecksumAlgorithm=algorithm)
    except Exception as error:  # boto3 needs awscrt for two of them
        if "awscrt" in str(error).lower() or "crt" in str(error).lower():
            pytest.skip(f"boto3 cannot compute {algorithm} without awscrt")
        raise
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"]


def test_listing_pages_prefixes_and_delimiters(s3, bucket):
    keys = sorted([f"a/{i:03}" for i in range(30)] + [f"b/{i}/x" for i in range(10)] + ["c", "d//e", "z"])
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 7})
    assert [item["Key"] for page in pages for item in page.get("Contents", [])] == keys
    rolled = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [prefix["Prefix"] for prefix in rolled["CommonPrefixes"]] == ["a/", "b/", "d/"]
    assert [item["Key"] for item in rolled["Contents"]] == ["c", "z"]
    below = s3.list_objects_v2(Bucket=bucket, Prefix="b/", Delimiter="/", MaxKeys=3)
    assert below["IsTruncated"] and len(below["CommonPrefixes"]) == 3
    old = s3.list_objects(Bucket=bucket, Marker="a/028", MaxKeys=2)
    assert [item["Key"] for item in old["Contents"]] == ["a/029", "b/0/x"]


def test_multipart(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m", ContentType="x/y")["UploadId"]
    parts = [os.urandom(5 * 1024 * 1024), os.urandom(5 * 1024 * 1024 + 1), b"tail"]
    done = []
    for number, part in enumerate(parts, 1):
        s3.upload_part(Bucket=bucket, Key="m", UploadId=upload, PartNumber=number, Body=b"to be replaced")
        etag = s3.upload_part(Bucket=bucket, Key="m", UploadId=upload, PartNumber=number, Body=part)["ETag"]
        done.append({"PartNumber": number, "ETag": etag})
    listed = s3.list_parts(Bucket=bucket, Key="m", UploadId=upload, MaxParts=2)
    assert [part["PartNumber"] for part in listed["Parts"]] == [1, 2] and listed["IsTruncated"]
    assert [u["UploadId"] for u in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]
    assert error_code(s3.get_object, Bucket=bucket, Key="m") == ("NoSuchKey", 404)
    etag = s3.complete_multipart_upload(Bucket=bucket, Key="m", UploadId=upload, MultipartUpload={"Parts": done})["ETag"]
    joined = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
    assert etag == f'"{joined}-3"'
    got = s3.get_object(Bucket=bucket, Key="m")
    assert got["Body"].read() == b"".join(parts) and got["ContentType"] == "x/y"
    assert s3.get_object(Bucket=bucket, Key="m", PartNumber=3)["Body"].read() == b"tail"
    again = s3.complete_multipart_upload(Bucket=bucket, Key="m", UploadId=upload, MultipartUpload={"Parts": done})
    assert again["ETag"] == etag
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_an_aborted_upload_is_gone(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="m", UploadId=upload, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(Bucket=bucket, Key="m", UploadId=upload)
    assert error_code(s3.upload_part, Bucket=bucket, Key="m", UploadId=upload, PartNumber=1, Body=b"x")[0] == "NoSuchUpload"
    s3.delete_bucket(Bucket=bucket)


def test_managed_transfers_use_parts(s3, bucket):
    body = os.urandom(40 * 1024 * 1024)
    s3.upload_fileobj(io.BytesIO(body), bucket, "big")
    back = io.BytesIO()
    s3.download_fileobj(bucket, "big", back)
    assert back.getvalue() == body


def test_copies(s3, bucket):
    body = os.urandom(300_000)
    s3.put_object(Bucket=bucket, Key="from it", Body=body, Metadata={"a": "1"})
    s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "from it"})
    got = s3.get_object(Bucket=bucket, Key="to")
    assert got["Body"].read() == body and got["Metadata"] == {"a": "1"}
    s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "to"}, MetadataDirective="REPLACE", Metadata={"b": "2"})
    assert s3.head_object(Bucket=bucket, Key="to")["Metadata"] == {"b": "2"}


def test_conditional_reads(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    assert s3.get_object(Bucket=bucket, Key="k", IfMatch=etag)["Body"].read() == b"x"
    assert error_code(s3.get_object, Bucket=bucket, Key="k", IfNoneMatch=etag)[1] == 304
    assert error_code(s3.get_object, Bucket=bucket, Key="k", IfMatch='"other"')[1] == 412


def test_presigned_urls_of_both_signatures(server, bucket):
    for version in ["s3v4", "s3"]:
        s3 = server.client(signature_version=version)
        key = f"by {version}"
        put = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=60)
        assert requests.put(put, data=b"presigned").status_code == 200
        get = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key, "ResponseContentType": "a/b"})
        answer = requests.get(get)
        assert answer.content == b"presigned" and answer.headers["content-type"] == "a/b"
        assert requests.get(get.replace("Signature=", "Signature=0")).status_code == 403
    assert requests.get(f"{server.endpoint}/{bucket}/k").status_code == 403


def test_answers_of_signed_reads_have_the_headers_that_are_asked_for(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="text/plain", CacheControl="no-store")
    wanted = {"Content-Type": "a/b", "Content-Language": "de", "Expires": "Thu, 01 Dec 2033 16:00:00 GMT", "Cache-Control": "max-age=1",
              "Content-Disposition": 'attachment; filename="a b.txt"', "Content-Encoding": "identity"}
    asked = {f"Response{name.replace('-', '')}": value for name, value in wanted.items()}
    asked["ResponseExpires"] = datetime.datetime(2033, 12, 1, 16, tzinfo=datetime.timezone.utc)
    for version in ["s3v4", "s3"]:
        client = server.client(signature_version=version)
        for method, send in [("get_object", requests.get), ("head_object", requests.head)]:
            answer = send(client.generate_presigned_url(method, Params={"Bucket": bucket, "Key": "k", **asked}))
            assert answer.status_code == 200 and {name: answer.headers.get(name) for name in wanted} == wanted, (version, method)
    plain = s3.get_object(Bucket=bucket, Key="k")
    assert (plain["ContentType"], plain["CacheControl"]) == ("text/plain", "no-store"), "the object is as it was"
    missing = server.client().generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "none", **asked})
    assert requests.get(missing).headers["Content-Type"] == "application/xml"


def test_who_does_not_sign_may_not_choose_headers(server, s3, bucket):
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
                                                      "Resource": f"arn:aws:s3:::{bucket}/*"}]}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="text/plain")
    server.settle(bucket)
    url = f"{server.endpoint}/{bucket}/k"
    assert requests.get(url).headers["Content-Type"] == "text/plain"
    for name in ["content-type", "content-language", "expires", "cache-control", "content-disposition", "content-encoding"]:
        refused = requests.get(f"{url}?response-{name}=text/html")
        assert refused.status_code == 400 and "<Code>InvalidRequest</Code>" in refused.text, name
        assert requests.head(f"{url}?response-{name}=text/html").status_code == 400, name


def test_storage_classes_are_kept_and_told_by_every_way_to_write(s3, bucket):
    reduced = {"StorageClass": "REDUCED_REDUNDANCY"}
    s3.put_object(Bucket=bucket, Key="put", Body=os.urandom(300_000), **reduced)
    s3.put_object(Bucket=bucket, Key="plain", Body=b"x", StorageClass="STANDARD")
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "plain"}, **reduced)
    # A copy that says nothing is of the standard class, whatever its source.
    s3.copy_object(Bucket=bucket, Key="standard copy", CopySource={"Bucket": bucket, "Key": "put"})
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts", **reduced)["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    assert s3.list_parts(Bucket=bucket, Key="parts", UploadId=upload)["StorageClass"] == "REDUCED_REDUNDANCY"
    assert s3.list_multipart_uploads(Bucket=bucket)["Uploads"][0]["StorageClass"] == "REDUCED_REDUNDANCY"
    s3.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})
    form = s3.generate_presigned_post(bucket, "form", Fields={"x-amz-storage-class": "REDUCED_REDUNDANCY"},
                                      Conditions=[{"x-amz-storage-class": "REDUCED_REDUNDANCY"}])
    assert requests.post(form["url"], data=form["fields"], files={"file": b"x"}).status_code == 204
    classes = {"put": "REDUCED_REDUNDANCY", "copy": "REDUCED_REDUNDANCY", "parts": "REDUCED_REDUNDANCY", "form": "REDUCED_REDUNDANCY",
               "plain": "STANDARD", "standard copy": "STANDARD"}
    assert {item["Key"]: item["StorageClass"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]} == classes
    for key, name in classes.items():
        # Reads name the class unless it is the standard one.
        assert s3.head_object(Bucket=bucket, Key=key).get("StorageClass", "STANDARD") == name, key
        assert ("x-amz-storage-class" in s3.get_object(Bucket=bucket, Key=key)["ResponseMetadata"]["HTTPHeaders"]) == (name != "STANDARD"), key
        assert s3.get_object_attributes(Bucket=bucket, Key=key, ObjectAttributes=["StorageClass"])["StorageClass"] == name, key
    # An object changes its class by a copy onto itself.
    s3.copy_object(Bucket=bucket, Key="plain", CopySource={"Bucket": bucket, "Key": "plain"}, **reduced)
    assert s3.head_object(Bucket=bucket, Key="plain")["StorageClass"] == "REDUCED_REDUNDANCY"
    for wrong in ["GLACIER", "STANDARD_IA", "standard"]:
        for call, more in [(s3.put_object, {"Body": b"x"}), (s3.create_multipart_upload, {}),
                           (s3.copy_object, {"CopySource": {"Bucket": bucket, "Key": "put"}})]:
            assert error_code(call, Bucket=bucket, Key="wrong", StorageClass=wrong, **more) == ("InvalidStorageClass", 400)
    assert error_code(s3.head_object, Bucket=bucket, Key="wrong")[1] == 404


def test_attributes_are_told_as_they_are_asked_for(s3, bucket):
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"12345", ChecksumAlgorithm="SHA256")
    get = partial(s3.get_object_attributes, Bucket=bucket)
    names = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
    whole = get(Key="k", ObjectAttributes=names)
    assert (whole["ETag"], whole["ObjectSize"], whole["StorageClass"]) == (put["ETag"].strip('"'), 5, "STANDARD")
    assert whole["Checksum"] == {"ChecksumSHA256": put["ChecksumSHA256"], "ChecksumType": "FULL_OBJECT"}
    assert "ObjectParts" not in whole and whole["LastModified"] == s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    for name in names:
        found = get(Key="k", ObjectAttributes=[name])
        assert {other for other in names if other in found} == {name} - {"ObjectParts"}
    assert error_code(get, Key="k", ObjectAttributes=["Nonsense"]) == ("InvalidArgument", 400)
    assert error_code(get, Key="none", ObjectAttributes=names) == ("NoSuchKey", 404)
    upload = dict(Bucket=bucket, Key="p", UploadId=s3.create_multipart_upload(Bucket=bucket, Key="p")["UploadId"])
    part = s3.upload_part(**upload, PartNumber=7, Body=b"x")["ETag"]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 7, "ETag": part}]})
    found = get(Key="p", ObjectAttributes=["ObjectParts", "ETag"])
    assert found["ETag"].endswith("-1") and found["ObjectParts"]["TotalPartsCount"] == 1
    assert [(part["PartNumber"], part["Size"]) for part in found["ObjectParts"]["Parts"]] == [(7, 1)]
    none = get(Key="p", ObjectAttributes=["ObjectParts"], PartNumberMarker=7)["ObjectParts"]
    assert "Parts" not in none and not none["IsTruncated"]


def test_deleting_many(s3, bucket):
    for i in range(20):
        s3.put_object(Bucket=bucket, Key=f"k{i}", Body=b"x")
    assert error_code(s3.delete_bucket, Bucket=bucket) == ("BucketNotEmpty", 409)
    gone = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": f"k{i}"} for i in range(21)]})
    assert len(gone["Deleted"]) == 21 and "Errors" not in gone
    s3.delete_bucket(Bucket=bucket)
    assert settled(lambda: error_code(s3.head_bucket, Bucket=bucket))[1] == 404


def test_refusals_name_their_reason(server, s3, bucket):
    assert error_code(s3.get_object, Bucket="no-such-bucket-here", Key="k") == ("NoSuchBucket", 404)
    assert error_code(s3.create_bucket, Bucket="xn--reserved")[0] == "InvalidBucketName"
    assert error_code(s3.put_object, Bucket=bucket, Key="k", Body=b"x", ContentMD5="AAAAAAAAAAAAAAAAAAAAAA==")[0] == "BadDigest"
    assert error_code(s3.get_object, Bucket=bucket, Key="k") == ("NoSuchKey", 404)
    assert error_code(s3.upload_part, Bucket=bucket, Key="k", UploadId="nope", PartNumber=1, Body=b"")[0] == "NoSuchUpload"


def test_the_aws_command_line_round_trips_a_tree(server, bucket, tmp_path):
    tree = tmp_path / "tree"
    for i in range(120):
        file = tree / f"dir{i % 7}" / f"file {i}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(i * 997))
    (tree / "big").write_bytes(os.urandom(20 * 1024 * 1024))
    server.aws("s3", "sync", "--quiet", str(tree), f"s3://{bucket}/tree")
    server.aws("s3", "sync", "--quiet", f"s3://{bucket}/tree", str(tmp_path / "back"))
    for file in tree.rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "back" / file.relative_to(tree)).read_bytes(), file
    server.aws("s3", "rm", "--quiet", "--recursive", f"s3://{bucket}")
    server.aws("s3", "rb", f"s3://{bucket}")


def test_redirects_of_websites_are_not_copied(s3, bucket):
    """AWS: x-amz-website-redirect-location "is unique to each object and is not copied when using the x-amz-metadata-directive"."""
    s3.put_object(Bucket=bucket, Key="from", Body=b"x", WebsiteRedirectLocation="/old", ContentType="text/x-test")
    redirect = lambda key: s3.head_object(Bucket=bucket, Key=key).get("WebsiteRedirectLocation")
    copy = lambda key, **more: s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": "from"}, **more)
    for directive in ["COPY", "REPLACE"]:
        copy("to", MetadataDirective=directive)
        assert redirect("to") is None
        copy("to", MetadataDirective=directive, WebsiteRedirectLocation="/new")
        assert redirect("to") == "/new"
    assert error_code(copy, key="to", WebsiteRedirectLocation="new") == ("InvalidArgument", 400)
    assert error_code(copy, key="from") == ("InvalidRequest", 400) and redirect("from") == "/old"
    copy("from", WebsiteRedirectLocation="https://example.com/")
    assert redirect("from") == "https://example.com/" and s3.head_object(Bucket=bucket, Key="from")["ContentType"] == "text/x-test"
