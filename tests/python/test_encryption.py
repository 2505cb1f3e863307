"""Encryption at rest as boto3 sees it, against what the S3 documentation says. Each test on both shapes."""

import base64
import datetime
import hashlib
import hmac
import json
import os
import subprocess

import pytest
import requests
from botocore.exceptions import ClientError
from conftest import ACCESS_KEY, BINARY, ENCRYPTION_KEYS, SECRET_KEY, Server
from test_access import set_policy

MIB = 1 << 20
# Empty, kept with its metadata, in one block, in several stripes.
SIZES = [0, 1, 17, 70_001, 5 * MIB + 3]


def customer(prefix="", byte=None):
    key = os.urandom(32) if byte is None else bytes([byte]) * 32
    return {f"{prefix}SSECustomerAlgorithm": "AES256", f"{prefix}SSECustomerKey": base64.b64encode(key).decode(),
            f"{prefix}SSECustomerKeyMD5": base64.b64encode(hashlib.md5(key).digest()).decode()}


def as_source(key):
    return {f"CopySource{name}": value for name, value in key.items()}


S3, KMS = {"ServerSideEncryption": "AES256"}, {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "second-key"}
ONE, OTHER = customer(byte=1), customer(byte=2)
# What a write asks for, what a read then brings, what answers say.
MODES = {"none": ({}, {}), "s3": (S3, {}), "kms": (KMS, {}), "customer": (ONE, ONE)}


def told(answer):
    names = ["ServerSideEncryption", "SSEKMSKeyId", "SSECustomerAlgorithm", "SSECustomerKeyMD5"]
    return {name: answer[name] for name in names if name in answer}


def tells(mode):
    return {name: value for name, value in mode.items() if name != "SSECustomerKey"}


def error_code(call, **arguments):
    with pytest.raises(ClientError) as refused:
        call(**arguments)
    answer = refused.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def body_of(s3, bucket, key="k", **arguments):
    return s3.get_object(Bucket=bucket, Key=key, **arguments)["Body"].read()


def etag_of(data):
    return f'"{hashlib.md5(data).hexdigest()}"'


@pytest.mark.parametrize("mode", MODES)
def test_bytes_come_back_whole_and_in_ranges(s3, bucket, mode):
    wanted, key = MODES[mode]
    for size in SIZES:
        data = os.urandom(size)
        put = s3.put_object(Bucket=bucket, Key="k", Body=data, **wanted)
        assert told(put) == tells(wanted) and put["ETag"] == etag_of(data)
        got = s3.get_object(Bucket=bucket, Key="k", **key)
        assert got["Body"].read() == data and told(got) == tells(wanted) and got["ContentLength"] == size
        assert told(s3.head_object(Bucket=bucket, Key="k", **key)) == tells(wanted)
        listed = s3.list_objects_v2(Bucket=bucket)["Contents"][0]
        assert (listed["Size"], listed["ETag"]) == (size, etag_of(data))
        for first in {0, 1, 15, 16, 17, 4095, size // 2, size - 20, size - 1}:
            for length in [1, 16, 31, 66_000, MIB + 5]:
                if 0 <= first < size:
                    last = min(first + length, size) - 1
                    assert body_of(s3, bucket, Range=f"bytes={first}-{last}", **key) == data[first:last + 1]
        if size:
            assert body_of(s3, bucket, Range="bytes=-1", **key) == data[-1:]
            assert body_of(s3, bucket, PartNumber=1, **key) == data


def test_a_customers_key_is_needed_and_must_be_the_one(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"secret", **ONE)
    attributes = {"ObjectAttributes": ["ETag", "ObjectSize"]}
    for read, more in [(s3.get_object, {}), (s3.get_object_attributes, attributes)]:
        assert error_code(read, Bucket=bucket, Key="k", **more) == ("InvalidRequest", 400)
        assert error_code(read, Bucket=bucket, Key="k", **more, **OTHER) == ("InvalidRequest", 400)
    for key in [{}, OTHER]:
        assert error_code(s3.head_object, Bucket=bucket, Key="k", **key) == ("400", 400)
    got = s3.get_object_attributes(Bucket=bucket, Key="k", **attributes, **ONE)
    assert (got["ETag"], got["ObjectSize"]) == (etag_of(b"secret").strip('"'), 6)
    # What is said about it needs no key.
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "a", "Value": "b"}]
    assert body_of(s3, bucket, **ONE) == b"secret"
    # A key for what has none.
    s3.put_object(Bucket=bucket, Key="plain", Body=b"x")
    s3.put_object(Bucket=bucket, Key="managed", Body=b"x", **S3)
    for name in ["plain", "managed"]:
        assert error_code(s3.get_object, Bucket=bucket, Key=name, **ONE) == ("InvalidRequest", 400)
        assert error_code(s3.head_object, Bucket=bucket, Key=name, **ONE) == ("400", 400)
    assert error_code(s3.get_object, Bucket=bucket, Key="none", **ONE) == ("NoSuchKey", 404)
    s3.delete_object(Bucket=bucket, Key="k")
    assert error_code(s3.get_object, Bucket=bucket, Key="k", **ONE) == ("NoSuchKey", 404)


def test_headers_that_contradict_are_refused(server, s3, bucket):
    prefix = "x-amz-server-side-encryption"
    key, md5 = ONE["SSECustomerKey"], ONE["SSECustomerKeyMD5"]
    whole = {f"{prefix}-customer-algorithm": "AES256", f"{prefix}-customer-key": key, f"{prefix}-customer-key-md5": md5}
    for headers, code, status in [
        ({f"{prefix}-customer-key": key}, "InvalidArgument", 400),
        ({**whole, f"{prefix}-customer-algorithm": "AES128"}, "InvalidArgument", 400),
        ({**whole, f"{prefix}-customer-key": "c2hvcnQ="}, "InvalidArgument", 400),
        ({**whole, f"{prefix}-customer-key-md5": OTHER["SSECustomerKeyMD5"]}, "InvalidArgument", 400),
        ({**whole, prefix: "AES256"}, "InvalidArgument", 400),
        ({prefix: "AES192"}, "InvalidArgument", 400),
        ({prefix: "AES256", f"{prefix}-aws-kms-key-id": "main-key"}, "InvalidArgument", 400),
        ({f"{prefix}-aws-kms-key-id": "main-key"}, "InvalidArgument", 400),
        ({prefix: "aws:kms", f"{prefix}-aws-kms-key-id": "unknown"}, "KMS.NotFoundException", 400),
        ({prefix: "aws:kms", f"{prefix}-context": "e30="}, "NotImplemented", 501),
        ({prefix: "aws:kms:dsse"}, "NotImplemented", 501),
    ]:
        client = server.client()
        client.meta.events.register("before-call.s3.*", lambda params, **_: params["headers"].update(headers))
        for write in [client.put_object, client.create_multipart_upload]:
            assert error_code(write, Bucket=bucket, Key="k") == (code, status), headers
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    # Reads take none but a customer's key.
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", **S3)
    client = server.client()
    client.meta.events.register("before-call.s3.*", lambda params, **_: params["headers"].update({prefix: "AES256"}))
    assert error_code(client.get_object, Bucket=bucket, Key="k") == ("InvalidArgument", 400)


def test_keys_are_named_in_three_ways(s3, bucket):
    for name in ["second-key", "alias/second-key", "arn:aws:kms:eu-central-1:111122223333:key/second-key"]:
        put = s3.put_object(Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId=name)
        assert put["SSEKMSKeyId"] == "second-key" and body_of(s3, bucket) == b"x"
    assert s3.put_object(Bucket=bucket, Key="k", ServerSideEncryption="aws:kms")["SSEKMSKeyId"] == "main-key"


@pytest.mark.parametrize("mode", MODES)
def test_uploads_are_encrypted_part_by_part(s3, bucket, mode):
    wanted, key = MODES[mode]
    begun = s3.create_multipart_upload(Bucket=bucket, Key="k", Metadata={"a": "b"}, **wanted)
    assert told(begun) == tells(wanted)
    upload = {"Bucket": bucket, "Key": "k", "UploadId": begun["UploadId"]}
    sizes = [5 * MIB + 1, 5 * MIB + 70_001, 33]
    pieces = [os.urandom(size) for size in sizes]
    s3.upload_part(**upload, PartNumber=2, Body=os.urandom(5 * MIB), **key)
    if mode == "customer":
        for wrong in [{}, OTHER]:
            assert error_code(s3.upload_part, **upload, PartNumber=3, Body=b"x", **wrong) == ("InvalidRequest", 400)
    else:
        assert error_code(s3.upload_part, **upload, PartNumber=3, Body=b"x", **ONE) == ("InvalidRequest", 400)
    parts = []
    for number, piece in enumerate(pieces, 1):
        part = s3.upload_part(**upload, PartNumber=number, Body=piece, **key)
        assert told(part) == tells(wanted) and part["ETag"] == etag_of(piece)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    named = {"MultipartUpload": {"Parts": parts}}
    for wrong in [{}, OTHER] if mode == "customer" else [ONE]:
        assert error_code(s3.complete_multipart_upload, **upload, **named, **wrong) == ("InvalidRequest", 400)
    done = s3.complete_multipart_upload(**upload, **named, **key)
    assert done.get("ServerSideEncryption") == wanted.get("ServerSideEncryption")
    assert s3.complete_multipart_upload(**upload, **named, **key)["ETag"] == done["ETag"]
    data = b"".join(pieces)
    got = s3.get_object(Bucket=bucket, Key="k", **key)
    assert got["Body"].read() == data and told(got) == tells(wanted) and got["Metadata"] == {"a": "b"}
    edges = [sum(sizes[:count]) for count in range(4)]
    for edge in edges:
        for first, last in [(edge - 20, edge + 20), (edge - 1, edge), (edge, edge + 15), (edge + 1, edge + MIB)]:
            if 0 <= first < len(data):
                assert body_of(s3, bucket, Range=f"bytes={first}-{last}", **key) == data[first:last + 1]
    for number, piece in enumerate(pieces, 1):
        got = s3.get_object(Bucket=bucket, Key="k", PartNumber=number, **key)
        assert got["Body"].read() == piece and got["PartsCount"] == 3
    if mode == "customer":
        assert error_code(s3.get_object, Bucket=bucket, Key="k", Range="bytes=1-2") == ("InvalidRequest", 400)


def test_a_part_that_asks_for_encryption_is_never_kept_without(s3, bucket, server):
    client = server.client()
    client.meta.events.register("before-call.s3.UploadPart", lambda params, **_: params["headers"].update(
        {"x-amz-server-side-encryption": "AES256"}))
    for wanted, taken in [({}, False), (S3, True), (KMS, True)]:
        begun = s3.create_multipart_upload(Bucket=bucket, Key="k", **wanted)
        part = {"Bucket": bucket, "Key": "k", "UploadId": begun["UploadId"], "PartNumber": 1, "Body": b"x"}
        if taken:
            assert told(client.upload_part(**part)) == tells(wanted)
        else:
            assert error_code(client.upload_part, **part) == ("InvalidArgument", 400)


@pytest.mark.parametrize("source", MODES)
@pytest.mark.parametrize("target", MODES)
def test_copies_go_in_all_directions(s3, bucket, source, target):
    (wanted, key), (to, to_key) = MODES[source], MODES[target]
    if target == "customer":
        to = to_key = OTHER
    for size in [10, MIB + 7]:
        data = os.urandom(size)
        s3.put_object(Bucket=bucket, Key="from", Body=data, **wanted)
        copy = {"Bucket": bucket, "Key": "to", "CopySource": {"Bucket": bucket, "Key": "from"}}
        if source == "customer":
            for wrong in [{}, as_source(OTHER)]:
                assert error_code(s3.copy_object, **copy, **to, **wrong) == ("InvalidRequest", 400)
        copied = s3.copy_object(**copy, **to, **(as_source(key) if key else {}))
        assert told(copied) == tells(to)
        got = s3.get_object(Bucket=bucket, Key="to", **to_key)
        assert got["Body"].read() == data and told(got) == tells(to)
    begun = s3.create_multipart_upload(Bucket=bucket, Key="parts", **to)
    part = {"Bucket": bucket, "Key": "parts", "UploadId": begun["UploadId"], "PartNumber": 1,
            "CopySource": {"Bucket": bucket, "Key": "from"}, "CopySourceRange": "bytes=3-70003"}
    keys = {**(as_source(key) if key else {}), **to_key}
    copied = s3.upload_part_copy(**part, **keys)
    assert told(copied) == tells(to)
    parts = [{"PartNumber": 1, "ETag": copied["CopyPartResult"]["ETag"]}]
    s3.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=begun["UploadId"],
                                 MultipartUpload={"Parts": parts}, **to_key)
    assert body_of(s3, bucket, "parts", **to_key) == data[3:70004]


def test_a_copy_onto_itself_changes_the_key(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"secret", **ONE)
    itself = {"Bucket": bucket, "Key": "k", "CopySource": {"Bucket": bucket, "Key": "k"}}
    s3.copy_object(**itself, **as_source(ONE), **OTHER)
    assert error_code(s3.get_object, Bucket=bucket, Key="k", **ONE) == ("InvalidRequest", 400)
    assert body_of(s3, bucket, **OTHER) == b"secret"
    s3.copy_object(**itself, **as_source(OTHER), **S3)
    assert body_of(s3, bucket) == b"secret"
    assert error_code(s3.copy_object, **itself) == ("InvalidRequest", 400)


def default_of(algorithm, key=None):
    rule = {"SSEAlgorithm": algorithm, **({"KMSMasterKeyID": key} if key else {})}
    return {"Rules": [{"ApplyServerSideEncryptionByDefault": rule, "BucketKeyEnabled": False}]}


def test_a_buckets_default_is_for_what_says_nothing(server, s3, bucket):
    absent = ("ServerSideEncryptionConfigurationNotFoundError", 404)
    assert error_code(s3.get_bucket_encryption, Bucket=bucket) == absent
    put = lambda default: s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=default)
    for default, expected in [(default_of("AES256"), S3), (default_of("aws:kms"), {**KMS, "SSEKMSKeyId": "main-key"}),
                              (default_of("aws:kms", "second-key"), KMS)]:
        put(default)
        server.settle(bucket)
        assert s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"] == default
        assert told(s3.put_object(Bucket=bucket, Key="k", Body=b"x")) == expected
        assert told(s3.get_object(Bucket=bucket, Key="k")) == expected
        begun = s3.create_multipart_upload(Bucket=bucket, Key="u")
        assert told(begun) == expected
        part = {"Bucket": bucket, "Key": "u", "UploadId": begun["UploadId"]}
        etag = s3.upload_part(**part, PartNumber=1, Body=b"part")["ETag"]
        s3.complete_multipart_upload(**part, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
        assert told(s3.head_object(Bucket=bucket, Key="u")) == expected and body_of(s3, bucket, "u") == b"part"
        copied = s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "u"})
        assert told(copied) == expected and body_of(s3, bucket, "c") == b"part"
        # What says something has it so.
        assert told(s3.put_object(Bucket=bucket, Key="k", Body=b"x", **ONE)) == tells(ONE)
        assert told(s3.put_object(Bucket=bucket, Key="k", Body=b"x", **S3)) == S3
        assert post(server, bucket, "form", b"in a form") == 204
        assert told(s3.get_object(Bucket=bucket, Key="form")) == expected and body_of(s3, bucket, "form") == b"in a form"
    assert error_code(put, default=default_of("aws:kms", "unknown")) == ("KMS.NotFoundException", 400)
    assert error_code(put, default=default_of("AES128")) == ("MalformedXML", 400)
    assert error_code(put, default=default_of("AES256", "second-key")) == ("InvalidArgument", 400)
    s3.delete_bucket_encryption(Bucket=bucket)
    s3.delete_bucket_encryption(Bucket=bucket)
    server.settle(bucket)
    assert error_code(s3.get_bucket_encryption, Bucket=bucket) == absent
    assert told(s3.put_object(Bucket=bucket, Key="plain", Body=b"x")) == {}
    # What was written before stays as it was.
    assert told(s3.get_object(Bucket=bucket, Key="u")) == KMS


def post(server, bucket, key, data, **fields):
    expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=5)
    conditions = [{"bucket": bucket}, ["starts-with", "$key", ""], ["starts-with", "$x-amz-server-side-encryption", ""]]
    conditions += [["starts-with", f"${name}", ""] for name in fields if name != "x-amz-server-side-encryption"]
    policy = {"expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"), "conditions": conditions}
    policy = base64.b64encode(json.dumps(policy).encode())
    signature = base64.b64encode(hmac.new(SECRET_KEY.encode(), policy, hashlib.sha1).digest())
    form = {"key": key, "AWSAccessKeyId": ACCESS_KEY, "policy": policy, "signature": signature, **fields}
    return requests.post(f"{server.endpoint}/{bucket}", data=form, files={"file": data}, timeout=60).status_code


def test_forms_bring_keys(server, s3, bucket):
    prefix = "x-amz-server-side-encryption"
    fields = {f"{prefix}-customer-algorithm": "AES256", f"{prefix}-customer-key": ONE["SSECustomerKey"],
              f"{prefix}-customer-key-md5": ONE["SSECustomerKeyMD5"]}
    assert post(server, bucket, "customer", b"x", **fields) == 204
    assert body_of(s3, bucket, "customer", **ONE) == b"x"
    assert error_code(s3.get_object, Bucket=bucket, Key="customer") == ("InvalidRequest", 400)
    assert post(server, bucket, "kms", b"y", **{prefix: "aws:kms", f"{prefix}-aws-kms-key-id": "second-key"}) == 204
    assert told(s3.get_object(Bucket=bucket, Key="kms")) == KMS
    assert post(server, bucket, "k", b"z", **{prefix: "aws:kms", f"{prefix}-aws-kms-key-id": "unknown"}) == 400


def test_each_version_has_its_key(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"before versions", **S3)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    large = os.urandom(2 * MIB)
    written = {}
    for wanted, key, data in [(ONE, ONE, b"one"), (OTHER, OTHER, large), (KMS, {}, b"kms"), ({}, {}, b"plain"), (S3, {}, large)]:
        put = s3.put_object(Bucket=bucket, Key="k", Body=data, **wanted)
        assert told(put) == tells(wanted)
        written[put["VersionId"]] = (wanted, key, data)
    tags = {"TagSet": [{"Key": "a", "Value": "b"}]}
    for version in ["null", *written]:
        s3.put_object_tagging(Bucket=bucket, Key="k", VersionId=version, Tagging=tags)
    for version, (wanted, key, data) in written.items():
        got = s3.get_object(Bucket=bucket, Key="k", VersionId=version, **key)
        assert got["Body"].read() == data and told(got) == tells(wanted) and got["TagCount"] == 1
    assert body_of(s3, bucket, VersionId="null") == b"before versions"
    versions = list(written)
    assert error_code(s3.get_object, Bucket=bucket, Key="k", VersionId=versions[0], **OTHER) == ("InvalidRequest", 400)
    # A version that comes back to the top is opened there, too.
    for version in reversed(versions[1:]):
        s3.delete_object(Bucket=bucket, Key="k", VersionId=version)
    assert body_of(s3, bucket, **ONE) == b"one"
    source = {"Bucket": bucket, "Key": "k", "VersionId": versions[0]}
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, **as_source(ONE), **S3)
    assert body_of(s3, bucket, "copy") == b"one"
    s3.delete_object(Bucket=bucket, Key="k", VersionId=versions[0])
    assert body_of(s3, bucket) == b"before versions"
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    s3.put_object(Bucket=bucket, Key="k", Body=b"suspended", **ONE)
    assert body_of(s3, bucket, **ONE) == b"suspended"


def test_policies_can_demand_encryption(server, s3, bucket):
    other, client = server.user("writer" + os.urandom(3).hex())
    key = "s3:x-amz-server-side-encryption"

    def demand(*conditions):
        resource = f"arn:aws:s3:::{bucket}/*"
        allow = {"Effect": "Allow", "Principal": {"CanonicalUser": other}, "Action": ["s3:PutObject", "s3:GetObject"], "Resource": resource}
        deny = [{"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": resource, "Condition": condition}
                for condition in conditions]
        set_policy(server, s3, bucket, allow, *deny)

    def check(allowed, *refused):
        assert client.put_object(Bucket=bucket, Key="k", Body=b"x", **allowed)
        for wanted in refused:
            assert error_code(client.put_object, Bucket=bucket, Key="k", Body=b"x", **wanted) == ("AccessDenied", 403), wanted

    demand({"StringNotEquals": {key: "aws:kms"}}, {"StringNotEquals": {f"{key}-aws-kms-key-id": "second-key"}})
    check(KMS, {}, S3, ONE, {**KMS, "SSEKMSKeyId": "main-key"})
    demand({"Null": {f"{key}-customer-algorithm": "true"}})
    check(ONE, {}, S3, KMS)


def count(folder, needle):
    """Files below a folder that hold these bytes."""
    found = subprocess.run(["grep", "-rlaF", "-e", needle, str(folder)], capture_output=True, text=True, check=False)
    return found.stdout.splitlines()


def test_drives_and_logs_hold_no_plain_bytes_and_no_keys(server, s3, bucket):
    key = customer()
    marker = "marker" + os.urandom(12).hex()
    # Long enough for each data shard to hold it whole.
    for size in [300, 3 * MIB]:
        data = marker.encode() * (size // len(marker))
        for mode, wanted in [("customer", key), ("s3", S3), ("kms", KMS)]:
            s3.put_object(Bucket=bucket, Key=f"{mode}-{size}", Body=data, **wanted)
        begun = s3.create_multipart_upload(Bucket=bucket, Key=f"upload-{size}", **key)
        part = {"Bucket": bucket, "Key": f"upload-{size}", "UploadId": begun["UploadId"], **key}
        etag = s3.upload_part(**part, PartNumber=1, Body=data)["ETag"]
        s3.complete_multipart_upload(**part, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
        assert body_of(s3, bucket, f"upload-{size}", **key) == data
    assert count(server.folder, marker) == []
    assert count(server.folder, key["SSECustomerKey"]) == [] and count(server.folder, key["SSECustomerKeyMD5"]) == []
    for name, secret in ENCRYPTION_KEYS.items():
        assert count(server.folder, secret) == [str(server.keys)], name
    # It would be found.
    s3.put_object(Bucket=bucket, Key="plain", Body=marker.encode() * 10)
    assert count(server.folder, marker)


@pytest.fixture
def own(tmp_path):
    """A server that a test may stop and start with other keys."""
    server = Server(tmp_path)
    try:
        server.start_standalone()
        yield server
    finally:
        server.end()


def start_with(server, keys):
    server.stop()
    server.processes.clear()
    server.write_keys(keys)
    server.start_standalone()
    return server.client()


def test_keys_are_rotated_and_a_lost_one_is_named(own):
    s3, bucket = own.client(), "rotated"
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=default_of("AES256"))
    data = os.urandom(MIB)
    s3.put_object(Bucket=bucket, Key="old", Body=data)
    s3.put_object(Bucket=bucket, Key="customer", Body=data, **ONE)
    begun = s3.create_multipart_upload(Bucket=bucket, Key="upload", **ONE)
    part = {"Bucket": bucket, "Key": "upload", "UploadId": begun["UploadId"], **ONE}
    etags = [s3.upload_part(**part, PartNumber=1, Body=data * 5)["ETag"]]
    newest = base64.b64encode(os.urandom(32)).decode()

    s3 = start_with(own, {"new-key": newest, **ENCRYPTION_KEYS})
    assert body_of(s3, bucket, "old") == data and body_of(s3, bucket, "customer", **ONE) == data
    etags.append(s3.upload_part(**part, PartNumber=2, Body=data)["ETag"])
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
    s3.complete_multipart_upload(**part, MultipartUpload={"Parts": parts})
    assert body_of(s3, bucket, "upload", **ONE) == data * 6
    assert s3.put_object(Bucket=bucket, Key="k", ServerSideEncryption="aws:kms")["SSEKMSKeyId"] == "new-key"

    # The old line was taken out, or another key has its name: never wrong bytes.
    s3 = start_with(own, {"new-key": newest})
    with pytest.raises(ClientError) as refused:
        s3.get_object(Bucket=bucket, Key="old")
    error = refused.value.response["Error"]
    assert error["Code"] == "KMS.NotFoundException" and "`main-key`" in error["Message"]
    assert s3.head_object(Bucket=bucket, Key="old")["ServerSideEncryption"] == "AES256"
    assert body_of(s3, bucket, "customer", **ONE) == data
    s3 = start_with(own, {"main-key": newest})
    with pytest.raises(ClientError) as refused:
        s3.get_object(Bucket=bucket, Key="old")
    error = refused.value.response["Error"]
    assert error["Code"] == "InternalError" and "`main-key`" in error["Message"]

    # Without keys, what asks for them is refused, by name of the option; customers bring their own.
    s3 = start_with(own, {})
    for call in [lambda: s3.put_object(Bucket=bucket, Key="k", **KMS), lambda: s3.put_object(Bucket=bucket, Key="k"),
                 lambda: s3.create_multipart_upload(Bucket=bucket, Key="k", **S3),
                 lambda: s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=default_of("AES256"))]:
        with pytest.raises(ClientError) as refused:
            call()
        error = refused.value.response["Error"]
        assert error["Code"] == "NotImplemented" and "--encryption-keys" in error["Message"]
    s3.put_object(Bucket=bucket, Key="customer", Body=b"again", **ONE)
    s3 = start_with(own, ENCRYPTION_KEYS)
    assert body_of(s3, bucket, "old") == data and body_of(s3, bucket, "customer", **ONE) == b"again"


def test_a_file_of_keys_that_cannot_be_used_ends_the_start(tmp_path):
    keys = tmp_path / "keys"
    command = [BINARY, "server", str(tmp_path / "drive{1...4}"), "--encryption-keys", str(keys)]
    environment = {**os.environ, "COFFER_ACCESS_KEY": ACCESS_KEY, "COFFER_SECRET_KEY": SECRET_KEY}
    good = f"a:{ENCRYPTION_KEYS['main-key']}\n"
    for text, mode, reason in [(good, 0o644, "chmod 600"), ("a:c2hvcnQ=\n", 0o600, "line 1"), ("\n", 0o600, "no key"),
                               (good * 2, 0o600, "line 2"), (None, None, "No such file")]:
        keys.unlink(missing_ok=True)
        if text is not None:
            keys.write_text(text)
            keys.chmod(mode)
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode != 0 and reason in ended.stderr and "--encryption-keys" in ended.stderr, ended.stderr
        assert ENCRYPTION_KEYS["main-key"] not in ended.stderr


def test_a_mirror_copies_what_it_can_read_and_names_what_it_cannot(own, server, s3, bucket):
    source = own.client()
    source.create_bucket(Bucket=bucket)
    large = os.urandom(6 * MIB)
    for name, wanted in [("plain", {}), ("s3", S3), ("kms", KMS), ("customer", ONE)]:
        source.put_object(Bucket=bucket, Key=name, Body=name.encode(), **wanted)
        begun = source.create_multipart_upload(Bucket=bucket, Key=f"{name}-parts", **wanted)
        part = {"Bucket": bucket, "Key": f"{name}-parts", "UploadId": begun["UploadId"], **(ONE if name == "customer" else {})}
        etag = source.upload_part(**part, PartNumber=1, Body=large)["ETag"]
        source.complete_multipart_upload(**part, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})
    environment = {**os.environ, "COFFER_SOURCE_ACCESS_KEY": ACCESS_KEY, "COFFER_SOURCE_SECRET_KEY": SECRET_KEY,
                   "COFFER_ACCESS_KEY": ACCESS_KEY, "COFFER_SECRET_KEY": SECRET_KEY}
    done = subprocess.run([BINARY, "mirror", f"{own.endpoint}/{bucket}", f"{server.endpoint}/{bucket}"], env=environment,
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "customer" in line]
    assert len(lines) == 2 and all("customer's key" in line for line in lines), done.stderr
    for name in ["plain", "s3", "kms"]:
        assert body_of(s3, bucket, name) == name.encode() and body_of(s3, bucket, f"{name}-parts") == large
    assert sorted(item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]) == sorted(
        name + tail for name in ["plain", "s3", "kms"] for tail in ["", "-parts"])
