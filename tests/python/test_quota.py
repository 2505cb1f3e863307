"""Quotas of buckets: hard, exact to what is in flight, on every gateway."""

import json
import os
import threading
import time
import urllib.error
import urllib.request

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from conftest import ACCESS_KEY, PATIENCE, SECRET_KEY, Server, quickest, wait_for

KIB, MIB = 1024, 1024 * 1024


def quota(server, *arguments):
    return json.loads(server.coffer("bucket", "quota", *arguments, "--json").stdout)


@pytest.fixture
def limited(server, s3, bucket):
    """A bucket of 1 MiB, known to every gateway, in which has been counted what there is."""
    set_quota(server, bucket, "1MiB")
    return bucket


def set_quota(server, bucket, size):
    shown = quota(server, "set", bucket, size)
    server.settle(bucket)
    wait_for(lambda: "usage" in quota(server, "show", bucket))
    return shown


def decided(write):
    """What comes of a write once it is known whether there is room for it: until then clients are told to come again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return write()
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 503 or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def refusal(write):
    """The answer to a write that is refused because of a quota, nothing if it is taken; any other trouble is an error."""
    try:
        decided(write)
        return None
    except ClientError as error:
        status, answer = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]
        assert (status, answer["Code"]) == (400, "XMinioAdminBucketQuotaExceeded"), error
        return error.response


def refused(write):
    """Whether a write is refused because of a quota."""
    return refusal(write) is not None


def eventually(write):
    """Until a write is taken: room that was given back is counted within seconds."""
    wait_for(lambda: not refused(write), pause=0.5)


def stored(s3, bucket):
    """Bytes of the bucket's objects, versions and parts of open uploads."""
    total = 0
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        total += sum(version["Size"] for version in page.get("Versions", []))
    for upload in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
        parts = s3.list_parts(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        total += sum(part["Size"] for part in parts.get("Parts", []))
    return total


def test_it_is_set_shown_and_cleared(server, s3, bucket):
    assert "quota_bytes" not in quota(server, "show", bucket)
    s3.put_object(Bucket=bucket, Key="a", Body=bytes(1000))
    shown = set_quota(server, bucket, "4KiB")
    assert shown["quota_bytes"] == 4096
    shown = quota(server, "show", bucket)
    assert shown["usage"]["used_bytes"] == 1000 and 0 <= shown["usage"]["age_ms"] < 60_000, shown
    text = server.coffer("bucket", "quota", "show", bucket).stdout
    assert "4.0 KiB" in text and "1000 bytes" in text and "s ago" in text, text
    assert refused(lambda: s3.put_object(Bucket=bucket, Key="b", Body=bytes(4000)))
    quota(server, "clear", bucket)
    server.settle(bucket)
    s3.put_object(Bucket=bucket, Key="b", Body=bytes(4000))
    assert "quota_bytes" not in quota(server, "show", bucket)


def test_what_is_no_bucket_or_no_size_is_said(server, bucket):
    assert server.coffer("bucket", "quota", "show", "no-such-bucket-here", check=False).returncode == 3
    assert server.coffer("bucket", "quota", "set", bucket, "much", check=False).returncode == 2
    assert server.coffer("bucket", "quota", "set", "coffer-.events", "1GiB", check=False).returncode == 2
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{server.admin}/api/v1/buckets/{bucket}/quota")
    assert error.value.code == 403


def test_the_refusal_names_bucket_quota_and_use(s3, limited):
    s3.put_object(Bucket=limited, Key="a", Body=bytes(600 * KIB))
    answers = []

    def tells():
        answers.append(refusal(lambda: s3.put_object(Bucket=limited, Key="b", Body=bytes(500 * KIB))))
        answer = answers[-1]["Error"]
        assert answer["BucketName"] == limited and answer["QuotaBytes"] == str(MIB) and limited in answer["Message"], answer
        return answer["UsedBytes"] == str(600 * KIB) and not answers[-1]["ResponseMetadata"].get("RetryAttempts")

    # What had not quite ended when the count began is in it twice, until the next one; and boto3 tries again where it is told to, which
    # this refusal does not.
    wait_for(tells)
    # Nothing of it is there, and what fits is taken to the last byte.
    assert not refused(lambda: s3.put_object(Bucket=limited, Key="c", Body=bytes(424 * KIB)))
    assert refused(lambda: s3.put_object(Bucket=limited, Key="d", Body=b"x"))
    s3.put_object(Bucket=limited, Key="empty", Body=b"")
    assert stored(s3, limited) == MIB


def test_a_body_that_does_not_fit_is_refused_before_it_is_sent(server, s3, limited):
    """`Expect: 100-continue`: the answer comes instead of the go-ahead."""
    import http.client
    url = s3.generate_presigned_url("put_object", Params={"Bucket": limited, "Key": "big"})
    host, path = url.removeprefix("http://").split("/", 1)
    connection = http.client.HTTPConnection(host, timeout=PATIENCE)
    connection.putrequest("PUT", "/" + path)
    connection.putheader("Content-Length", str(64 * MIB))
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 400 and b"XMinioAdminBucketQuotaExceeded" in answer.read()


def test_deletes_always_work_and_give_room_back(s3, limited):
    s3.put_object(Bucket=limited, Key="a", Body=bytes(MIB))
    assert refused(lambda: s3.put_object(Bucket=limited, Key="b", Body=bytes(MIB)))
    s3.delete_object(Bucket=limited, Key="a")
    eventually(lambda: s3.put_object(Bucket=limited, Key="b", Body=bytes(MIB)))


def test_what_is_replaced_gives_room_back(s3, limited):
    # The new bytes must fit beside the old ones; then those are no more.
    for _ in range(6):
        eventually(lambda: s3.put_object(Bucket=limited, Key="a", Body=bytes(400 * KIB)))
    assert stored(s3, limited) == 400 * KIB


def test_a_lower_quota_refuses_writes_and_loses_nothing(server, s3, limited):
    s3.put_object(Bucket=limited, Key="a", Body=bytes(800 * KIB))
    set_quota(server, limited, "100KiB")
    assert refused(lambda: s3.put_object(Bucket=limited, Key="b", Body=b"x"))
    assert len(s3.get_object(Bucket=limited, Key="a")["Body"].read()) == 800 * KIB
    # As soon as that has been counted.
    wait_for(lambda: "refused" in server.coffer("bucket", "quota", "show", limited).stdout)
    set_quota(server, limited, "900KiB")
    eventually(lambda: s3.put_object(Bucket=limited, Key="b", Body=bytes(100 * KIB)))
    s3.delete_object(Bucket=limited, Key="a")


def test_older_versions_count(s3, limited):
    s3.put_bucket_versioning(Bucket=limited, VersioningConfiguration={"Status": "Enabled"})
    versions = [decided(lambda: s3.put_object(Bucket=limited, Key="a", Body=bytes(300 * KIB)))["VersionId"] for _ in range(3)]
    assert refused(lambda: s3.put_object(Bucket=limited, Key="a", Body=bytes(300 * KIB)))
    s3.delete_object(Bucket=limited, Key="a")
    assert refused(lambda: s3.put_object(Bucket=limited, Key="a", Body=bytes(300 * KIB)))
    s3.delete_object(Bucket=limited, Key="a", VersionId=versions[0])
    eventually(lambda: s3.put_object(Bucket=limited, Key="a", Body=bytes(300 * KIB)))
    assert stored(s3, limited) == 900 * KIB


def test_a_version_from_before_the_bucket_kept_any_counts(server, s3, limited):
    s3.put_object(Bucket=limited, Key="a", Body=bytes(100 * KIB))
    s3.put_bucket_versioning(Bucket=limited, VersioningConfiguration={"Status": "Enabled"})
    s3.put_object(Bucket=limited, Key="a", Body=bytes(50 * KIB))
    s3.delete_object(Bucket=limited, Key="a")
    wait_for(lambda: quota(server, "show", limited)["usage"]["used_bytes"] == 150 * KIB)


def test_parts_count_when_they_are_uploaded(server, s3):
    bucket = "b-" + os.urandom(8).hex()
    s3.create_bucket(Bucket=bucket)
    set_quota(server, bucket, "16MiB")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="a")["UploadId"]
    part = lambda number: s3.upload_part(Bucket=bucket, Key="a", UploadId=upload, PartNumber=number,
                                         Body=bytes(5 * MIB))["ETag"]
    etags = {number: decided(lambda: part(number)) for number in (1, 2, 3)}
    assert refused(lambda: part(4))
    assert refused(lambda: s3.put_object(Bucket=bucket, Key="b", Body=bytes(2 * MIB)))
    # Complete takes two of three: what it drops is room again, and what it takes does not count twice.
    chosen = [{"PartNumber": number, "ETag": etags[number]} for number in (1, 2)]
    s3.complete_multipart_upload(Bucket=bucket, Key="a", UploadId=upload, MultipartUpload={"Parts": chosen})
    eventually(lambda: s3.put_object(Bucket=bucket, Key="b", Body=bytes(6 * MIB)))
    assert refused(lambda: s3.put_object(Bucket=bucket, Key="c", Body=bytes(1 * MIB)))
    assert stored(s3, bucket) == 16 * MIB
    # So does Abort.
    s3.delete_object(Bucket=bucket, Key="a")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="a")["UploadId"]
    eventually(lambda: part(1))
    eventually(lambda: part(2))
    assert refused(lambda: part(3))
    s3.abort_multipart_upload(Bucket=bucket, Key="a", UploadId=upload)
    eventually(lambda: s3.put_object(Bucket=bucket, Key="c", Body=bytes(10 * MIB)))


def test_copies_and_forms_are_refused_too(s3, limited):
    s3.put_object(Bucket=limited, Key="a", Body=bytes(600 * KIB))
    assert refused(lambda: s3.copy_object(Bucket=limited, Key="b", CopySource={"Bucket": limited, "Key": "a"}))
    upload = s3.create_multipart_upload(Bucket=limited, Key="p")["UploadId"]
    assert refused(lambda: s3.upload_part_copy(Bucket=limited, Key="p", UploadId=upload, PartNumber=1, CopySource={"Bucket": limited, "Key": "a"}))
    form = s3.generate_presigned_post(limited, "c")
    border = "----border"
    fields = "".join(f'--{border}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                     for name, value in form["fields"].items())
    body = (fields + f'--{border}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n').encode()
    body += bytes(600 * KIB) + f"\r\n--{border}--\r\n".encode()
    request = urllib.request.Request(form["url"], body,
                                     {"Content-Type": f"multipart/form-data; boundary={border}"})
    answers = []

    def answered():
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request)
        answers.append((error.value.code, error.value.read()))
        return answers[-1][0] != 503

    wait_for(answered)
    assert answers[-1][0] == 400 and b"XMinioAdminBucketQuotaExceeded" in answers[-1][1]
    # Tags and such add no bytes.
    s3.put_object_tagging(Bucket=limited, Key="a", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})


def fill(clients, bucket, size, writers=4):
    """Writes objects by all clients at once until each is refused."""
    def write(client, name):
        for number in range(10_000):
            if refused(lambda: client.put_object(Bucket=bucket, Key=f"{name}-{number}", Body=bytes(size))):
                return
        failed.append("never refused")

    def run(client, name):
        try:
            write(client, name)
        except Exception as error:  # Told by the test, not by a thread.
            failed.append(error)

    failed = []
    threads = [threading.Thread(target=run, args=(client, f"{i}-{j}"))
               for i, client in enumerate(clients) for j in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def test_writers_at_full_speed_stop_at_the_quota(server, s3, limited):
    fill([server.client()], limited, 10 * KIB, writers=8)
    total = stored(s3, limited)
    assert MIB - 10 * KIB < total <= MIB, total


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A cluster whose gateways are reached one by one."""
    server = Server(tmp_path_factory.mktemp("pair"))
    try:
        server.start_distributed()
        yield server
    finally:
        server.end()


def of(endpoint):
    return boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
                        region_name="us-east-1",
                        config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}))


def test_gateways_share_the_room(pair):
    one, two = (of(endpoint) for endpoint in pair.gateways[:2])
    for size, writers in ((64 * KIB, 4), (7 * KIB, 3)):
        bucket = "b-" + os.urandom(8).hex()
        one.create_bucket(Bucket=bucket)
        set_quota(pair, bucket, "4MiB")
        fill([one, two], bucket, size, writers)
        total = stored(one, bucket)
        # Nobody is refused while there is room; and one that asks alone gets all that is left.
        assert 4 * MIB - 2 * size < total <= 4 * MIB, total
        rest = 4 * MIB - total
        if rest:
            eventually(lambda: two.put_object(Bucket=bucket, Key="rest", Body=bytes(rest)))
        assert stored(one, bucket) == 4 * MIB


def test_a_quota_is_in_force_at_every_gateway_within_a_second(pair):
    clients = [of(endpoint) for endpoint in pair.gateways]
    bucket = "b-" + os.urandom(8).hex()
    clients[0].create_bucket(Bucket=bucket)
    clients[1].put_object(Bucket=bucket, Key="a", Body=bytes(100 * KIB))
    assert quickest(lambda: quota(pair, "set", bucket, "150KiB"), lambda: pair.settle(bucket)) < 1
    for client in clients:
        assert refused(lambda: client.put_object(Bucket=bucket, Key="b", Body=bytes(60 * KIB)))
    set_quota(pair, bucket, "1MiB")
    for number, client in enumerate(clients):
        assert not refused(lambda: client.put_object(Bucket=bucket, Key=f"c{number}", Body=bytes(60 * KIB)))


def test_room_of_a_gateway_that_dies_comes_back(pair):
    victim = of(pair.gateways[-1])
    one = of(pair.gateways[0])
    bucket = "b-" + os.urandom(8).hex()
    one.create_bucket(Bucket=bucket)
    set_quota(pair, bucket, "8MiB")
    # It takes an eighth of the room and uses little of it.
    assert not refused(lambda: victim.put_object(Bucket=bucket, Key="v", Body=bytes(KIB)))
    pair.kill(-1)
    assert not refused(lambda: one.put_object(Bucket=bucket, Key="a", Body=bytes(6 * MIB)))
    rest = 2 * MIB - KIB
    eventually(lambda: one.put_object(Bucket=bucket, Key="rest", Body=bytes(rest)))
    assert stored(one, bucket) == 8 * MIB
    assert refused(lambda: one.put_object(Bucket=bucket, Key="more", Body=b"x"))
