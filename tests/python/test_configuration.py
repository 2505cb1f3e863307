"""Bucket configurations, tags, forms and what is refused."""

import base64
import datetime
import hashlib
import hmac
import json
import os
import re
import threading
import time
from urllib.parse import quote

import pytest
import requests
from botocore.exceptions import ClientError

from conftest import ACCESS_KEY, PATIENCE, SECRET_KEY, settled
from test_access import DENIED, new_bucket, set_policy, statement
from test_boto3 import error_code


def tag_set(**tags):
    return {"TagSet": [{"Key": key, "Value": value} for key, value in tags.items()]}


def test_buckets_have_tags(s3, bucket):
    assert error_code(s3.get_bucket_tagging, Bucket=bucket) == ("NoSuchTagSet", 404)
    s3.put_bucket_tagging(Bucket=bucket, Tagging=tag_set(team="a + b", empty=""))
    assert settled(lambda: s3.get_bucket_tagging(Bucket=bucket))["TagSet"] == tag_set(empty="", team="a + b")["TagSet"]
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
    for wrong in [tag_set(a="v" * 257), tag_set(**{"k" * 129: "v"}), tag_set(**{"aws:k": "v"}), {"TagSet": tag_set(a="1")["TagSet"] * 2}]:
        assert error_code(s3.put_object_tagging, Bucket=bucket, Key="k", Tagging=wrong) == ("InvalidTag", 400)
    many = "&".join(f"k{i}=v" for i in range(11))
    for call, more in [(s3.put_object, {"Body": b"x"}), (s3.create_multipart_upload, {}),
                       (s3.copy_object, {"TaggingDirective": "REPLACE", "CopySource": {"Bucket": bucket, "Key": "k"}})]:
        for wrong in [many, "a=1&a=2", "=1"]:
            assert error_code(call, Bucket=bucket, Key="new", Tagging=wrong, **more) == ("InvalidTag", 400)
    directive = dict(Bucket=bucket, Key="new", TaggingDirective="NONSENSE", CopySource={"Bucket": bucket, "Key": "k"})
    assert error_code(s3.copy_object, **directive) == ("InvalidArgument", 400)
    assert error_code(s3.get_object_tagging, Bucket=bucket, Key="new") == ("NoSuchKey", 404)


@pytest.mark.parametrize("text", ["a&b", "a,b", "a;b", "a*b", "50%", "a?", "a#b", "a\nb", "a\tb", "(a)", "<a>", "a\\b", "'", '"'])
def test_tags_have_the_characters_that_s3_allows(s3, bucket, text):
    wrong = [tag_set(**{text: "v"}), tag_set(k=text)]
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for tagging in wrong:
        assert error_code(s3.put_object_tagging, Bucket=bucket, Key="k", Tagging=tagging) == ("InvalidTag", 400)
        assert error_code(s3.put_bucket_tagging, Bucket=bucket, Tagging=tagging) == ("InvalidTag", 400)
    for header in [f"k={quote(text)}", f"{quote(text)}=v"]:
        for call in [s3.put_object, s3.create_multipart_upload]:
            assert error_code(call, Bucket=bucket, Key="k", Tagging=header) == ("InvalidTag", 400)
    right = tag_set(**{"Größe 漢字 +-=._:/@": "Привет 1 +-=._:/@ "})
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=right)
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == right["TagSet"]


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
    stop, tagged, failed = threading.Event(), [], []
    deadline = time.monotonic() + PATIENCE

    def again(call):
        """The key is contended: 503 and 409 ask to try again, as clients do by themselves."""
        while True:
            try:
                return call()
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("ServiceUnavailable", "OperationAborted") or time.monotonic() > deadline:
                    raise

    def tag():
        client = server.client()
        try:
            while not stop.is_set():
                value = os.urandom(4).hex()
                again(lambda: client.put_object_tagging(Bucket=bucket, Key="k", Tagging=tag_set(t=value)))
                tagged.append(value)
        except Exception as error:  # Told by the test, not by a thread.
            failed.append(error)

    taggers = [threading.Thread(target=tag) for _ in range(2)]
    for tagger in taggers:
        tagger.start()
    try:
        write = 0
        # Until there were enough of both beside each other.
        while (write < 39 or len(tagged) <= 10) and not failed:
            assert time.monotonic() < deadline, (write, len(tagged))
            write += 1
            again(lambda: s3.put_object(Bucket=bucket, Key="k", Body=str(write).encode()))
            assert again(lambda: s3.get_object(Bucket=bucket, Key="k"))["Body"].read() == str(write).encode()
    finally:
        stop.set()
        for tagger in taggers:
            tagger.join()
    assert not failed, failed
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == str(write).encode()


def test_browsers_of_other_origins(server, s3, bucket):
    url = f"{server.endpoint}/{bucket}/k"
    ask = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "PUT"}
    assert error_code(s3.get_bucket_cors, Bucket=bucket) == ("NoSuchCORSConfiguration", 404)
    assert requests.options(url, headers=ask).status_code == 403
    assert requests.options(url).status_code == 400
    rules = [{"ID": "one", "AllowedOrigins": ["https://*.example.com"], "AllowedMethods": ["PUT", "GET"],
              "AllowedHeaders": ["x-amz-*"], "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 600}]
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": rules})
    server.settle(bucket)
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == rules
    assert [requests.options(url, headers=ask).status_code for _ in range(8)] == [200] * 8
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


def test_configurations_that_are_too_long_are_refused_for_good(server, s3, bucket):
    """And not with 503, which clients try again."""
    origins = lambda count: {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": [f"https://{i:050}.test" for i in range(count)]}]}
    rules = lambda prefix: {"Rules": [{"ID": f"{i:020}", "Status": "Enabled", "Filter": {"Prefix": f"{prefix}{i:04}/"}, "Expiration": {"Days": 1}}
                                      for i in range(1000)]}
    cors = lambda count: s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=origins(count))
    lifecycle = lambda prefix: s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules(prefix))
    cors(600)
    lifecycle("backups/of/somebody/")
    for call, value in [(cors, 700), (cors, 30_000), (lifecycle, "p" * 400), (lifecycle, '"' * 400)]:
        with pytest.raises(ClientError) as refused:
            call(value)
        error = refused.value.response
        assert (error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]) == ("MaxMessageLengthExceeded", 400)
        assert "bytes, and may have" in error["Error"]["Message"], error["Error"]["Message"]
    server.settle(bucket)
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"][0]["AllowedOrigins"] == origins(600)["CORSRules"][0]["AllowedOrigins"]
    kept = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert [rule["Filter"] for rule in kept] == [rule["Filter"] for rule in rules("backups/of/somebody/")["Rules"]]
    s3.delete_bucket_cors(Bucket=bucket)
    s3.delete_bucket_lifecycle(Bucket=bucket)


def test_actual_requests_of_other_origins_are_carried_out_and_told_what_may_be_read(server, s3, bucket):
    rules = [{"AllowedOrigins": ["https://app.example.com"], "AllowedMethods": ["GET"], "ExposeHeaders": ["ETag", "x-amz-meta-m"]},
             {"AllowedOrigins": ["*"], "AllowedMethods": ["HEAD", "POST"], "MaxAgeSeconds": 5}]
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": rules})
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    server.settle(bucket)
    url = lambda method, key="k": s3.generate_presigned_url(method, Params={"Bucket": bucket, "Key": key})
    told = lambda answer: {name.lower().removeprefix("access-control-"): value for name, value in answer.headers.items()
                           if name.lower().startswith("access-control-")}
    ours, theirs = {"Origin": "https://app.example.com"}, {"Origin": "https://elsewhere.test"}
    read = requests.get(url("get_object"), headers=ours)
    expected = {"allow-origin": "https://app.example.com", "allow-credentials": "true", "allow-methods": "GET",
                "expose-headers": "ETag, x-amz-meta-m"}
    assert read.content == b"x" and told(read) == expected and "Origin" in read.headers["Vary"]
    missing = requests.get(url("get_object", "none"), headers=ours)
    assert missing.status_code == 404 and told(missing) == expected, "a page may read why it gets nothing"
    assert requests.get(url("get_object"), headers=theirs).content == b"x", "it is for browsers to keep it from the page"
    assert told(requests.get(url("get_object"), headers=theirs)) == told(requests.get(url("get_object"))) == {}
    anywhere = {"allow-origin": "*", "allow-methods": "HEAD, POST", "max-age": "5"}
    assert told(requests.head(url("head_object"), headers=theirs)) == anywhere
    form = s3.generate_presigned_post(bucket, "form")
    posted = requests.post(form["url"], data=form["fields"], files={"file": b"x"}, headers=theirs)
    assert posted.status_code == 204 and told(posted) == anywhere
    removed = requests.delete(url("delete_object"), headers=ours)
    assert removed.status_code == 204 and told(removed) == {}
    preflight = requests.options(f"{server.endpoint}/{bucket}", headers={**theirs, "Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 200 and told(preflight) == anywhere
    assert requests.options(f"{server.endpoint}/{bucket}", headers={**theirs, "Access-Control-Request-Method": "GET"}).status_code == 403
    one = {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"]}
    for wrong, code in [([], "MalformedXML"), ([one] * 101, "MalformedXML"), ([{**one, "AllowedOrigins": ["http://*.a.*"]}], "InvalidRequest"),
                        ([{**one, "AllowedHeaders": ["*-*"]}], "InvalidRequest"), ([{**one, "ExposeHeaders": ["x-*"]}], "InvalidRequest")]:
        assert error_code(s3.put_bucket_cors, Bucket=bucket, CORSConfiguration={"CORSRules": wrong}) == (code, 400)
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == rules


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


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_forms_of_both_signatures_are_answered_as_s3_does(server, s3, bucket, version):
    def sign(key="k", keys=(ACCESS_KEY, SECRET_KEY), **more):
        return server.client(keys, signature_version=version).generate_presigned_post(bucket, key, **more)

    def send(form, body=b"12345", **fields):
        answer = requests.post(form["url"], data={**form["fields"], **fields}, files={"file": body})
        return answer.status_code if answer.ok else (re.search("<Code>(.*)</Code>", answer.text)[1], answer.status_code)

    form = sign(Conditions=[["eq", "$x-amz-meta-m", "one"], ["starts-with", "$content-type", "image/"], ["content-length-range", 3, 10]])
    right = {"x-amz-meta-m": "one", "Content-Type": "image/png"}
    for wrong in [{**right, "x-amz-meta-m": "two"}, {**right, "Content-Type": "text/plain"}, {"Content-Type": "image/png"},
                  {**right, "x-amz-meta-n": "1"}, {**right, "key": "other"}]:
        assert send(form, **wrong) == DENIED, wrong
    assert send(form, b"12", **right) == ("EntityTooSmall", 400) and send(form, b"x" * 11, **right) == ("EntityTooLarge", 400)
    assert send(sign(keys=(ACCESS_KEY, "wrong"))) == ("SignatureDoesNotMatch", 403)
    assert send(sign(keys=("nobody", SECRET_KEY))) == ("InvalidAccessKeyId", 403)
    assert send(sign(ExpiresIn=-10)) == DENIED
    assert send(sign(), policy=base64.b64encode(b"{}").decode()) == ("SignatureDoesNotMatch", 403)
    parts = [(name, (None, value)) for name, value in form["fields"].items()]
    assert "<Code>InvalidArgument</Code>" in requests.post(form["url"], files=parts).text, "no file"
    nameless = {name: value for name, value in sign()["fields"].items() if name != "key"}
    assert "<Code>InvalidArgument</Code>" in requests.post(form["url"], data=nameless, files={"file": b"x"}).text
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    assert send(form, **right) == 204
    got = s3.get_object(Bucket=bucket, Key="k")
    assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (b"12345", {"m": "one"}, "image/png")
    free = sign(Conditions=[["starts-with", "$success_action_status", ""]])
    assert [send(free, success_action_status=status) for status in ["200", "201", "204", "404"]] == [200, 201, 204, 204]


def test_nobody_posts_unless_the_bucket_lets_everybody(server, s3, bucket):
    post = lambda **fields: requests.post(f"{server.endpoint}/{bucket}", data=fields, files={"file": b"x"}).status_code
    assert post(key="k") == 403
    set_policy(server, s3, bucket, statement(bucket, "s3:PutObject"))
    assert post(key="k") == 204 and s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    assert post(key="k", tagging="<Tagging><TagSet/></Tagging>") == 403, "tags are another action"
    assert post(key="k", acl="public-read") == 400, "lists are off"
    url = f"{server.endpoint}/{bucket}"
    assert requests.post(url, data="key=k", headers={"Content-Type": "application/x-www-form-urlencoded"}).status_code == 400


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
    # What is signed, and no policy.
    for document in [b"no json", b"[]", json.dumps({"conditions": []}).encode(), json.dumps({"expiration": "tomorrow", "conditions": []}).encode()]:
        policy = base64.b64encode(document)
        signature = base64.b64encode(hmac.new(SECRET_KEY.encode(), policy, hashlib.sha1).digest()).decode()
        wrong = {**fields, "policy": policy.decode(), "signature": signature}
        refused = requests.post(f"{server.endpoint}/{bucket}", data=wrong, files={"file": b"x"})
        assert refused.status_code == 400 and "<Code>InvalidPolicyDocument</Code>" in refused.text, document


def post_fields(url, fields, body=b"x"):
    """Posts a form, each field as often as it is named."""
    return requests.post(url, files=[(name, (None, value)) for name, value in fields] + [("file", ("f", body))])


def test_a_field_of_a_form_is_there_once(server, s3, bucket):
    fields = {"acl": "private", "x-amz-meta-m": "one"}
    signer = server.client(signature_version="s3v4")
    form = signer.generate_presigned_post(bucket, "k", Fields=fields, Conditions=[{name: value} for name, value in fields.items()])
    once = list(form["fields"].items())
    for name, value in [("x-amz-meta-m", "two"), ("X-Amz-Meta-M", "two"), ("acl", "public-read"), ("KEY", "other"), ("key", "k"),
                        ("Policy", form["fields"]["policy"]), ("x-amz-signature", "0" * 64)]:
        for several in [[*once, (name, value)], [(name, value), *once]]:
            refused = post_fields(form["url"], several)
            assert refused.status_code == 400 and "<Code>InvalidArgument</Code>" in refused.text, (name, refused.text)
            assert f"<ArgumentName>{name.lower()}</ArgumentName>" in refused.text
    set_policy(server, s3, bucket, statement(bucket, "s3:PutObject"))
    for first, second in [("acl", "x-amz-acl"), ("x-amz-acl", "acl")]:
        refused = post_fields(f"{server.endpoint}/{bucket}", [("key", "k"), (first, "private"), (second, "public-read")])
        assert refused.status_code == 400 and "<Code>InvalidArgument</Code>" in refused.text, "both are one header"
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    assert post_fields(form["url"], once).status_code == 204
    assert s3.head_object(Bucket=bucket, Key="k")["Metadata"] == {"m": "one"}


def test_a_form_needs_the_actions_that_headers_need(server, alice, bob):
    (_, owner), (bob_id, other) = alice, bob
    bucket = new_bucket(owner, ObjectLockEnabledForBucket=True)
    until = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    tagging = "<Tagging><TagSet><Tag><Key>a b</Key><Value>1 2+3</Value></Tag></TagSet></Tagging>"
    cases = [("s3:PutObjectRetention", {"x-amz-object-lock-mode": "GOVERNANCE", "x-amz-object-lock-retain-until-date": until}),
             ("s3:PutObjectLegalHold", {"x-amz-object-lock-legal-hold": "ON"}), ("s3:PutObjectTagging", {"tagging": tagging})]

    def send(fields):
        conditions = [{name: value} for name, value in fields.items()]
        form = other.generate_presigned_post(bucket, "k", Fields=fields, Conditions=conditions)
        return requests.post(form["url"], data=form["fields"], files={"file": b"x"}).status_code

    set_policy(server, owner, bucket, statement(bucket, "s3:PutObject", {"AWS": bob_id}))
    assert send({}) == 204 and [send(fields) for _, fields in cases] == [403] * 3
    assert len(owner.list_object_versions(Bucket=bucket)["Versions"]) == 1
    for action, fields in cases:
        set_policy(server, owner, bucket, statement(bucket, ["s3:PutObject", action], {"AWS": bob_id}))
        assert [send(others) == 204 for _, others in cases] == [others == fields for _, others in cases], action
        head = owner.head_object(Bucket=bucket, Key="k")
        assert head.get("ObjectLockMode") == fields.get("x-amz-object-lock-mode")
        assert head.get("ObjectLockLegalHoldStatus") == fields.get("x-amz-object-lock-legal-hold")
        kept = owner.get_object_tagging(Bucket=bucket, Key="k")["TagSet"]
        assert kept == (tag_set(**{"a b": "1 2+3"})["TagSet"] if "tagging" in fields else [])
    mine = {"StringLike": {"aws:Referer": "https://app.example/*"}}
    set_policy(server, owner, bucket, statement(bucket, "s3:PutObject", {"AWS": bob_id}, Condition=mine))
    form = other.generate_presigned_post(bucket, "k")
    answers = [requests.post(form["url"], data=form["fields"], files={"file": b"x"}, headers={"Referer": f"https://{site}/upload"}).status_code
               for site in ["app.example", "other.example"]]
    assert answers == [204, 403], "a browser tells where its form comes from"


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
    assert error_code(s3.restore_object, Bucket=bucket, Key="none", RestoreRequest={"Days": 1}) == ("NoSuchKey", 404)
    assert "Restore" not in s3.head_object(Bucket=bucket, Key="k")
    select = dict(Expression="select * from s3object", ExpressionType="SQL", InputSerialization={"CSV": {}},
                  OutputSerialization={"CSV": {}})
    assert error_code(s3.select_object_content, Bucket=bucket, Key="k", **select) == ("NotImplemented", 501)
    assert error_code(s3.put_object, Bucket=bucket, Key="k", Body=b"", ServerSideEncryption="aws:kms:dsse") == ("NotImplemented", 501)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"a,b"


def test_what_asks_for_nothing_is_taken_and_what_asks_for_more_is_refused(s3, bucket):
    accelerate = lambda status: {"AccelerateConfiguration": {"Status": status}}
    payer = lambda payer: {"RequestPaymentConfiguration": {"Payer": payer}}
    logging = lambda **status: {"BucketLoggingStatus": status}
    website = {"WebsiteConfiguration": {"IndexDocument": {"Suffix": "index.html"}}}
    for call, nothing, more, wrong in [
            (s3.put_bucket_accelerate_configuration, accelerate("Suspended"), accelerate("Enabled"), accelerate("On")),
            (s3.put_bucket_request_payment, payer("BucketOwner"), payer("Requester"), payer("Nobody")),
            (s3.put_bucket_logging, logging(), logging(LoggingEnabled={"TargetBucket": bucket, "TargetPrefix": ""}), None),
            (s3.put_bucket_website, None, website, None)]:
        if nothing:
            call(Bucket=bucket, **nothing)
        if wrong:
            assert error_code(call, Bucket=bucket, **wrong) == ("MalformedXML", 400)
        assert error_code(call, Bucket=bucket, **more) == ("NotImplemented", 501)
        assert error_code(call, Bucket=f"{bucket}-none", **more) == ("NoSuchBucket", 404)
    s3.delete_bucket_website(Bucket=bucket)
    assert error_code(s3.get_bucket_website, Bucket=bucket) == ("NoSuchWebsiteConfiguration", 404)
    assert "Status" not in s3.get_bucket_accelerate_configuration(Bucket=bucket)
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=bucket)
    assert s3.get_bucket_request_payment(Bucket=bucket)["Payer"] == "BucketOwner"


def test_buckets_are_listed_in_pages_by_prefix_and_region(server):
    _, client = server.user("pager" + os.urandom(3).hex())
    prefix = "p-" + os.urandom(6).hex()
    names = [f"{prefix}-{i}" for i in range(5)]
    for name in names + [f"q{prefix}"]:
        client.create_bucket(Bucket=name)
    pages = client.get_paginator("list_buckets").paginate(Prefix=prefix, PaginationConfig={"PageSize": 2})
    assert [[b["Name"] for b in page["Buckets"]] for page in pages] == [names[:2], names[2:4], names[4:]]
    everywhere = client.list_buckets()
    assert len(everywhere["Buckets"]) == 6 and "ContinuationToken" not in everywhere
    assert not [b for b in everywhere["Buckets"] if "BucketRegion" in b], "as S3 did before there were pages"
    north = f"{prefix}-north"
    client.create_bucket(Bucket=north, CreateBucketConfiguration={"LocationConstraint": "eu-north-1"})
    of = lambda **more: {b["Name"]: b["BucketRegion"] for b in client.list_buckets(**more)["Buckets"]}
    assert of(Prefix=prefix) == {**{name: "us-east-1" for name in names}, north: "eu-north-1"}
    assert of(BucketRegion="eu-north-1") == {north: "eu-north-1"} and of(BucketRegion="eu-west-1") == {}
    assert len(of(BucketRegion="us-east-1", MaxBuckets=4)) == 4 and client.list_buckets(Prefix=prefix)["Prefix"] == prefix
    assert of(Prefix="none") == {}
    for wrong in [{"MaxBuckets": 10_001}, {"ContinuationToken": "nonsense!"}]:
        assert error_code(client.list_buckets, **wrong) == ("InvalidArgument", 400)
