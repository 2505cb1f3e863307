"""Versioning and object lock as boto3 sees them, against what the S3 documentation says. Each test on both shapes."""

import datetime

import pytest
from botocore.exceptions import ClientError


def error_code(call, **arguments):
    with pytest.raises(ClientError) as refused:
        call(**arguments)
    answer = refused.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def enable(s3, bucket, status="Enabled"):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == status


@pytest.fixture
def versioned(s3, bucket):
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    enable(s3, bucket)
    return bucket


@pytest.fixture
def locked(s3, bucket):
    name = f"{bucket}-locked"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


def in_days(days):
    now = datetime.datetime.now(datetime.timezone.utc)
    return (now + datetime.timedelta(days=days)).replace(microsecond=0)


def listed(s3, bucket, **arguments):
    """(kind, key, version id, is latest) of all pages, versions and delete markers apart."""
    found = []
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, **arguments):
        for kind in ["Versions", "DeleteMarkers"]:
            found += [(kind, item["Key"], item["VersionId"], item["IsLatest"]) for item in page.get(kind, [])]
    return found


def test_versions_are_read_by_their_ids_and_deleted_for_good(s3, versioned):
    ids = [s3.put_object(Bucket=versioned, Key="k", Body=f"v{i}".encode() * i)["VersionId"] for i in range(4)]
    assert len(set(ids)) == 4
    for i, version in enumerate(ids):
        got = s3.get_object(Bucket=versioned, Key="k", VersionId=version)
        assert got["Body"].read() == f"v{i}".encode() * i and got["VersionId"] == version
        assert s3.head_object(Bucket=versioned, Key="k", VersionId=version)["ContentLength"] == 2 * i
    assert s3.get_object(Bucket=versioned, Key="k")["VersionId"] == ids[3]
    marker = s3.delete_object(Bucket=versioned, Key="k")
    assert marker["DeleteMarker"] is True and marker["VersionId"] not in ids
    assert error_code(s3.get_object, Bucket=versioned, Key="k") == ("NoSuchKey", 404)
    assert error_code(s3.get_object, Bucket=versioned, Key="k", VersionId=marker["VersionId"]) == ("MethodNotAllowed", 405)
    assert "Contents" not in s3.list_objects_v2(Bucket=versioned)
    removed = s3.delete_object(Bucket=versioned, Key="k", VersionId=marker["VersionId"])
    assert removed["DeleteMarker"] is True and removed["VersionId"] == marker["VersionId"]
    assert s3.get_object(Bucket=versioned, Key="k")["VersionId"] == ids[3]
    s3.delete_object(Bucket=versioned, Key="k", VersionId=ids[3])
    assert s3.get_object(Bucket=versioned, Key="k")["VersionId"] == ids[2]
    assert error_code(s3.get_object, Bucket=versioned, Key="k", VersionId=ids[3]) == ("NoSuchVersion", 404)
    assert error_code(s3.get_object, Bucket=versioned, Key="k", VersionId="nonsense") == ("InvalidArgument", 400)
    assert error_code(s3.delete_bucket, Bucket=versioned) == ("BucketNotEmpty", 409)


def test_the_head_of_a_delete_marker_says_what_it_is(s3, versioned):
    s3.put_object(Bucket=versioned, Key="k", Body=b"x")
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    again = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    assert marker != again
    with pytest.raises(ClientError) as refused:
        s3.head_object(Bucket=versioned, Key="k")
    headers = refused.value.response["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amz-delete-marker"] == "true" and headers["x-amz-version-id"] == again
    with pytest.raises(ClientError) as refused:
        s3.head_object(Bucket=versioned, Key="k", VersionId=marker)
    answer = refused.value.response["ResponseMetadata"]
    assert answer["HTTPStatusCode"] == 405 and answer["HTTPHeaders"]["x-amz-delete-marker"] == "true"
    assert answer["HTTPHeaders"]["allow"] == "DELETE" and "last-modified" in answer["HTTPHeaders"]


def test_listings_of_versions_page_within_and_between_keys(s3, versioned):
    expected = []
    for key in ["a/1", "a/2", "b", "c//", "d"]:
        of_key = [s3.put_object(Bucket=versioned, Key=key, Body=b"x")["VersionId"] for _ in range(3)]
        if key == "b":
            marker = s3.delete_object(Bucket=versioned, Key=key)["VersionId"]
            expected.append(("DeleteMarkers", key, marker, True))
        latest = [key != "b", False, False]
        expected += [("Versions", key, version, first) for version, first in zip(reversed(of_key), latest)]
    for size in [1, 2, 4, 1000]:
        found = listed(s3, versioned, PaginationConfig={"PageSize": size})
        assert sorted(found) == sorted(expected), size
        for key in ["a/1", "a/2", "c//", "d"]:
            assert [item for item in found if item[1] == key] == [item for item in expected if item[1] == key], size
    page = s3.list_object_versions(Bucket=versioned, Delimiter="/")
    assert [prefix["Prefix"] for prefix in page["CommonPrefixes"]] == ["a/", "c/"]
    assert {item["Key"] for item in page["Versions"]} == {"b", "d"}
    page = s3.list_object_versions(Bucket=versioned, Prefix="a/", MaxKeys=2)
    assert page["IsTruncated"] and page["NextKeyMarker"] == "a/1"
    assert page["NextVersionIdMarker"] == page["Versions"][-1]["VersionId"]
    marked = error_code(s3.list_object_versions, Bucket=versioned, VersionIdMarker=expected[0][2])
    assert marked == ("InvalidArgument", 400)


def test_null_versions_before_and_after_versioning(s3, bucket):
    assert "VersionId" not in s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    assert error_code(s3.put_bucket_versioning, Bucket=bucket, VersioningConfiguration={})[0] == "IllegalVersioningConfigurationException"
    enable(s3, bucket)
    assert s3.get_object(Bucket=bucket, Key="k")["VersionId"] == "null"
    version = s3.put_object(Bucket=bucket, Key="k", Body=b"kept")["VersionId"]
    assert s3.get_object(Bucket=bucket, Key="k", VersionId="null")["Body"].read() == b"before"
    enable(s3, bucket, "Suspended")
    s3.put_object(Bucket=bucket, Key="k", Body=b"suspended")
    assert s3.get_object(Bucket=bucket, Key="k", VersionId="null")["Body"].read() == b"suspended"
    assert listed(s3, bucket) == [("Versions", "k", "null", True), ("Versions", "k", version, False)]
    marker = s3.delete_object(Bucket=bucket, Key="k")
    assert marker["VersionId"] == "null" and marker["DeleteMarker"] is True
    assert sorted(listed(s3, bucket)) == [("DeleteMarkers", "k", "null", True), ("Versions", "k", version, False)]
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"kept"
    enable(s3, bucket)
    s3.delete_object(Bucket=bucket, Key="k", VersionId=version)
    s3.delete_bucket(Bucket=bucket)


def test_copies_uploads_and_many_deletes_name_versions(s3, versioned):
    first = s3.put_object(Bucket=versioned, Key="k", Body=b"first", Metadata={"n": "1"})["VersionId"]
    s3.put_object(Bucket=versioned, Key="k", Body=b"second")
    source = {"Bucket": versioned, "Key": "k", "VersionId": first}
    copied = s3.copy_object(Bucket=versioned, Key="k", CopySource=source)
    assert copied["CopySourceVersionId"] == first and copied["VersionId"] != first
    got = s3.get_object(Bucket=versioned, Key="k")
    assert got["Body"].read() == b"first" and got["Metadata"] == {"n": "1"} and got["VersionId"] == copied["VersionId"]
    upload = s3.create_multipart_upload(Bucket=versioned, Key="k")["UploadId"]
    part = s3.upload_part_copy(Bucket=versioned, Key="k", UploadId=upload, PartNumber=1, CopySource=source)
    assert part["CopySourceVersionId"] == first
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]}
    done = s3.complete_multipart_upload(Bucket=versioned, Key="k", UploadId=upload, MultipartUpload=parts)
    assert s3.get_object_attributes(Bucket=versioned, Key="k", ObjectAttributes=["ObjectSize"], VersionId=done["VersionId"])["ObjectSize"] == 5
    ids = [version for _, _, version, _ in listed(s3, versioned)]
    assert len(ids) == 4 and done["VersionId"] in ids
    gone = s3.delete_objects(Bucket=versioned, Delete={"Objects": [{"Key": "k"}] + [{"Key": "k", "VersionId": version} for version in ids]})
    assert len(gone["Deleted"]) == 5 and "Errors" not in gone
    marker = gone["Deleted"][0]
    assert marker["DeleteMarker"] is True
    gone = s3.delete_objects(Bucket=versioned, Delete={"Objects": [{"Key": "k", "VersionId": marker["DeleteMarkerVersionId"]}]})
    assert gone["Deleted"][0]["DeleteMarker"] is True
    s3.delete_bucket(Bucket=versioned)


def test_conditional_writes_see_the_current_version(s3, versioned):
    etag = s3.put_object(Bucket=versioned, Key="k", Body=b"one", IfNoneMatch="*")["ETag"]
    assert error_code(s3.put_object, Bucket=versioned, Key="k", Body=b"two", IfNoneMatch="*") == ("PreconditionFailed", 412)
    s3.put_object(Bucket=versioned, Key="k", Body=b"two", IfMatch=etag)
    assert error_code(s3.put_object, Bucket=versioned, Key="k", Body=b"three", IfMatch=etag) == ("PreconditionFailed", 412)
    s3.delete_object(Bucket=versioned, Key="k")
    s3.put_object(Bucket=versioned, Key="k", Body=b"four", IfNoneMatch="*")
    assert len(listed(s3, versioned)) == 4


def test_retention_keeps_a_version(s3, locked):
    assert s3.get_bucket_versioning(Bucket=locked)["Status"] == "Enabled"
    assert s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"] == {"ObjectLockEnabled": "Enabled"}
    until = in_days(2)
    version = s3.put_object(Bucket=locked, Key="k", Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until)["VersionId"]
    head = s3.head_object(Bucket=locked, Key="k")
    assert head["ObjectLockMode"] == "GOVERNANCE" and head["ObjectLockRetainUntilDate"] == until
    assert error_code(s3.delete_object, Bucket=locked, Key="k", VersionId=version) == ("AccessDenied", 403)
    many = s3.delete_objects(Bucket=locked, Delete={"Objects": [{"Key": "k", "VersionId": version}]})
    assert many["Errors"][0]["Code"] == "AccessDenied" and "Deleted" not in many
    marker = s3.delete_object(Bucket=locked, Key="k")["VersionId"]
    s3.delete_object(Bucket=locked, Key="k", VersionId=marker)
    shorter = {"Mode": "GOVERNANCE", "RetainUntilDate": in_days(1)}
    named = {"Bucket": locked, "Key": "k", "VersionId": version}
    assert error_code(s3.put_object_retention, **named, Retention=shorter) == ("AccessDenied", 403)
    s3.put_object_retention(**named, Retention=shorter, BypassGovernanceRetention=True)
    assert s3.get_object_retention(**named)["Retention"] == shorter
    s3.put_object_retention(**named, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": in_days(2)}, BypassGovernanceRetention=True)
    assert error_code(s3.put_object_retention, **named, Retention=shorter, BypassGovernanceRetention=True) == ("AccessDenied", 403)
    assert error_code(s3.delete_object, **named, BypassGovernanceRetention=True) == ("AccessDenied", 403)


def test_a_legal_hold_keeps_a_version(s3, locked):
    version = s3.put_object(Bucket=locked, Key="k", Body=b"x", ObjectLockLegalHoldStatus="ON")["VersionId"]
    newer = s3.put_object(Bucket=locked, Key="k", Body=b"y")["VersionId"]
    named = {"Bucket": locked, "Key": "k", "VersionId": version}
    assert s3.get_object_legal_hold(**named)["LegalHold"]["Status"] == "ON"
    assert s3.head_object(**named)["ObjectLockLegalHoldStatus"] == "ON"
    assert error_code(s3.delete_object, **named, BypassGovernanceRetention=True) == ("AccessDenied", 403)
    s3.put_object_legal_hold(**named, LegalHold={"Status": "OFF"})
    s3.delete_object(**named)
    assert error_code(s3.get_object_retention, Bucket=locked, Key="k") == ("NoSuchObjectLockConfiguration", 404)
    s3.delete_object(Bucket=locked, Key="k", VersionId=newer)
    s3.delete_bucket(Bucket=locked)


def test_a_default_retention_is_taken_by_every_way_to_write(s3, locked):
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}}
    s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule})
    assert s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"]["Rule"] == rule
    s3.put_object(Bucket=locked, Key="put", Body=b"x" * 10)
    s3.copy_object(Bucket=locked, Key="copied", CopySource={"Bucket": locked, "Key": "put"})
    upload = s3.create_multipart_upload(Bucket=locked, Key="parts")["UploadId"]
    part = s3.upload_part(Bucket=locked, Key="parts", UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    s3.complete_multipart_upload(Bucket=locked, Key="parts", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})
    for key in ["put", "copied", "parts"]:
        retention = s3.get_object_retention(Bucket=locked, Key=key)["Retention"]
        assert retention["Mode"] == "GOVERNANCE", key
        assert in_days(3) - datetime.timedelta(minutes=2) < retention["RetainUntilDate"] <= in_days(3) + datetime.timedelta(seconds=2), key
    own = s3.create_multipart_upload(Bucket=locked, Key="own", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=in_days(1))["UploadId"]
    s3.abort_multipart_upload(Bucket=locked, Key="own", UploadId=own)
    s3.put_object(Bucket=locked, Key="own", Body=b"x", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=in_days(1))
    assert s3.get_object_retention(Bucket=locked, Key="own")["Retention"]["Mode"] == "COMPLIANCE"


def test_what_object_lock_refuses(s3, bucket, locked):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert error_code(s3.get_object_lock_configuration, Bucket=bucket) == ("ObjectLockConfigurationNotFoundError", 404)
    enabled = {"ObjectLockEnabled": "Enabled"}
    assert error_code(s3.put_object_lock_configuration, Bucket=bucket, ObjectLockConfiguration=enabled) == ("InvalidBucketState", 409)
    until = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": in_days(1)}
    assert error_code(s3.put_object, Bucket=bucket, Key="k", Body=b"x", **until) == ("InvalidRequest", 400)
    assert error_code(s3.put_object_legal_hold, Bucket=bucket, Key="k", LegalHold={"Status": "ON"}) == ("InvalidRequest", 400)
    assert error_code(s3.create_multipart_upload, Bucket=bucket, Key="k", **until) == ("InvalidRequest", 400)
    suspended = {"Status": "Suspended"}
    assert error_code(s3.put_bucket_versioning, Bucket=locked, VersioningConfiguration=suspended) == ("InvalidBucketState", 409)
    past = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": in_days(-1)}
    assert error_code(s3.put_object, Bucket=locked, Key="k", Body=b"x", **past) == ("InvalidArgument", 400)
    assert error_code(s3.put_object, Bucket=locked, Key="k", Body=b"x", ObjectLockMode="GOVERNANCE") == ("InvalidArgument", 400)
    both = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1, "Years": 1}}}
    assert error_code(s3.put_object_lock_configuration, Bucket=locked, ObjectLockConfiguration=both) == ("MalformedXML", 400)
    enable(s3, bucket)
    s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=enabled)
    assert s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"] == enabled
