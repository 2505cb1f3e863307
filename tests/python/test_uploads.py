"""Multipart uploads, their listings and checksums, and conditional copies of objects and parts, against the S3 documentation.
Each test on both shapes."""

import base64
import datetime
import hashlib
import os
import time
import zlib
from functools import partial

import pytest

from test_boto3 import error_code

MIB = 1024 * 1024


def begin(s3, bucket, key, **more):
    """The arguments that name a new upload."""
    return {"Bucket": bucket, "Key": key, "UploadId": s3.create_multipart_upload(Bucket=bucket, Key=key, **more)["UploadId"]}


def put_parts(s3, upload, *bodies, **more):
    """Writes parts; what Complete wants to know of them."""
    sent = [s3.upload_part(**upload, PartNumber=number, Body=body, **more) for number, body in enumerate(bodies, 1)]
    return [{"PartNumber": number, **{name: value for name, value in part.items() if name == "ETag" or name.startswith("Checksum")}}
            for number, part in enumerate(sent, 1)]


def text(value):
    return base64.b64encode(value).decode()


def crc32(body):
    return zlib.crc32(body).to_bytes(4, "big")


DIGESTS = {"CRC32": crc32, "SHA1": lambda body: hashlib.sha1(body).digest(), "SHA256": lambda body: hashlib.sha256(body).digest()}


@pytest.mark.parametrize("algorithm, kind", [("CRC32", "COMPOSITE"), ("CRC32", "FULL_OBJECT"), ("SHA1", "COMPOSITE"), ("SHA256", "COMPOSITE")])
def test_an_upload_has_the_checksum_that_it_began_with(s3, bucket, algorithm, kind):
    digest = DIGESTS[algorithm]
    bodies = [os.urandom(5 * MIB), b"tail"]
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm, ChecksumType=kind)
    assert (begun["ChecksumAlgorithm"], begun["ChecksumType"]) == (algorithm, kind)
    upload = {"Bucket": bucket, "Key": "k", "UploadId": begun["UploadId"]}
    name, parts = f"Checksum{algorithm}", put_parts(s3, upload, *bodies, ChecksumAlgorithm=algorithm)
    assert [part[name] for part in parts] == [text(digest(body)) for body in bodies]
    listed = s3.list_parts(**upload)
    assert (listed["ChecksumAlgorithm"], listed["ChecksumType"]) == (algorithm, kind)
    assert [part[name] for part in listed["Parts"]] == [part[name] for part in parts]
    [shown] = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert (shown["ChecksumAlgorithm"], shown["ChecksumType"]) == (algorithm, kind)
    whole = text(digest(b"".join(bodies))) if kind == "FULL_OBJECT" else text(digest(b"".join(map(digest, bodies)))) + "-2"
    complete = partial(s3.complete_multipart_upload, **upload, MultipartUpload={"Parts": parts})
    other = "COMPOSITE" if kind == "FULL_OBJECT" else "FULL_OBJECT"
    for wrong in [{name: text(bytes(len(digest(b""))))}, {name: whole.removesuffix("-2"), "ChecksumType": other}]:
        assert error_code(complete, **wrong) == ("BadDigest", 400), wrong
    done = complete(**{name: whole}, ChecksumType=kind, MpuObjectSize=5 * MIB + 4)
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    found = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["Checksum", "ObjectParts"])
    for answer in [done, head, found["Checksum"]]:
        assert (answer[name], answer["ChecksumType"]) == (whole, kind)
    assert [part[name] for part in found["ObjectParts"]["Parts"]] == [part[name] for part in parts]
    assert s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["Body"].read() == b"".join(bodies)
    tail = s3.get_object(Bucket=bucket, Key="k", PartNumber=2, ChecksumMode="ENABLED")
    assert (tail[name], tail["ChecksumType"]) == (text(digest(b"tail")), kind)
    [item] = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert (item["ChecksumAlgorithm"], item["ChecksumType"]) == ([algorithm], kind)


def test_checksums_that_cannot_be_are_refused(s3, bucket):
    for algorithm, kind in [("SHA1", "FULL_OBJECT"), ("SHA256", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE"), ("NONSENSE", "COMPOSITE"),
                            ("CRC32", "NONSENSE")]:
        wrong = dict(Bucket=bucket, Key="k", ChecksumAlgorithm=algorithm, ChecksumType=kind)
        assert error_code(s3.create_multipart_upload, **wrong) == ("InvalidRequest", 400), (algorithm, kind)
    upload = begin(s3, bucket, "k", ChecksumAlgorithm="SHA256")
    assert error_code(s3.upload_part, **upload, PartNumber=1, Body=b"x", ChecksumAlgorithm="CRC32") == ("InvalidRequest", 400)
    assert error_code(s3.upload_part, **upload, PartNumber=1, Body=b"x", ChecksumSHA256=text(bytes(32))) == ("BadDigest", 400)
    assert "Parts" not in s3.list_parts(**upload)
    [part] = put_parts(s3, upload, b"x", ChecksumAlgorithm="SHA256")
    complete = partial(s3.complete_multipart_upload, **upload)
    for more, parts, expected in [
            ({}, [{**part, "ChecksumSHA256": text(bytes(32))}], "InvalidPart"), ({}, [{**part, "ChecksumSHA256": "AAAA"}], "InvalidPart"),
            ({"ChecksumSHA256": "AAAA"}, [part], "InvalidRequest"), ({"ChecksumSHA256": text(bytes(32)) + "-1"}, [part], "BadDigest"),
            ({"MpuObjectSize": 2}, [part], "InvalidRequest")]:
        assert error_code(complete, MultipartUpload={"Parts": parts}, **more) == (expected, 400), (more, parts)
    complete(MultipartUpload={"Parts": [part]}, MpuObjectSize=1)


def test_what_complete_refuses_leaves_the_upload_open(s3, bucket):
    upload = begin(s3, bucket, "k")
    one, two, three = parts = put_parts(s3, upload, b"small", os.urandom(5 * MIB), b"x")
    complete = partial(s3.complete_multipart_upload, **upload)
    for chosen, expected in [([two, one], "InvalidPartOrder"), ([two, two], "InvalidPartOrder"), ([one, two], "EntityTooSmall"),
                             ([{**two, "PartNumber": 4}], "InvalidPart"), ([{**two, "ETag": one["ETag"]}], "InvalidPart"),
                             ([{**two, "PartNumber": 0}], "InvalidArgument"), ([{**two, "PartNumber": 10_001}], "InvalidArgument"),
                             ([], "MalformedXML")]:
        assert error_code(complete, MultipartUpload={"Parts": chosen}) == (expected, 400), expected
    s3.put_object(Bucket=bucket, Key="k", Body=b"there")
    assert error_code(complete, MultipartUpload={"Parts": [one]}, IfNoneMatch="*") == ("PreconditionFailed", 412)
    assert error_code(complete, MultipartUpload={"Parts": [one]}, IfMatch='"other"') == ("PreconditionFailed", 412)
    assert [part["PartNumber"] for part in s3.list_parts(**upload)["Parts"]] == [1, 2, 3]
    for number in [0, 10_001]:
        assert error_code(s3.upload_part, **upload, PartNumber=number, Body=b"x") == ("InvalidArgument", 400)
    etag = s3.head_object(Bucket=bucket, Key="k")["ETag"]
    done = complete(MultipartUpload={"Parts": [two, three]}, IfMatch=etag)
    assert s3.get_object(Bucket=bucket, Key="k", PartNumber=3)["Body"].read() == b"x" and done["Key"] == "k"
    assert error_code(s3.get_object, Bucket=bucket, Key="k", PartNumber=1) == ("InvalidPartNumber", 416)
    assert error_code(complete, MultipartUpload={"Parts": parts})[0] == "NoSuchUpload"
    other = {**begin(s3, bucket, "k"), "Key": "another"}
    for call, more in [(s3.list_parts, {}), (s3.abort_multipart_upload, {}), (s3.upload_part, {"PartNumber": 1, "Body": b""}),
                       (s3.complete_multipart_upload, {"MultipartUpload": {"Parts": [one]}})]:
        assert error_code(call, **other, **more) == ("NoSuchUpload", 404), "an upload is of its key"


def test_conditions_of_copies_are_judged_together(s3, bucket):
    """The four headers of a source, alone and by the pairs that the documentation of CopyObject and UploadPartCopy names."""
    put = s3.put_object(Bucket=bucket, Key="from", Body=b"x")
    etag, hour = put["ETag"], datetime.timedelta(hours=1)
    written = s3.head_object(Bucket=bucket, Key="from")["LastModified"]
    before, after, other = written - hour, written + hour, '"00000000000000000000000000000000"'
    upload = begin(s3, bucket, "parts")
    copies = [partial(s3.copy_object, Bucket=bucket, Key="to"), partial(s3.upload_part_copy, **upload, PartNumber=1)]
    for copy in (partial(copy, CopySource={"Bucket": bucket, "Key": "from"}) for copy in copies):
        for conditions, holds in [
                ({"IfMatch": etag}, True), ({"IfMatch": other}, False), ({"IfNoneMatch": other}, True), ({"IfNoneMatch": etag}, False),
                ({"IfUnmodifiedSince": after}, True), ({"IfUnmodifiedSince": before}, False), ({"IfModifiedSince": before}, True),
                ({"IfModifiedSince": written}, False), ({"IfMatch": etag, "IfUnmodifiedSince": before}, True),
                ({"IfMatch": other, "IfUnmodifiedSince": after}, False), ({"IfNoneMatch": etag, "IfModifiedSince": before}, False),
                ({"IfNoneMatch": other, "IfModifiedSince": before}, True)]:
            asked = {f"CopySource{name}": value for name, value in conditions.items()}
            if holds:
                copy(**asked)
            else:
                assert error_code(copy, **asked) == ("PreconditionFailed", 412), conditions
        assert error_code(copy, CopySource={"Bucket": bucket, "Key": "none"}, CopySourceIfMatch=etag) == ("NoSuchKey", 404)
        assert error_code(copy, CopySource={"Bucket": f"{bucket}-none", "Key": "from"}) == ("NoSuchBucket", 404)
        assert error_code(copy, CopySource=bucket) == ("InvalidArgument", 400)
    # And of what is written.
    copy = partial(copies[0], CopySource={"Bucket": bucket, "Key": "from"})
    assert error_code(copy, IfNoneMatch="*") == ("PreconditionFailed", 412)
    assert error_code(copy, IfMatch=other) == ("PreconditionFailed", 412)
    copy(IfMatch=s3.head_object(Bucket=bucket, Key="to")["ETag"])
    copy(Key="new", IfNoneMatch="*")
    assert error_code(copy, Key="newer", IfMatch=etag) == ("NoSuchKey", 404)
    gone = {**upload, "UploadId": "0" * 32}
    assert error_code(s3.upload_part_copy, **gone, PartNumber=1, CopySource={"Bucket": bucket, "Key": "from"}) == ("NoSuchUpload", 404)


def test_copies_onto_themselves_must_change_something(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"a": "1"}, ContentType="a/b")
    itself = dict(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "k"})
    assert error_code(s3.copy_object, **itself) == ("InvalidRequest", 400)
    assert error_code(s3.copy_object, **itself, MetadataDirective="NONSENSE") == ("InvalidArgument", 400)
    s3.copy_object(**itself, MetadataDirective="REPLACE", Metadata={"b": "2"})
    found = s3.head_object(Bucket=bucket, Key="k")
    assert found["Metadata"] == {"b": "2"} and found["ContentType"] != "a/b"


def test_parts_are_listed_in_pages(s3, bucket):
    upload, numbers = begin(s3, bucket, "k"), [1, 2, 5, 9, 10_000]
    for number in numbers:
        s3.upload_part(**upload, PartNumber=number, Body=b"x" * number)
    for size in [1, 2, 4, 5, 1000]:
        pages = list(s3.get_paginator("list_parts").paginate(**upload, PaginationConfig={"PageSize": size}))
        assert [part["PartNumber"] for page in pages for part in page["Parts"]] == numbers, size
        assert [page["IsTruncated"] for page in pages] == [True] * (len(pages) - 1) + [False] and len(pages) == -(-5 // size), size
    page = s3.list_parts(**upload, PartNumberMarker=2, MaxParts=2)
    assert (page["PartNumberMarker"], page["NextPartNumberMarker"], page["MaxParts"], page["IsTruncated"]) == (2, 9, 2, True)
    assert [(part["PartNumber"], part["Size"]) for part in page["Parts"]] == [(5, 5), (9, 9)]
    assert page["StorageClass"] == "STANDARD" and page["Initiator"]["ID"] == page["Owner"]["ID"]
    assert "Parts" not in s3.list_parts(**upload, PartNumberMarker=10_000)
    none = s3.list_parts(**upload, MaxParts=0)
    assert "Parts" not in none and not none["IsTruncated"]
    for wrong in [{"MaxParts": -1}, {"PartNumberMarker": -1}, {"PartNumberMarker": 100_000}]:
        assert error_code(s3.list_parts, **upload, **wrong) == ("InvalidArgument", 400)
    s3.abort_multipart_upload(**upload)
    assert error_code(s3.list_parts, **upload) == ("NoSuchUpload", 404)


def test_uploads_are_listed_in_pages_by_key_and_beginning(s3, bucket):
    uploads = []
    for key in ["a", "b", "b", "b", "c/1", "c/2", "d é"]:
        uploads.append((key, begin(s3, bucket, key)["UploadId"]))
        # The next one begins later by any clock of this machine.
        time.sleep(0.01)
    of = lambda page: [(upload["Key"], upload["UploadId"]) for upload in page.get("Uploads", [])]
    for size in [1, 2, 3, 7]:
        pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, PaginationConfig={"PageSize": size})
        assert [found for page in pages for found in of(page)] == uploads, size
    lists = partial(s3.list_multipart_uploads, Bucket=bucket)
    assert of(lists(KeyMarker="b")) == uploads[4:], "all of that key are behind"
    assert of(lists(KeyMarker="b", UploadIdMarker=uploads[1][1])) == uploads[2:]
    assert of(lists(UploadIdMarker=uploads[1][1])) == uploads, "it means nothing without a key"
    assert of(lists(Prefix="c/")) == uploads[4:6] and of(lists(Prefix="x")) == []
    rolled = lists(Delimiter="/")
    assert [prefix["Prefix"] for prefix in rolled["CommonPrefixes"]] == ["c/"] and of(rolled) == uploads[:4] + uploads[6:]
    # A page that ends with what is rolled up goes on behind it.
    first = lists(Delimiter="/", MaxUploads=5)
    assert first["IsTruncated"] and len(of(first)) == 4 and [prefix["Prefix"] for prefix in first["CommonPrefixes"]] == ["c/"]
    rest = lists(Delimiter="/", KeyMarker=first["NextKeyMarker"], UploadIdMarker=first.get("NextUploadIdMarker", ""))
    assert of(rest) == uploads[6:] and "CommonPrefixes" not in rest
    none = lists(MaxUploads=0)
    assert of(none) == [] and not none["IsTruncated"]
    for wrong in [{"MaxUploads": -1}, {"KeyMarker": "b", "UploadIdMarker": "nonsense"}, {"EncodingType": "nonsense"}]:
        assert error_code(lists, **wrong) == ("InvalidArgument", 400), wrong
    assert error_code(s3.list_multipart_uploads, Bucket=f"{bucket}-none") == ("NoSuchBucket", 404)


def test_ranges_of_copied_parts_must_lie_in_the_source(s3, bucket):
    body = os.urandom(1000)
    s3.put_object(Bucket=bucket, Key="from", Body=body)
    upload = begin(s3, bucket, "to")
    copy = partial(s3.upload_part_copy, **upload, CopySource={"Bucket": bucket, "Key": "from"})
    for bad in ["bytes=0-1000", "bytes=1000-1000", "bytes=-5", "bytes=5-", "bytes=9-8", "bytes=0-1,3-4", "lines=0-1", "nonsense"]:
        assert error_code(copy, PartNumber=1, CopySourceRange=bad) == ("InvalidArgument", 400), bad
    assert "Parts" not in s3.list_parts(**upload)
    etag = copy(PartNumber=1, CopySourceRange="bytes=999-999")["CopyPartResult"]["ETag"]
    assert etag == f'"{hashlib.md5(body[999:]).hexdigest()}"'
    whole = copy(PartNumber=1)["CopyPartResult"]["ETag"]
    s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": whole}]})
    assert s3.get_object(Bucket=bucket, Key="to")["Body"].read() == body


def test_parts_are_copied_by_range_and_attributes_are_paged(s3, bucket):
    body = os.urandom(6 * MIB)
    etag = s3.put_object(Bucket=bucket, Key="from", Body=body)["ETag"]
    source = {"Bucket": bucket, "Key": "from"}
    upload = s3.create_multipart_upload(Bucket=bucket, Key="to", ChecksumAlgorithm="CRC32")["UploadId"]
    copy = dict(Bucket=bucket, Key="to", UploadId=upload, CopySource=source)
    parts = []
    for number, (first, last) in enumerate([(0, 5 * MIB - 1), (5 * MIB, len(body) - 1)], 1):
        done = s3.upload_part_copy(**copy, PartNumber=number, CopySourceRange=f"bytes={first}-{last}",
                                   CopySourceIfMatch=etag)["CopyPartResult"]
        parts.append({"PartNumber": number, "ETag": done["ETag"], "ChecksumCRC32": done["ChecksumCRC32"]})
    for bad in ["bytes=0-", "0-5", f"bytes=0-{len(body)}", "bytes=5-2"]:
        assert error_code(s3.upload_part_copy, **copy, PartNumber=3, CopySourceRange=bad)[0] == "InvalidArgument", bad
    assert error_code(s3.upload_part_copy, **copy, PartNumber=3, CopySourceIfNoneMatch=etag) == ("PreconditionFailed", 412)
    s3.complete_multipart_upload(Bucket=bucket, Key="to", UploadId=upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket=bucket, Key="to")["Body"].read() == body
    names = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
    first = s3.get_object_attributes(Bucket=bucket, Key="to", ObjectAttributes=names, MaxParts=1)
    assert first["ObjectSize"] == len(body) and first["StorageClass"] == "STANDARD" and "ChecksumCRC32" in first["Checksum"]
    page = first["ObjectParts"]
    assert page["TotalPartsCount"] == 2 and page["IsTruncated"] and page["NextPartNumberMarker"] == 1
    second = s3.get_object_attributes(Bucket=bucket, Key="to", ObjectAttributes=["ObjectParts"], PartNumberMarker=1)
    assert [part["PartNumber"] for part in second["ObjectParts"]["Parts"]] == [2]
    assert "ETag" not in second and not second["ObjectParts"]["IsTruncated"]
