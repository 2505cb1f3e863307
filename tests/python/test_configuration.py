"""Bucket configurations, tags, forms and what is refused."""

import base64
import datetime
import hashlib
import hmac
import json
import os
import threading

import pytest
import requests
from botocore.exceptions import ClientError

from conftest import ACCESS_KEY, SECRET_KEY
from test_access import settled
from test_boto3 import error_code


def tag_set(**tags):
    return {"TagSet": [{"Key": key, "Value": value} for key, value in tags.items()]}


def test_buckets_have_tags(s3, bucket):
    assert error_code(s3.get_bucket_tagging, Bucket=bucket) == ("NoSuchTagSet", 404)
    s3.put_bucket_tagging(Bucket=bucket, Tagging=tag_set(team="a & b", empty=""))
    assert settled(lambda: s3.get_bucket_tagging(Bucket=bucket))["TagSet"] == tag_set(empty="", team="a & b")["TagSet"]
    many = tag_set(**{f"k{i}": "v" for i in range(51)})
    assert error_code(s3.put_bucket_tagging, Bucket=bucket, Tagging=many) == ("InvalidTag", 400)
    s3.delete_bucket_tagging(Bucket=bucket)
    settled(lambda: error_code(s3.get_bucket_tagging, Bucket=bucket))


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_objects_have_tags_that_change_nothing_else(s3, bucket, size):
    body = os.urandom(size)
    s3.put_object(Bucket=bucket, Key="k", Body=body, Tagging="a=1&b=x%20y", Metadata={"m": "1"})
    before = s3.head_object(Bucket=bucket, Key="k")
    assert before["ResponseMetadata"]["HTTPHeaders"]["x-amz-tagging-count"] == "2"
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == tag_set(a="1", b="x y")["TagSet"]
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=tag_set(c="3"))
    after = s3.get_object(Bucket=bucket, Key="k")
    assert after["Body"].read() == body and after["Metadata"] == {"m": "1"} and after["TagCount"] == 1
    assert (before["LastModified"], before["ETag"]) == (after["LastModified"], after["ETag"])
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body
    assert error_code(s3.put_object_tagging, Bucket=bucket, Key="none", Tagging=tag_set(a="1")) == ("NoSuchKey", 404)
    many = tag_set(**{f"k{i}": "v" for i in range(11)})
    assert error_code(s3.put_object_tagging, Bucket=bucket, Key="k", Tagging=many) == ("InvalidTag", 400)
    assert error_code(s3.put_object_tagging, Bucket=bucket, Key="k", Tagging=tag_set(a="v" * 257)) == ("InvalidTag", 400)


def test_tags_follow_copies_and_uploads(s3, bucket):
    s3.put_object(Bucket=bucket, Key="from", Body=b"x", Tagging="a=1")
    source = {"Bucket": bucket, "Key": "from"}
    tags = lambda key: {tag["Key"]: tag["Value"] for tag in s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]}
    s3.copy_object(Bucket=bucket, Key="kept", CopySource=source)
    s3.copy_object(Bucket=bucket, Key="replaced", CopySource=source, TaggingDirective="REPLACE", Tagging="b=2")
    s3.copy_object(Bucket=bucket, Key="meta", CopySource=source, MetadataDirective="REPLACE", Metadata={"m": "1"})
    assert (tags("kept"), tags("replaced"), tags("meta")) == ({"a": "1"}, {"b": "2"}, {"a": "1"})
    upload = s3.create_multipart_upload(Bucket=bucket, Key="mp", Tagging="c=3")["UploadId"]
    etag = s3.upload_part(Bucket=bucket, Key="mp", UploadId=upload, PartNumber=1, Body=b"y")["ETag"]
    done = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    s3.complete_multipart_upload(Bucket=bucket, Key="mp", UploadId=upload, MultipartUpload=done)
    assert tags("mp") == {"c": "3"}
    s3.put_object_tagging(Bucket=bucket, Key="mp", Tagging=tag_set(d="4"))
    assert tags("mp") == {"d": "4"} and s3.get_object(Bucket=bucket, Key="mp")["Body"].read() == b"y"


def test_tagging_never_brings_back_what_was_replaced(server, s3, bucket):
    """Each body says which of its writes it was; tags come and go meanwhile, as fast as they can."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"0")
    stop, tagged = threading.Event(), []

    def again(call):
        """The key is contended: 503 and 409 ask to try again, as clients do by themselves."""
        while True:
            try:
                return call()
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("ServiceUnavailable", "OperationAborted"):
                    raise

    def tag():
        client = server.client()
        while not stop.is_set():
            value = os.urandom(4).hex()
            again(lambda: client.put_object_tagging(Bucket=bucket, Key="k", Tagging=tag_set(t=value)))
            tagged.append(value)

    taggers = [threading.Thread(target=tag) for _ in range(2)]
    for tagger in taggers:
        tagger.start()
    try:
        for write in range(1, 40):
            again(lambda: s3.put_object(Bucket=bucket, Key="k", Body=str(write).encode()))
            assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == str(write).encode()
    finally:
        stop.set()
        for tagger in taggers:
            tagger.join()
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"39" and len(tagged) > 10


def test_browsers_of_other_origins(server, s3, bucket):
    url = f"{server.endpoint}/{bucket}/k"
    ask = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "PUT"}
    assert error_code(s3.get_bucket_cors, Bucket=bucket) == ("NoSuchCORSConfiguration", 404)
    assert requests.options(url, headers=ask).status_code == 403
    assert requests.options(url).status_code == 400
    rules = [{"ID": "one", "AllowedOrigins": ["https://*.example.com"], "AllowedMethods": ["PUT", "GET"],
              "AllowedHeaders": ["x-amz-*"], "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 600}]
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": rules})
    assert settled(lambda: s3.get_bucket_cors(Bucket=bucket))["CORSRules"] == rules
    settled(lambda: [requests.options(url, headers=ask).raise_for_status() for _ in range(8)])
    allowed = requests.options(url, headers={**ask, "Access-Control-Request-Headers": "x-amz-date"})
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert allowed.headers["Access-Control-Allow-Methods"] == "PUT, GET" and allowed.headers["Access-Control-Max-Age"] == "600"
    assert requests.options(url, headers={**ask, "Origin": "https://evil.test"}).status_code == 403
    assert requests.options(url, headers={**ask, "Access-Control-Request-Headers": "authorization"}).status_code == 403
    # An actual request that is refused tells the browser, too.
    refused = requests.get(url, headers={"Origin": "https://app.example.com"})
    assert refused.status_code == 403 and refused.headers["Access-Control-Expose-Headers"] == "ETag"
    assert "Access-Control-Allow-Origin" not in requests.get(url, headers={"Origin": "https://evil.test"}).headers
    bad = [{"AllowedOrigins": ["*"], "AllowedMethods": ["PATCH"]}]
    assert error_code(s3.put_bucket_cors, Bucket=bucket, CORSConfiguration={"CORSRules": bad}) == ("InvalidRequest", 400)
    s3.delete_bucket_cors(Bucket=bucket)
    settled(lambda: error_code(s3.get_bucket_cors, Bucket=bucket))


@pytest.mark.parametrize("size", [0, 5, 100_000, 20_000_000])
def test_forms_write_objects(s3, bucket, size):
    body = os.urandom(size)
    fields = {"acl": "private", "Content-Type": "image/png", "x-amz-meta-m": "1", "success_action_status": "201"}
    conditions = [{name: value} for name, value in fields.items()] + [["content-length-range", 0, 30_000_000]]
    form = s3.generate_presigned_post(bucket, "up/${filename}", Fields=fields, Conditions=conditions)
    answer = requests.post(form["url"], data=form["fields"], files={"file": ("a b.png", body)})
    assert answer.status_code == 201 and "<Key>up/a b.png</Key>" in answer.text
    got = s3.get_object(Bucket=bucket, Key="up/a b.png")
    assert got["Body"].read() == body and got["ContentType"] == "image/png" and got["Metadata"] == {"m": "1"}
    assert answer.headers["ETag"] == got["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'


def test_forms_are_held_to_their_policy(server, s3, bucket):
    s3 = server.client(signature_version="s3v4")
    form = s3.generate_presigned_post(bucket, "k", Conditions=[["content-length-range", 3, 10]])
    post = lambda fields, body=b"12345": requests.post(form["url"], data=fields, files={"file": body}).status_code
    assert post(form["fields"]) == 204
    assert post(form["fields"], b"12") == 400 and post(form["fields"], b"x" * 11) == 400
    assert post({**form["fields"], "key": "other"}) == 403
    assert post({**form["fields"], "x-amz-meta-extra": "1"}) == 403
    assert post({**form["fields"], "x-amz-signature": "0" * 64}) == 403
    assert post({name: value for name, value in form["fields"].items() if name != "policy"}) == 403, "nobody may write here"
    assert post({name: value for name, value in form["fields"].items() if name != "key"}) == 400
    ended = s3.generate_presigned_post(bucket, "k", ExpiresIn=-10)
    assert requests.post(ended["url"], data=ended["fields"], files={"file": b"1"}).status_code == 403
    assert requests.post(form["url"], data=form["fields"]).status_code == 400, "no file"
    tail = requests.post(form["url"], files=[(name, (None, value)) for name, value in form["fields"].items()]
                         + [("file", ("f", b"12345")), ("submit", (None, "go"))])
    assert tail.status_code == 400, "the file is the last field"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"12345"


def test_forms_of_the_old_signature_and_with_a_redirect(server, s3, bucket):
    expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=5)
    target = "http://127.0.0.1:1/done"
    policy = base64.b64encode(json.dumps({
        "expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "conditions": [{"bucket": bucket}, ["starts-with", "$key", "k"], {"success_action_redirect": target},
                       ["starts-with", "$tagging", ""]]}).encode())
    signature = base64.b64encode(hmac.new(SECRET_KEY.encode(), policy, hashlib.sha1).digest()).decode()
    tagging = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>"
    fields = {"key": "k1", "AWSAccessKeyId": ACCESS_KEY, "policy": policy.decode(), "signature": signature,
              "success_action_redirect": target, "tagging": tagging}
    answer = requests.post(f"{server.endpoint}/{bucket}", data=fields, files={"file": b"x"}, allow_redirects=False)
    assert answer.status_code == 303 and answer.headers["Location"].startswith(f"{target}?bucket={bucket}&key=k1&etag=%22")
    assert s3.get_object_tagging(Bucket=bucket, Key="k1")["TagSet"] == tag_set(a="1")["TagSet"]


def test_what_was_never_configured_and_what_is_refused(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"a,b")
    assert "Status" not in s3.get_bucket_accelerate_configuration(Bucket=bucket)
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=bucket)
    assert s3.get_bucket_request_payment(Bucket=bucket)["Payer"] == "BucketOwner"
    assert not [name for name in s3.get_bucket_notification_configuration(Bucket=bucket) if name.endswith("Configurations")]
    for call, code in [(s3.get_bucket_website, "NoSuchWebsiteConfiguration"),
                       (s3.get_bucket_lifecycle_configuration, "NoSuchLifecycleConfiguration"),
                       (s3.get_bucket_encryption, "ServerSideEncryptionConfigurationNotFoundError"),
                       (s3.get_bucket_replication, "ReplicationConfigurationNotFoundError")]:
        assert error_code(call, Bucket=bucket) == (code, 404)
    rule = {"Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}
    lifecycle = lambda **more: error_code(s3.put_bucket_lifecycle_configuration, Bucket=bucket,
                                          LifecycleConfiguration={"Rules": [{**rule, **more}]})
    transition = [{"Days": 1, "StorageClass": "GLACIER"}]
    assert lifecycle(Transitions=transition) == ("NotImplemented", 501), "a rule that nothing carries out is not taken"
    assert lifecycle(NoncurrentVersionExpiration={"NoncurrentDays": 0}) == ("InvalidArgument", 400)
    assert lifecycle(Expiration={"Days": 0}) == ("InvalidArgument", 400)
    assert lifecycle(Status="enabled") == ("MalformedXML", 400)
    assert error_code(s3.put_bucket_request_payment, Bucket=bucket,
                      RequestPaymentConfiguration={"Payer": "Requester"}) == ("NotImplemented", 501)
    s3.put_bucket_request_payment(Bucket=bucket, RequestPaymentConfiguration={"Payer": "BucketOwner"})
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    assert error_code(s3.restore_object, Bucket=bucket, Key="k", RestoreRequest={"Days": 1}) == ("InvalidObjectState", 403)
    select = dict(Expression="select * from s3object", ExpressionType="SQL", InputSerialization={"CSV": {}},
                  OutputSerialization={"CSV": {}})
    assert error_code(s3.select_object_content, Bucket=bucket, Key="k", **select) == ("NotImplemented", 501)
    assert error_code(s3.put_object, Bucket=bucket, Key="k", Body=b"", ServerSideEncryption="aws:kms:dsse") == ("NotImplemented", 501)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"a,b"


def test_buckets_and_uploads_are_paged(server, alice):
    _, client = server.user("pager" + os.urandom(3).hex())
    prefix = "p-" + os.urandom(6).hex()
    names = [f"{prefix}-{i}" for i in range(5)]
    for name in names + [f"q{prefix}"]:
        client.create_bucket(Bucket=name)
    pages = client.get_paginator("list_buckets").paginate(Prefix=prefix, PaginationConfig={"PageSize": 2})
    assert [[b["Name"] for b in page["Buckets"]] for page in pages] == [names[:2], names[2:4], names[4:]]
    uploads = sorted((key, client.create_multipart_upload(Bucket=names[0], Key=key)["UploadId"])
                     for key in ["a", "b", "b", "b", "c/1", "c/2"])
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=names[0], PaginationConfig={"PageSize": 2})
    assert sorted((u["Key"], u["UploadId"]) for page in pages for u in page.get("Uploads", [])) == uploads
    rolled = client.list_multipart_uploads(Bucket=names[0], Delimiter="/")
    assert [p["Prefix"] for p in rolled["CommonPrefixes"]] == ["c/"] and len(rolled["Uploads"]) == 4


def test_parts_are_copied_by_range_and_attributes_are_paged(s3, bucket):
    body = os.urandom(6 * 1024 * 1024)
    etag = s3.put_object(Bucket=bucket, Key="from", Body=body)["ETag"]
    source = {"Bucket": bucket, "Key": "from"}
    upload = s3.create_multipart_upload(Bucket=bucket, Key="to", ChecksumAlgorithm="CRC32")["UploadId"]
    copy = dict(Bucket=bucket, Key="to", UploadId=upload, CopySource=source)
    parts = []
    for number, (first, last) in enumerate([(0, 5 * 1024 * 1024 - 1), (5 * 1024 * 1024, len(body) - 1)], 1):
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
