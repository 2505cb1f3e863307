"""Conditions of policies, each with the value that the request has."""

import datetime

import botocore.auth
import requests

from test_access import DENIED, new_bucket, set_policy, statement
from test_boto3 import error_code


def in_days(days):
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)).replace(microsecond=0)


def deny(bucket, action, **condition):
    return statement(bucket, action, effect="Deny", Condition=condition)


def test_a_signature_may_be_too_old(server, s3, bucket, monkeypatch):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    set_policy(server, s3, bucket, deny(bucket, "s3:GetObject", NumericGreaterThan={"s3:signatureAge": 600_000}))
    signer = server.client(signature_version="s3v4")
    url = lambda: signer.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=3600)
    assert requests.get(url()).content == b"x"
    now = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **how: now(**how) - datetime.timedelta(minutes=11))
    assert requests.get(url()).status_code == 403
    assert error_code(s3.get_object, Bucket=bucket, Key="k") == DENIED, "also one that a clock may excuse"


def test_a_payload_must_be_signed(server, s3, bucket):
    set_policy(server, s3, bucket, deny(bucket, "s3:PutObject", StringEquals={"s3:x-amz-content-sha256": "UNSIGNED-PAYLOAD"}))
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for version in ["s3v4", "s3"]:
        signer = server.client(signature_version=version)
        url = signer.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"})
        assert requests.put(url, data=b"y").status_code == 403, version
        form = signer.generate_presigned_post(bucket, "k")
        assert requests.post(form["url"], data=form["fields"], files={"file": b"y"}).status_code == 403, version
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_the_old_signature_may_be_kept_out(server, s3, bucket):
    set_policy(server, s3, bucket, deny(bucket, "s3:PutObject", StringEquals={"s3:signatureversion": "AWS"}))
    for version, status in [("s3v4", 204), ("s3", 403)]:
        form = server.client(signature_version=version).generate_presigned_post(bucket, "k")
        assert requests.post(form["url"], data=form["fields"], files={"file": b"y"}).status_code == status, version


def test_retention_has_bounds(server, s3):
    bucket = new_bucket(s3, ObjectLockEnabledForBucket=True)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    both = ["s3:PutObject", "s3:PutObjectRetention"]
    set_policy(server, s3, bucket, deny(bucket, both, NumericGreaterThan={"s3:object-lock-remaining-retention-days": 10}),
               deny(bucket, both, StringEquals={"s3:object-lock-mode": "COMPLIANCE"}),
               deny(bucket, both, DateLessThan={"s3:object-lock-retain-until-date": in_days(2).isoformat()}),
               deny(bucket, ["s3:PutObject", "s3:PutObjectLegalHold"], StringEquals={"s3:object-lock-legal-hold": "ON"}))
    lock = lambda mode, days: {"ObjectLockMode": mode, "ObjectLockRetainUntilDate": in_days(days)}
    retain = lambda mode, days: {"Retention": {"Mode": mode, "RetainUntilDate": in_days(days)}}
    named = {"Bucket": bucket, "Key": "k"}
    for mode, days in [("GOVERNANCE", 11), ("COMPLIANCE", 5), ("GOVERNANCE", 1)]:
        assert error_code(s3.put_object_retention, **named, **retain(mode, days)) == DENIED, (mode, days)
        assert error_code(s3.put_object, **named, Body=b"y", **lock(mode, days)) == DENIED, (mode, days)
        assert error_code(s3.create_multipart_upload, **named, **lock(mode, days)) == DENIED, (mode, days)
        source = {"CopySource": named}
        assert error_code(s3.copy_object, Bucket=bucket, Key="l", **source, **lock(mode, days)) == DENIED, (mode, days)
    assert error_code(s3.put_object_legal_hold, **named, LegalHold={"Status": "ON"}) == DENIED
    assert error_code(s3.put_object, **named, Body=b"y", ObjectLockLegalHoldStatus="ON") == DENIED
    s3.put_object_legal_hold(**named, LegalHold={"Status": "OFF"})
    s3.put_object_retention(**named, **retain("GOVERNANCE", 10))
    s3.put_object(**named, Body=b"y", **lock("GOVERNANCE", 10))
    assert error_code(s3.put_object_retention, **named, Retention={"Mode": "GOVERNANCE"}) == ("MalformedXML", 400)


def test_the_tags_of_a_form_are_tags_of_the_request(server, alice, bob):
    (_, owner), (bob_id, other) = alice, bob
    bucket = new_bucket(owner)
    set_policy(server, owner, bucket, statement(bucket, ["s3:PutObject", "s3:PutObjectTagging"], {"AWS": bob_id}),
               deny(bucket, "s3:PutObject", StringNotEquals={"s3:RequestObjectTag/class": "open"}))
    tagging = "<Tagging><TagSet><Tag><Key>class</Key><Value>%s</Value></Tag></TagSet></Tagging>"
    form = other.generate_presigned_post(bucket, "k", Conditions=[["starts-with", "$tagging", ""]])
    post = lambda **fields: requests.post(form["url"], data={**form["fields"], **fields}, files={"file": b"x"}).status_code
    assert (post(tagging=tagging % "closed"), post(), post(tagging=tagging % "open")) == (403, 403, 204)


def test_objects_may_be_created_under_a_condition_only(server, s3, bucket):
    set_policy(server, s3, bucket, deny(bucket, "s3:PutObject", Null={"s3:if-none-match": "true"},
                                        Bool={"s3:ObjectCreationOperation": "true"}))
    named = {"Bucket": bucket, "Key": "k"}
    assert error_code(s3.put_object, **named, Body=b"x") == DENIED
    upload = s3.create_multipart_upload(**named)["UploadId"]
    part = s3.upload_part(**named, UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    done = {"UploadId": upload, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": part}]}}
    assert error_code(s3.complete_multipart_upload, **named, **done) == DENIED
    s3.complete_multipart_upload(**named, **done, IfNoneMatch="*")
    s3.put_object(Bucket=bucket, Key="l", Body=b"x", IfNoneMatch="*")


def test_a_version_is_named_in_bodies_and_by_copies_too(server, s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    server.settle(bucket)
    kept, other = [s3.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"] for _ in range(2)]
    set_policy(server, s3, bucket, deny(bucket, ["s3:DeleteObjectVersion", "s3:GetObjectVersion"], StringEquals={"s3:versionid": kept}))
    named = {"Bucket": bucket, "Key": "k", "VersionId": kept}
    for call in [s3.get_object, s3.delete_object]:
        assert error_code(call, **named) == DENIED
        assert error_code(call, **{**named, "VersionId": kept.upper()}) == DENIED
    assert error_code(s3.copy_object, Bucket=bucket, Key="l", CopySource=named) == DENIED
    s3.copy_object(Bucket=bucket, Key="l", CopySource={**named, "VersionId": other})
    many = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k", "VersionId": version} for version in [kept, other]]})
    assert [error["VersionId"] for error in many["Errors"]] == [kept] and [done["VersionId"] for done in many["Deleted"]] == [other]


def test_the_source_of_a_copy_is_compared_decoded(server, s3, bucket):
    named = {"Bucket": bucket, "Key": "a b/k"}
    s3.put_object(**named, Body=b"x")
    set_policy(server, s3, bucket, deny(bucket, "s3:PutObject", StringLike={"s3:x-amz-copy-source": f"{bucket}/a b/*"}))
    for source in [named, f"{bucket}/a b/k", f"/{bucket}/a b/k"]:
        assert error_code(s3.copy_object, Bucket=bucket, Key="l", CopySource=source) == DENIED, source
    s3.copy_object(Bucket=new_bucket(s3), Key="l", CopySource=named)


def test_a_prefix_is_of_listings_only(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="secret", Body=b"x")
    set_policy(server, s3, bucket, statement(bucket, "s3:*", Condition={"StringEquals": {"s3:prefix": "home/"}}))
    url = f"{server.endpoint}/{bucket}"
    assert requests.get(f"{url}?list-type=2&prefix=home/").status_code == 200
    assert requests.get(f"{url}/secret?prefix=home/").status_code == 403, "who reads names no prefix"


def test_documented_policies_of_others_are_taken(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    set_policy(server, s3, bucket, statement(bucket, ["s3:ReplicateObject", "s3:ReplicateDelete", "s3:ReplicateTags"]),
               deny(bucket, "s3:GetObject", NumericLessThan={"s3:TlsVersion": "1.2"}),
               deny(bucket, "s3:GetObject", StringEquals={"aws:SourceVpce": "vpce-1"}, Bool={"aws:ViaAWSService": "true"}))
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    set_policy(server, s3, bucket, deny(bucket, "s3:GetObject", StringNotEquals={"aws:SourceVpce": "vpce-1"}))
    assert error_code(s3.get_object, Bucket=bucket, Key="k") == DENIED, "nobody comes from there"
