"""Versioning and object lock as boto3 sees them, against what the S3 documentation says. Each test on both shapes."""

import datetime
import time

import pytest
from botocore.exceptions import ClientError

from conftest import PATIENCE
from test_access import DENIED, new_bucket, set_policy, statement
from test_boto3 import error_code


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


def pages_of_one(s3, bucket, **marker):
    page = s3.list_object_versions(Bucket=bucket, MaxKeys=1, **marker)
    found = page.get("Versions", []) + page.get("DeleteMarkers", [])
    following = {"KeyMarker": page.get("NextKeyMarker"), "VersionIdMarker": page.get("NextVersionIdMarker")}
    return [item["VersionId"] for item in found], following if page["IsTruncated"] else None


def test_a_listing_goes_on_below_a_null_version_that_was_removed_meanwhile(s3, versioned):
    older = [s3.put_object(Bucket=versioned, Key="k", Body=b"x")["VersionId"] for _ in range(2)]
    enable(s3, versioned, "Suspended")
    s3.put_object(Bucket=versioned, Key="k", Body=b"null")
    found, following = pages_of_one(s3, versioned)
    assert found == ["null"]
    s3.delete_object(Bucket=versioned, Key="k", VersionId="null")
    for expected in reversed(older):
        found, following = pages_of_one(s3, versioned, **following)
        assert found == [expected]
    assert following is None


def test_a_listing_repeats_nothing_when_an_old_null_version_was_removed_meanwhile(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    enable(s3, bucket)
    newer = [s3.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"] for _ in range(2)]
    s3.put_object(Bucket=bucket, Key="l", Body=b"behind")
    seen, following = pages_of_one(s3, bucket)
    while seen[-1] != "null":
        found, following = pages_of_one(s3, bucket, **following)
        seen += found
    assert seen == [*reversed(newer), "null"]
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    found, following = pages_of_one(s3, bucket, **following)
    assert found not in [[version] for version in newer] and following is None


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


def test_consecutive_delete_markers_are_versions_of_their_own(s3, versioned):
    version = s3.put_object(Bucket=versioned, Key="k", Body=b"x")["VersionId"]
    first, second, third = (s3.delete_object(Bucket=versioned, Key="k")["VersionId"] for _ in range(3))
    stack = [("DeleteMarkers", "k", third, True), ("DeleteMarkers", "k", second, False), ("DeleteMarkers", "k", first, False),
             ("Versions", "k", version, False)]
    of_key = lambda size=1: listed(s3, versioned, Prefix="k", PaginationConfig={"PageSize": size})
    assert of_key() == stack
    for size in [2, 3, 1000]:
        assert sorted(of_key(size)) == sorted(stack), size
    # One in the middle, then the latest: each uncovers what lies below.
    assert s3.delete_object(Bucket=versioned, Key="k", VersionId=second)["DeleteMarker"] is True
    s3.delete_object(Bucket=versioned, Key="k", VersionId=third)
    assert of_key() == [("DeleteMarkers", "k", first, True), ("Versions", "k", version, False)]
    assert error_code(s3.get_object, Bucket=versioned, Key="k") == ("NoSuchKey", 404)
    s3.delete_object(Bucket=versioned, Key="k", VersionId=first)
    assert s3.get_object(Bucket=versioned, Key="k")["VersionId"] == version
    # A key that never was gets one, too.
    alone = s3.delete_object(Bucket=versioned, Key="never")
    assert alone["DeleteMarker"] is True and listed(s3, versioned, Prefix="never") == [("DeleteMarkers", "never", alone["VersionId"], True)]
    # Where versioning is suspended each one takes the place of the null version before.
    enable(s3, versioned, "Suspended")
    s3.put_object(Bucket=versioned, Key="k", Body=b"null")
    for _ in range(3):
        gone = s3.delete_object(Bucket=versioned, Key="k")
        assert gone["DeleteMarker"] is True and gone["VersionId"] == "null"
        assert of_key() == [("DeleteMarkers", "k", "null", True), ("Versions", "k", version, False)]
    enable(s3, versioned)
    latest = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    assert of_key() == [("DeleteMarkers", "k", latest, True), ("DeleteMarkers", "k", "null", False), ("Versions", "k", version, False)]
    many = s3.delete_objects(Bucket=versioned, Delete={"Objects": [{"Key": "k", "VersionId": of} for of in ["null", latest]]})
    assert all(deleted["DeleteMarker"] for deleted in many["Deleted"])
    assert s3.get_object(Bucket=versioned, Key="k")["Body"].read() == b"x"


def test_what_is_asked_about_a_version_is_about_that_version(s3, versioned):
    tagging = lambda value: {"TagSet": [{"Key": "n", "Value": value}]}
    old = s3.put_object(Bucket=versioned, Key="k", Body=b"one", Tagging="n=1")["VersionId"]
    new = s3.put_object(Bucket=versioned, Key="k", Body=b"three", Tagging="n=3")["VersionId"]
    gone = s3.put_object(Bucket=versioned, Key="k", Body=b"gone")["VersionId"]
    s3.delete_object(Bucket=versioned, Key="k", VersionId=gone)
    this = lambda version: {"Bucket": versioned, "Key": "k", "VersionId": version}
    assert s3.put_object_tagging(**this(old), Tagging=tagging("0"))["VersionId"] == old
    for version, value, size in [(old, "0", 3), (new, "3", 5)]:
        found = s3.get_object_tagging(**this(version))
        assert found["TagSet"] == tagging(value)["TagSet"] and found["VersionId"] == version
        found = s3.get_object_attributes(**this(version), ObjectAttributes=["ObjectSize"])
        assert (found["ObjectSize"], found["VersionId"]) == (size, version)
        assert len(s3.get_object_acl(**this(version))["Grants"]) == 1
    assert s3.get_object_tagging(Bucket=versioned, Key="k")["TagSet"] == tagging("3")["TagSet"]
    assert s3.delete_object_tagging(**this(old))["VersionId"] == old
    assert s3.get_object_tagging(**this(old))["TagSet"] == [] and s3.get_object(**this(new))["TagCount"] == 1
    # A version that is not there, and one that is a delete marker.
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    for version, expected in [(gone, ("NoSuchVersion", 404)), (marker, ("MethodNotAllowed", 405))]:
        for call, more in [(s3.get_object, {}), (s3.get_object_tagging, {}), (s3.put_object_tagging, {"Tagging": tagging("x")}),
                           (s3.delete_object_tagging, {}), (s3.get_object_attributes, {"ObjectAttributes": ["ETag"]}), (s3.get_object_acl, {})]:
            assert error_code(call, **this(version), **more) == expected, call.__name__
        assert error_code(s3.head_object, **this(version))[1] == expected[1]
    # Deletes are done when there is nothing left to do.
    assert s3.delete_object(**this(gone))["ResponseMetadata"]["HTTPStatusCode"] == 204
    many = s3.delete_objects(Bucket=versioned, Delete={"Objects": [{"Key": "k", "VersionId": gone}, {"Key": "k", "VersionId": "nonsense"}]})
    assert [deleted["VersionId"] for deleted in many["Deleted"]] == [gone]
    assert [error["Code"] for error in many["Errors"]] == ["InvalidArgument"]


def test_a_delete_marker_is_no_source_of_a_copy(s3, versioned):
    version = s3.put_object(Bucket=versioned, Key="k", Body=b"x")["VersionId"]
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    upload = s3.create_multipart_upload(Bucket=versioned, Key="to")["UploadId"]
    for call, more in [(s3.copy_object, {}), (s3.upload_part_copy, {"UploadId": upload, "PartNumber": 1})]:
        copy = lambda **source: dict(Bucket=versioned, Key="to", CopySource={"Bucket": versioned, "Key": "k", **source}, **more)
        assert error_code(call, **copy()) == ("NoSuchKey", 404)
        assert error_code(call, **copy(VersionId=marker)) == ("InvalidRequest", 400)
        assert call(**copy(VersionId=version))["CopySourceVersionId"] == version


def test_configurations_of_versioning_that_mean_nothing_are_refused(s3, bucket):
    put = lambda **configuration: dict(Bucket=bucket, VersioningConfiguration=configuration)
    assert error_code(s3.put_bucket_versioning, **put(Status="Never")) == ("MalformedXML", 400)
    assert error_code(s3.put_bucket_versioning, **put(Status="Enabled", MFADelete="Enabled")) == ("NotImplemented", 501)
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    for call, more in [(s3.get_bucket_versioning, {}), (s3.list_object_versions, {}), (s3.put_bucket_versioning, put(Status="Enabled"))]:
        assert error_code(call, **{**more, "Bucket": f"{bucket}-none"}) == ("NoSuchBucket", 404)
    for wrong in [{"KeyMarker": "k", "VersionIdMarker": "nonsense"}, {"MaxKeys": -1}, {"EncodingType": "nonsense"}]:
        assert error_code(s3.list_object_versions, Bucket=bucket, **wrong) == ("InvalidArgument", 400), wrong
    none = s3.list_object_versions(Bucket=bucket, MaxKeys=0)
    assert none["MaxKeys"] == 0 and not none["IsTruncated"] and "Versions" not in none


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


def test_retention_is_extended_by_whoever_may_set_it_and_taken_back_by_a_bypass(s3, locked):
    named = {"Bucket": locked, "Key": "k", "VersionId": s3.put_object(Bucket=locked, Key="k", Body=b"x")["VersionId"]}
    retain = lambda mode, days, **more: dict(named, Retention={"Mode": mode, "RetainUntilDate": in_days(days)}, **more)
    s3.put_object_retention(**retain("GOVERNANCE", 1))
    s3.put_object_retention(**retain("GOVERNANCE", 2))
    assert error_code(s3.put_object_retention, **named, Retention={}) == DENIED
    s3.put_object_retention(**named, Retention={}, BypassGovernanceRetention=True)
    assert error_code(s3.get_object_retention, **named) == ("NoSuchObjectLockConfiguration", 404)
    assert "ObjectLockMode" not in s3.head_object(**named)
    s3.put_object_retention(**retain("COMPLIANCE", 1))
    kept = retain("COMPLIANCE", 2)
    s3.put_object_retention(**kept)
    for wrong in [retain("COMPLIANCE", 1), retain("GOVERNANCE", 3), dict(named, Retention={})]:
        assert error_code(s3.put_object_retention, **wrong, BypassGovernanceRetention=True) == DENIED
    assert s3.get_object_retention(**named)["Retention"] == kept["Retention"]
    many = {"Objects": [{"Key": "k", "VersionId": named["VersionId"]}]}
    assert s3.delete_objects(Bucket=locked, Delete=many, BypassGovernanceRetention=True)["Errors"][0]["Code"] == "AccessDenied"


def test_retention_ends_by_the_clock_and_not_before(s3, locked):
    # So far ahead that it is not over before the write has come.
    until = in_days(0) + datetime.timedelta(seconds=6)
    version = s3.put_object(Bucket=locked, Key="k", Body=b"x", ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until)["VersionId"]
    while True:
        began = datetime.datetime.now(datetime.timezone.utc)
        try:
            s3.delete_object(Bucket=locked, Key="k", VersionId=version)
            break
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied" and began < until + datetime.timedelta(seconds=PATIENCE)
            time.sleep(0.2)
    assert datetime.datetime.now(datetime.timezone.utc) >= until
    assert listed(s3, locked) == []


def test_a_bypass_is_an_action_of_its_own(server, alice, bob):
    (_, owner), (bob_id, other) = alice, bob
    bucket = new_bucket(owner, ObjectLockEnabledForBucket=True)
    may = ["s3:GetObject", "s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutObjectRetention"]
    set_policy(server, owner, bucket, statement(bucket, may, {"AWS": bob_id}))
    until = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": in_days(1)}
    named = {"Bucket": bucket, "Key": "k", "VersionId": owner.put_object(Bucket=bucket, Key="k", Body=b"x", **until)["VersionId"]}
    other.get_object(Bucket=bucket, Key="k")
    bypass = {"BypassGovernanceRetention": True}
    for more in [{}, bypass]:
        assert error_code(other.delete_object, **named, **more) == DENIED
    many = dict(Bucket=bucket, Delete={"Objects": [{"Key": "k", "VersionId": named["VersionId"]}]}, **bypass)
    assert other.delete_objects(**many)["Errors"][0]["Code"] == "AccessDenied"
    later = {"Mode": "GOVERNANCE", "RetainUntilDate": in_days(2)}
    assert error_code(other.put_object_retention, **named, Retention=later, **bypass) == DENIED
    other.put_object_retention(**named, Retention=later)
    assert error_code(other.get_object_retention, **named) == DENIED
    set_policy(server, owner, bucket, statement(bucket, [*may, "s3:BypassGovernanceRetention"], {"AWS": bob_id}))
    assert "Errors" not in other.delete_objects(**many)
    assert error_code(owner.get_object, **named) == ("NoSuchVersion", 404)


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
    for days in [0, -1, 40_000]:
        period = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": days}}}
        refused = error_code(s3.put_object_lock_configuration, Bucket=locked, ObjectLockConfiguration=period)
        assert refused == ("InvalidRetentionPeriod", 400)
    until = {"Mode": "GOVERNANCE", "RetainUntilDate": in_days(1)}
    for call, more in [(s3.put_object_retention, {"Retention": until}), (s3.get_object_retention, {}), (s3.get_object_legal_hold, {}),
                       (s3.put_object_legal_hold, {"LegalHold": {"Status": "ON"}})]:
        assert error_code(call, Bucket=locked, Key="none", **more) == ("NoSuchKey", 404)
        assert error_code(call, Bucket=bucket, Key="k", **more) == ("InvalidRequest", 400)
    s3.put_object(Bucket=locked, Key="k", Body=b"x")
    for call, more in [(s3.put_object_retention, {"Retention": {"Mode": "GOVERNANCE"}}),
                       (s3.put_object_retention, {"Retention": {**until, "Mode": "governance"}}),
                       (s3.put_object_legal_hold, {"LegalHold": {"Status": "on"}}), (s3.put_object_legal_hold, {"LegalHold": {}})]:
        assert error_code(call, Bucket=locked, Key="k", **more) == ("MalformedXML", 400)
    enable(s3, bucket)
    s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=enabled)
    assert s3.get_object_lock_configuration(Bucket=bucket)["ObjectLockConfiguration"] == enabled


def test_what_protects_a_version_and_its_tags_are_shown_to_who_may_ask_for_them(server, s3, locked, bob):
    until = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + datetime.timedelta(hours=1)
    version = s3.put_object(Bucket=locked, Key="k", Body=b"x", Tagging="a=1", ObjectLockLegalHoldStatus="ON",
                            ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until)["VersionId"]
    shown = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until, "ObjectLockLegalHoldStatus": "ON", "TagCount": 1}

    def seen(client, **more):
        got, head = (call(Bucket=locked, Key="k", **more) for call in [client.get_object, client.head_object])
        assert got["Body"].read() == b"x"
        assert [got.get(name) for name in shown][:3] == [head.get(name) for name in shown][:3]
        return {name: value for name, value in got.items() if name in shown}

    assert seen(s3) == seen(s3, VersionId=version) == shown
    mode, hold, count = ({name: shown[name] for name in names} for names in [list(shown)[:2], list(shown)[2:3], list(shown)[3:]])
    for actions, current, named in [([], {}, {}), (["s3:GetObjectRetention"], mode, mode), (["s3:GetObjectLegalHold"], hold, hold),
                                    (["s3:GetObjectTagging"], count, {}), (["s3:GetObjectVersionTagging"], {}, count)]:
        set_policy(server, s3, locked, statement(locked, ["s3:GetObject", "s3:GetObjectVersion", *actions]))
        assert seen(bob[1]) == current and seen(bob[1], VersionId=version) == named, actions
    s3.delete_bucket_policy(Bucket=locked)


def test_copies_tell_which_version_they_took(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"null")
    target = bucket + "-copies"
    s3.create_bucket(Bucket=target)

    def copied(**version):
        source = {"Bucket": bucket, "Key": "k", **version}
        upload = s3.create_multipart_upload(Bucket=target, Key="k")["UploadId"]
        whole = s3.copy_object(Bucket=target, Key="k", CopySource=source)
        part = s3.upload_part_copy(Bucket=target, Key="k", UploadId=upload, PartNumber=1, CopySource=source)
        assert whole.get("CopySourceVersionId") == part.get("CopySourceVersionId")
        return whole.get("CopySourceVersionId")

    assert copied() is None
    enable(s3, bucket)
    assert copied() == copied(VersionId="null") == "null"
    first, second = (s3.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"] for _ in range(2))
    assert copied() == second and copied(VersionId=first) == first
    enable(s3, bucket, "Suspended")
    assert copied() == second
