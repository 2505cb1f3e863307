"""Lifecycle rules, with days of some seconds."""

import datetime
import time

from conftest import DAY_SECONDS
from test_access import settled
from test_boto3 import error_code


def keys(s3, bucket):
    return [item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


def wait_until(holds, days):
    """A pass may be due, another one may be going on, and the machine may be busy."""
    deadline = time.monotonic() + (days + 6) * DAY_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "nothing has expired"
        time.sleep(0.2)


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
              {"ID": "later", "Filter": {"Prefix": "g/"}, "Expiration": {"Days": 1000}})
    began = time.monotonic()
    s3.put_object(Bucket=bucket, Key="a/k", Body=b"")
    for key, more in [("b/tagged", {"Tagging": "t=1&u=2"}), ("b/other", {"Tagging": "t=2"}), ("b/plain", {}),
                      ("c/large", {"Body": b"x" * 11}), ("c/small", {"Body": b"x" * 10}), ("d/k", {}), ("e/k", {}),
                      ("f/k", {}), ("g/k", {}), ("z", {})]:
        s3.put_object(Bucket=bucket, Key=key, **more)
    stay = ["b/other", "b/plain", "c/small", "e/k", "f/k", "g/k", "z"]
    wait_until(lambda: keys(s3, bucket) == stay, days=1)
    assert time.monotonic() - began >= DAY_SECONDS, "nothing expires before its time"
    assert error_code(s3.get_object, Bucket=bucket, Key="a/k") == ("NoSuchKey", 404)
    # What is written again lives again.
    s3.put_object(Bucket=bucket, Key="a/k", Body=b"2")
    written = time.monotonic()
    wait_until(lambda: "a/k" not in keys(s3, bucket), days=1)
    assert time.monotonic() - written >= DAY_SECONDS
    s3.delete_bucket_lifecycle(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="a/k", Body=b"3")
    time.sleep(3 * DAY_SECONDS)
    assert keys(s3, bucket) == ["a/k", *stay]


def test_uploads_are_given_up(s3, bucket):
    put_rules(s3, bucket, {"ID": "up", "Prefix": "up/", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}})
    ended = s3.create_multipart_upload(Bucket=bucket, Key="up/k")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="up/k", UploadId=ended, PartNumber=1, Body=b"x")
    stays = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    wait_until(lambda: [u["UploadId"] for u in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [stays], days=1)
    part = dict(Bucket=bucket, Key="up/k", UploadId=ended, PartNumber=2, Body=b"x")
    assert error_code(s3.upload_part, **part) == ("NoSuchUpload", 404)


def test_rules_read_back_as_they_were_written_and_answers_tell_them(s3, bucket):
    assert error_code(s3.get_bucket_lifecycle_configuration, Bucket=bucket) == ("NoSuchLifecycleConfiguration", 404)
    rules = [{"ID": "r 1", "Status": "Enabled", "Filter": {"Prefix": "a&b/"}, "Expiration": {"Days": 30}},
             {"ID": "r2", "Status": "Disabled", "Filter": {"Tag": {"Key": "k", "Value": "v"}}, "Expiration": {"Days": 1}}]
    put_rules(s3, bucket, *rules)
    assert settled(lambda: s3.get_bucket_lifecycle_configuration(Bucket=bucket))["Rules"] == rules
    time.sleep(1)
    put = s3.put_object(Bucket=bucket, Key="a&b/k", Body=b"")
    expected = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=31)
    told = f'expiry-date="{expected:%a, %d %b %Y} 00:00:00 GMT", rule-id="r 1"'
    assert put["Expiration"] == told
    assert s3.head_object(Bucket=bucket, Key="a&b/k")["Expiration"] == told
    assert "Expiration" not in s3.put_object(Bucket=bucket, Key="other", Body=b"")
