"""Lifecycle rules, with days of some seconds."""

import datetime
import re
import time

import pytest
import requests
from conftest import DAY_SECONDS, PATIENCE, Server, wait_for
from test_boto3 import error_code
from test_versions import enable, listed


def keys(s3, bucket):
    return [item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


def wait_until(holds, days):
    """A pass may be due, another one may be going on, and the machine may be busy."""
    wait_for(holds, days * DAY_SECONDS + PATIENCE, 0.2)


def put_rules(s3, bucket, *rules):
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [
        {"Status": "Enabled", **rule} for rule in rules]})


def test_objects_expire_by_their_rules_and_no_others(s3, bucket):
    put_rules(s3, bucket,
              {"ID": "prefix", "Filter": {"Prefix": "a/"}, "Expiration": {"Days": 1}},
              {"ID": "tags", "Filter": {"And": {"Prefix": "b/", "Tags": [{"Key": "t", "Value": "1"}]}}, "Expiration": {"Days": 1}},
              {"ID": "size", "Filter": {"And": {"Prefix": "c/", "ObjectSizeGreaterThan": 10}}, "Expiration": {"Days": 1}},
              {"ID": "past", "Filter": {"Prefix": "d/"}, "Expiration": {"Date": datetime.datetime(2015, 1, 1)}},
              {"ID": "future", "Filter": {"Prefix": "e/"}, "Expiration": {"Date": datetime.datetime(2099, 1, 1)}},
              {"ID": "off", "Filter": {"Prefix": "f/"}, "Expiration": {"Days": 1}, "Status": "Disabled"},
              {"ID": "later", "Filter": {"Prefix": "g/"}, "Expiration": {"Days": 1000}},
              # Each kind of filter by itself, and all of them.
              {"ID": "tag", "Filter": {"Tag": {"Key": "lone", "Value": "1"}}, "Expiration": {"Days": 1}},
              {"ID": "large", "Filter": {"ObjectSizeGreaterThan": 1000}, "Expiration": {"Days": 1}},
              {"ID": "all", "Filter": {"And": {"Prefix": "h/", "ObjectSizeGreaterThan": 10, "ObjectSizeLessThan": 20,
                                               "Tags": [{"Key": "t", "Value": "1"}, {"Key": "u", "Value": "2"}]}}, "Expiration": {"Days": 1}})
    began = time.monotonic()
    s3.put_object(Bucket=bucket, Key="a/k", Body=b"")
    for key, more in [("b/tagged", {"Tagging": "t=1&u=2"}), ("b/other", {"Tagging": "t=2"}), ("b/plain", {}),
                      ("c/large", {"Body": b"x" * 11}), ("c/small", {"Body": b"x" * 10}), ("d/k", {}), ("e/k", {}),
                      ("f/k", {}), ("g/k", {}), ("z", {}), ("y/tag", {"Tagging": "lone=1&t=1"}), ("y/other", {"Tagging": "lone=2"}),
                      ("y/large", {"Body": b"x" * 1001}), ("y/small", {"Body": b"x" * 1000}),
                      ("h/all", {"Body": b"x" * 15, "Tagging": "t=1&u=2&v=3"}), ("h/one", {"Body": b"x" * 15, "Tagging": "t=1"}),
                      ("h/small", {"Body": b"x" * 10, "Tagging": "t=1&u=2"}), ("h/large", {"Body": b"x" * 20, "Tagging": "t=1&u=2"})]:
        s3.put_object(Bucket=bucket, Key=key, **more)
    stay = ["b/other", "b/plain", "c/small", "e/k", "f/k", "g/k", "h/large", "h/one", "h/small", "y/other", "y/small", "z"]
    wait_until(lambda: keys(s3, bucket) == stay, days=1)
    assert time.monotonic() - began >= DAY_SECONDS, "nothing expires before its time"
    assert error_code(s3.get_object, Bucket=bucket, Key="a/k") == ("NoSuchKey", 404)
    # What is written again lives again.
    written = time.monotonic()
    s3.put_object(Bucket=bucket, Key="a/k", Body=b"2")
    wait_until(lambda: "a/k" not in keys(s3, bucket), days=1)
    assert time.monotonic() - written >= DAY_SECONDS
    s3.delete_bucket_lifecycle(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="a/k", Body=b"3")
    time.sleep(3 * DAY_SECONDS)
    assert keys(s3, bucket) == ["a/k", *stay]


def test_uploads_are_given_up_and_small_objects_expire_by_their_size(s3, bucket):
    for key, size in [("empty", 0), ("nine", 9), ("ten", 10)]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x" * size)
    ended = s3.create_multipart_upload(Bucket=bucket, Key="up/k")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="up/k", UploadId=ended, PartNumber=1, Body=b"x")
    stays = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    # Now, as the upload must not end before it has its part.
    put_rules(s3, bucket, {"ID": "up", "Prefix": "up/", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}},
              {"ID": "small", "Filter": {"ObjectSizeLessThan": 10}, "Expiration": {"Days": 1}})
    wait_until(lambda: [u["UploadId"] for u in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [stays], days=1)
    part = dict(Bucket=bucket, Key="up/k", UploadId=ended, PartNumber=2, Body=b"x")
    assert error_code(s3.upload_part, **part) == ("NoSuchUpload", 404)
    wait_until(lambda: keys(s3, bucket) == ["ten"], days=1)


def now_and_not_at_midnight():
    """The time, of a day (UTC) that goes on for a while: answers tell days."""
    while True:
        now = datetime.datetime.now(datetime.timezone.utc)
        if (now + datetime.timedelta(seconds=60)).date() == now.date():
            return now
        time.sleep(1)


def test_rules_read_back_as_they_were_written_and_answers_tell_them(server, s3, bucket):
    assert error_code(s3.get_bucket_lifecycle_configuration, Bucket=bucket) == ("NoSuchLifecycleConfiguration", 404)
    rules = [{"ID": "r 1", "Status": "Enabled", "Filter": {"Prefix": "a&b/"}, "Expiration": {"Days": 300}},
             {"ID": "r2", "Status": "Disabled", "Filter": {"Tag": {"Key": "k", "Value": "v"}}, "Expiration": {"Days": 1}}]
    put_rules(s3, bucket, *rules)
    server.settle(bucket)
    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"] == rules
    expected = now_and_not_at_midnight() + datetime.timedelta(days=301)
    put = s3.put_object(Bucket=bucket, Key="a&b/k", Body=b"")
    told = f'expiry-date="{expected:%a, %d %b %Y} 00:00:00 GMT", rule-id="r 1"'
    assert put["Expiration"] == told
    assert s3.head_object(Bucket=bucket, Key="a&b/k")["Expiration"] == told
    assert "Expiration" not in s3.put_object(Bucket=bucket, Key="other", Body=b"")
    assert s3.copy_object(Bucket=bucket, Key="a&b/c", CopySource={"Bucket": bucket, "Key": "other"})["Expiration"] == told
    upload = s3.create_multipart_upload(Bucket=bucket, Key="a&b/p")
    assert "AbortDate" not in upload and "AbortRuleId" not in upload
    part = s3.upload_part(Bucket=bucket, Key="a&b/p", UploadId=upload["UploadId"], PartNumber=1, Body=b"x")["ETag"]
    done = s3.complete_multipart_upload(Bucket=bucket, Key="a&b/p", UploadId=upload["UploadId"],
                                        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})
    assert done["Expiration"] == told
    form = s3.generate_presigned_post(bucket, "a&b/f")
    assert requests.post(form["url"], data=form["fields"], files={"file": b"x"}).headers["x-amz-expiration"] == told
    # The rule is about current versions.
    enable(s3, bucket)
    old, current = write(s3, bucket, "a&b/v", 2)
    assert "Expiration" not in s3.head_object(Bucket=bucket, Key="a&b/v", VersionId=old)
    assert "Expiration" not in s3.get_object(Bucket=bucket, Key="a&b/v", VersionId=old)
    assert s3.head_object(Bucket=bucket, Key="a&b/v", VersionId=current)["Expiration"] == told


@pytest.fixture
def own(tmp_path):
    """A server that a test may kill."""
    server = Server(tmp_path)
    yield server
    server.end()


def test_rules_are_carried_on_by_a_server_that_was_killed(own):
    own.start_standalone()
    s3 = own.client()
    s3.create_bucket(Bucket="bucket")
    put_rules(s3, "bucket", {"ID": "r", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}})
    s3.put_object(Bucket="bucket", Key="before", Body=b"x")
    own.kill(0)
    own.start_standalone()
    s3 = own.client()
    s3.put_object(Bucket="bucket", Key="after", Body=b"x")
    wait_until(lambda: keys(s3, "bucket") == [], days=1)


def test_gateways_share_the_buckets_and_one_that_dies_in_the_middle_stops_no_other(own):
    own.start_distributed()
    s3 = own.client()
    buckets = [f"bucket-{number}" for number in range(12)]
    for bucket in buckets:
        s3.create_bucket(Bucket=bucket)
        put_rules(s3, bucket, {"ID": "r", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}})
    written = 0

    def put(s3, count):
        nonlocal written
        for number in range(count):
            for bucket in buckets:
                s3.put_object(Bucket=bucket, Key=f"{number}", Body=b"x")
        written += count * len(buckets)

    def wait_until_gone(s3):
        wait_until(lambda: not any(keys(s3, bucket) for bucket in buckets), days=1)

    def expired(gateway):
        """How many objects a gateway has let expire."""
        found = re.search("^coffer_lifecycle_expired_objects_total (.*)", requests.get(f"{own.admins[gateway]}/metrics").text, re.M)
        return int(float(found[1])) if found else 0

    def busy():
        return [gateway for gateway in range(len(own.admins)) if expired(gateway)]

    def are_shared():
        put(s3, 1)
        wait_until_gone(s3)
        return len(busy()) >= 2

    # The first one that is there may have them all at first. Of 12 buckets one has all by chance once in four million runs.
    wait_for(are_shared)
    assert sum(map(expired, range(len(own.admins)))) <= written, "none is deleted twice"
    one = busy()[0]
    before = expired(one)
    put(s3, 10)
    wait_until(lambda: expired(one) > before, days=1)
    own.kill(one)
    rest = own.client(endpoint=own.gateways[one - 1])
    wait_until_gone(rest)
    put(rest, 1)
    wait_until_gone(rest)


def test_answers_tell_when_an_upload_will_be_given_up(server, s3, bucket):
    abort = lambda days: {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days}}
    put_rules(s3, bucket, {"ID": "long", "Filter": {"Prefix": ""}, **abort(10_000)}, {"ID": "up", "Filter": {"Prefix": "up/"}, **abort(1_000)},
              {"ID": "off", "Status": "Disabled", "Filter": {"Prefix": ""}, **abort(100)})
    server.settle(bucket)
    for key, days, rule in [("k", 10_000, "long"), ("up/k", 1_000, "up")]:
        midnight = now_and_not_at_midnight().replace(hour=0, minute=0, second=0, microsecond=0)
        begun = s3.create_multipart_upload(Bucket=bucket, Key=key)
        listed = s3.list_parts(Bucket=bucket, Key=key, UploadId=begun["UploadId"])
        for answer in [begun, listed]:
            assert (answer["AbortDate"], answer["AbortRuleId"]) == (midnight + datetime.timedelta(days=days + 1), rule)


def write(s3, bucket, key, count):
    return [s3.put_object(Bucket=bucket, Key=key, Body=f"{i}".encode())["VersionId"] for i in range(count)]


def versions(s3, bucket, **arguments):
    """(key, version id) of all versions that are no delete markers."""
    return [(key, version) for kind, key, version, _ in listed(s3, bucket, **arguments) if kind == "Versions"]


def test_noncurrent_versions_expire_and_the_newest_stay(s3, bucket):
    enable(s3, bucket)
    put_rules(s3, bucket,
              {"ID": "all", "Filter": {"Prefix": "a/"}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}},
              {"ID": "two", "Filter": {"Prefix": "b/"},
               "NoncurrentVersionExpiration": {"NoncurrentDays": 1, "NewerNoncurrentVersions": 2}},
              {"ID": "tag", "Filter": {"And": {"Prefix": "c/", "Tags": [{"Key": "t", "Value": "1"}]}},
               "NoncurrentVersionExpiration": {"NoncurrentDays": 1}},
              {"ID": "later", "Filter": {"Prefix": "d/"}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1000}})
    began = time.monotonic()
    a, b, d = (write(s3, bucket, key, 5) for key in ["a/k", "b/k", "d/k"])
    tagged = s3.put_object(Bucket=bucket, Key="c/k", Tagging="t=1")["VersionId"]
    plain, c = write(s3, bucket, "c/k", 2)
    stay = [("a/k", a[4]), ("b/k", b[4]), ("b/k", b[3]), ("b/k", b[2]), ("c/k", c), ("c/k", plain)]
    stay += [("d/k", version) for version in reversed(d)]
    wait_until(lambda: versions(s3, bucket) == stay, days=1)
    assert time.monotonic() - began >= DAY_SECONDS, "nothing expires before its time"
    assert error_code(s3.get_object, Bucket=bucket, Key="c/k", VersionId=tagged) == ("NoSuchVersion", 404)
    assert s3.get_object(Bucket=bucket, Key="b/k", VersionId=b[2])["Body"].read() == b"2"
    # A version is not due by its own age, but by that of what came after it.
    written = time.monotonic()
    last = s3.put_object(Bucket=bucket, Key="a/k", Body=b"new")["VersionId"]
    wait_until(lambda: versions(s3, bucket, Prefix="a/") == [("a/k", last)], days=1)
    assert time.monotonic() - written >= DAY_SECONDS


def test_in_a_bucket_that_keeps_versions_a_delete_marker_comes_and_goes_last(s3, bucket):
    enable(s3, bucket)
    put_rules(s3, bucket, {"ID": "r", "Filter": {"Prefix": "a/"}, "Expiration": {"Days": 1}},
              {"ID": "m", "Filter": {"Prefix": "m/"}, "Expiration": {"ExpiredObjectDeleteMarker": True}})
    [version] = write(s3, bucket, "a/k", 1)
    wait_until(lambda: "a/k" not in keys(s3, bucket), days=1)
    [marker] = [item for item in listed(s3, bucket) if item[0] == "DeleteMarkers"]
    assert marker[3] and versions(s3, bucket) == [("a/k", version)], "the object is still below its delete marker"
    assert s3.get_object(Bucket=bucket, Key="a/k", VersionId=version)["Body"].read() == b"0"
    below = write(s3, bucket, "m/k", 1)
    s3.delete_object(Bucket=bucket, Key="m/k")
    alone = s3.delete_object(Bucket=bucket, Key="m/alone")["VersionId"]
    wait_until(lambda: alone not in [item[2] for item in listed(s3, bucket)], days=1)
    time.sleep(2 * DAY_SECONDS)
    assert ("a/k", version) in versions(s3, bucket), "no marker goes before what it hides"
    assert [item[1] for item in listed(s3, bucket) if item[0] == "DeleteMarkers"] == ["a/k", "m/k"]
    s3.delete_object(Bucket=bucket, Key="m/k", VersionId=below[0])
    s3.delete_object(Bucket=bucket, Key="a/k", VersionId=version)
    wait_until(lambda: listed(s3, bucket) == [], days=1)


def test_with_both_kinds_of_rules_nothing_is_left_of_a_key(s3, bucket):
    enable(s3, bucket)
    put_rules(s3, bucket, {"ID": "r", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1},
                           "NoncurrentVersionExpiration": {"NoncurrentDays": 1}})
    write(s3, bucket, "k", 3)
    s3.delete_object(Bucket=bucket, Key="gone")
    wait_until(lambda: listed(s3, bucket) == [], days=3)


def test_a_suspended_bucket_keeps_what_it_had_and_its_null_version_expires(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    enable(s3, bucket)
    [version] = write(s3, bucket, "k", 1)
    enable(s3, bucket, "Suspended")
    s3.put_object(Bucket=bucket, Key="k", Body=b"null")
    s3.put_object(Bucket=bucket, Key="kept/k", Body=b"x")
    put_rules(s3, bucket, {"ID": "r", "Filter": {"And": {"Prefix": "k", "ObjectSizeGreaterThan": 1}}, "Expiration": {"Days": 1}})
    wait_until(lambda: keys(s3, bucket) == ["kept/k"], days=1)
    assert [item for item in listed(s3, bucket, Prefix="k") if item[1] == "k"] == [
        ("Versions", "k", version, False), ("DeleteMarkers", "k", "null", True)]
    put_rules(s3, bucket, {"ID": "r", "Filter": {"Prefix": "k"}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
                           "Expiration": {"ExpiredObjectDeleteMarker": True}})
    wait_until(lambda: listed(s3, bucket) == [("Versions", "kept/k", "null", True)], days=2)


def test_what_object_lock_protects_does_not_expire(s3, bucket):
    name = f"{bucket}-locked"
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    held, retained, kept, current = write(s3, name, "k", 4)
    s3.put_object_legal_hold(Bucket=name, Key="k", VersionId=held, LegalHold={"Status": "ON"})
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    for version, mode in [(retained, "GOVERNANCE"), (kept, "COMPLIANCE")]:
        s3.put_object_retention(Bucket=name, Key="k", VersionId=version, Retention={"Mode": mode, "RetainUntilDate": until})
    write(s3, name, "free", 2)
    put_rules(s3, name, {"ID": "r", "Filter": {"Prefix": ""}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}})
    wait_until(lambda: len(versions(s3, name, Prefix="free")) == 1, days=1)
    time.sleep(2 * DAY_SECONDS)
    assert versions(s3, name, Prefix="k") == [("k", current), ("k", kept), ("k", retained), ("k", held)]
    s3.put_object_legal_hold(Bucket=name, Key="k", VersionId=held, LegalHold={"Status": "OFF"})
    wait_until(lambda: versions(s3, name, Prefix="k") == [("k", current), ("k", kept), ("k", retained)], days=1)


@pytest.mark.parametrize("rule, expected", [
    ({"Expiration": {"ExpiredObjectDeleteMarker": True}, "Filter": {"Tag": {"Key": "k", "Value": "v"}}}, "InvalidArgument"),
    ({"NoncurrentVersionExpiration": {"NoncurrentDays": 0}, "Filter": {}}, "InvalidArgument"),
    ({"NoncurrentVersionExpiration": {"NewerNoncurrentVersions": 1}, "Filter": {}}, "MalformedXML"),
    ({"NoncurrentVersionExpiration": {"NoncurrentDays": 1, "NewerNoncurrentVersions": 101}, "Filter": {}}, "InvalidArgument"),
    ({"Expiration": {"Days": 1}, "Filter": {"And": {"ObjectSizeGreaterThan": 10, "ObjectSizeLessThan": 10}}}, "InvalidRequest"),
    ({"Expiration": {"Days": 1}, "Filter": {"Prefix": "a", "ObjectSizeLessThan": 10}}, "MalformedXML"),
    ({"Expiration": {"Days": 1}, "Filter": {}, "Prefix": "a"}, "MalformedXML"),
    ({"Expiration": {"Days": 1}}, "MalformedXML"),
    ({"Expiration": {}, "Filter": {}}, "MalformedXML"),
    ({"Expiration": {"Days": 1, "Date": datetime.datetime(2099, 1, 1)}, "Filter": {}}, "MalformedXML"),
    ({"Expiration": {"Date": datetime.datetime(2099, 1, 1, 12)}, "Filter": {}}, "InvalidArgument"),
    ({"Filter": {}}, "InvalidArgument"),
    ({"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}, "Filter": {"Tag": {"Key": "k", "Value": "v"}}}, "InvalidArgument"),
    ({"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 0}, "Filter": {}}, "InvalidArgument"),
    ({"Expiration": {"Days": 1}, "Filter": {"And": {"Tags": [{"Key": "k", "Value": "v"}] * 2}}}, "InvalidTag"),
])
def test_rules_that_make_no_sense_are_refused(s3, bucket, rule, expected):
    rules = {"Rules": [{"ID": "r", "Status": "Enabled", **rule}]}
    refused = error_code(s3.put_bucket_lifecycle_configuration, Bucket=bucket, LifecycleConfiguration=rules)
    assert refused == (expected, 400)
    assert error_code(s3.get_bucket_lifecycle_configuration, Bucket=bucket) == ("NoSuchLifecycleConfiguration", 404)
