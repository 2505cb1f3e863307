"""Events at webhooks. What was acknowledged has its event, whoever dies or is away; each test on both shapes unless it starts a
server of its own."""

import json
import os
import signal
import socket
import ssl
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import certificates
import pytest
import requests
from conftest import BINARY, DAY_SECONDS, HOOK_TOKEN, Server, wait_for
from test_boto3 import error_code
from test_versions import enable

ARN = "arn:coffer:sqs::test:webhook"


class Receiver:
    """A target; `status` is what it answers, `refused` how many have not trusted its certificate since it was started."""

    def __init__(self, port):
        self.port, self.status, self.posts, self.records, self.tests = port, 200, [], [], []
        self.lock = threading.Lock()
        self.server = None

    def start(self, context=None):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if receiver.server is None:
                    # A connection that was kept while the target went away.
                    self.close_connection = True
                    return
                with receiver.lock:
                    status = receiver.status(body) if callable(receiver.status) else receiver.status
                    receiver.posts.append((status, dict(self.headers), self.path))
                    if status == 200 and body.get("Event") == "s3:TestEvent":
                        receiver.tests.append(body)
                    elif status == 200:
                        receiver.records += body["Records"]
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        class Listener(ThreadingHTTPServer):
            def get_request(self):
                try:
                    return super().get_request()
                except OSError:
                    receiver.refused += 1
                    raise

        self.refused = 0
        self.server = Listener(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def of(self, bucket):
        """(event, key) of a bucket, in order of arrival, each once."""
        seen = [(r["eventName"], urllib.parse.unquote_plus(r["s3"]["object"]["key"])) for r in self.all(bucket)]
        return list(dict.fromkeys(seen))

    def all(self, bucket):
        """The records of a bucket, in order of arrival; some may have come twice."""
        with self.lock:
            return [r for r in self.records if r["s3"]["bucket"]["name"] == bucket]

    def record(self, bucket, name):
        return next(r for r in self.all(bucket) if r["eventName"] == name)


@pytest.fixture
def hook(server):
    receiver = Receiver(server.hook)
    receiver.start()
    yield receiver
    receiver.stop()


# A target that was away is tried again after up to a minute, and a dead gateway's part is another's after ten seconds.
AWAY = 300


def ask(server, s3, bucket, *events, arn=ARN, **more):
    """Has every gateway know a rule."""
    rule = {"Id": "r", "QueueArn": arn, "Events": list(events), **more}
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [rule]})
    server.settle(bucket)


def filter_of(**rules):
    return {"Filter": {"Key": {"FilterRules": [{"Name": name, "Value": value} for name, value in rules.items()]}}}


def test_every_kind_of_change_has_its_event(server, s3, bucket, hook):
    ask(server, s3, bucket, "s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectTagging:*")
    s3.put_object(Bucket=bucket, Key="a b/é", Body=b"12345")
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "a b/é"})
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    s3.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload,
                                 MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})
    s3.put_object_tagging(Bucket=bucket, Key="copy", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
    s3.delete_object_tagging(Bucket=bucket, Key="copy")
    s3.delete_object(Bucket=bucket, Key="copy")
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "parts"}, {"Key": "a b/é"}]})
    expected = {("ObjectCreated:Put", "a b/é"), ("ObjectCreated:Copy", "copy"),
                ("ObjectCreated:CompleteMultipartUpload", "parts"), ("ObjectTagging:Put", "copy"),
                ("ObjectTagging:Delete", "copy"), ("ObjectRemoved:Delete", "copy"), ("ObjectRemoved:Delete", "parts"),
                ("ObjectRemoved:Delete", "a b/é")}
    wait_for(lambda: set(hook.of(bucket)) == expected)
    put, gone = hook.record(bucket, "ObjectCreated:Put"), hook.record(bucket, "ObjectRemoved:Delete")
    assert put["eventVersion"] == "2.1" and put["eventSource"] == "aws:s3" and put["awsRegion"] == "us-east-1"
    assert put["s3"]["configurationId"] == "r" and put["s3"]["bucket"]["arn"] == f"arn:aws:s3:::{bucket}"
    assert put["s3"]["object"]["size"] == 5 and put["s3"]["object"]["eTag"] == "827ccb0eea8a706c4c34a16891f84e7b"
    assert "versionId" not in put["s3"]["object"] and put["requestParameters"]["sourceIPAddress"] == "127.0.0.1"
    assert len(put["responseElements"]["x-amz-request-id"]) == 16
    assert "size" not in gone["s3"]["object"] and len(gone["s3"]["object"]["sequencer"]) == 80
    _, headers, path = hook.posts[-1]
    headers = {name.lower(): value for name, value in headers.items()}
    assert path == "/hook" and headers["authorization"] == f"Bearer {HOOK_TOKEN}"
    assert headers["content-type"] == "application/json"


def test_only_what_the_rules_ask_for_has_events(server, s3, bucket, hook):
    ask(server, s3, bucket, "s3:ObjectCreated:Put", **filter_of(prefix="in/", suffix=".jpg"))
    for key in ["in/a.png", "out/a.jpg", "in/a.jpg"]:
        s3.put_object(Bucket=bucket, Key=key)
    s3.copy_object(Bucket=bucket, Key="in/copy.jpg", CopySource={"Bucket": bucket, "Key": "in/a.jpg"})
    s3.delete_object(Bucket=bucket, Key="in/a.jpg")
    wait_for(lambda: hook.of(bucket))
    time.sleep(3)
    assert hook.of(bucket) == [("ObjectCreated:Put", "in/a.jpg")]
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    server.settle(bucket)
    s3.put_object(Bucket=bucket, Key="in/b.jpg")
    time.sleep(3)
    assert len(hook.of(bucket)) == 1


def test_versions_are_told_and_sequencers_order_writes(server, s3, bucket, hook):
    enable(s3, bucket)
    ask(server, s3, bucket, "s3:ObjectCreated:*", "s3:ObjectRemoved:*")
    ids = [s3.put_object(Bucket=bucket, Key="k", Body=f"{i}".encode())["VersionId"] for i in range(5)]
    marker = s3.delete_object(Bucket=bucket, Key="k")["VersionId"]
    s3.delete_object(Bucket=bucket, Key="k", VersionId=ids[0])

    def told():
        records = sorted(hook.all(bucket), key=lambda r: r["s3"]["object"]["sequencer"])
        return list(dict.fromkeys((r["eventName"], r["s3"]["object"]["versionId"]) for r in records))

    wait_for(lambda: len(told()) >= 7)
    assert told() == [("ObjectCreated:Put", version) for version in ids] + [
        ("ObjectRemoved:DeleteMarkerCreated", marker), ("ObjectRemoved:Delete", ids[0])]


def test_what_lifecycle_rules_do_has_events(server, s3, bucket, hook):
    ask(server, s3, bucket, "s3:LifecycleExpiration:*")
    s3.put_object(Bucket=bucket, Key="k")
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [
        {"ID": "l", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]})
    wait_for(lambda: hook.of(bucket) == [("LifecycleExpiration:Delete", "k")], seconds=10 * DAY_SECONDS + AWAY)
    assert hook.record(bucket, "LifecycleExpiration:Delete")["eventVersion"] == "2.3"


def test_a_target_that_is_away_gets_everything_once_it_is_back(server, s3, bucket, hook):
    ask(server, s3, bucket, "s3:ObjectCreated:*")
    hook.stop()
    for i in range(30):
        s3.put_object(Bucket=bucket, Key=f"down{i}")
    hook.status = 503
    hook.start()
    for i in range(30):
        s3.put_object(Bucket=bucket, Key=f"busy{i}")
    time.sleep(3)
    assert hook.of(bucket) == []
    hook.status = 200
    expected = {("ObjectCreated:Put", f"{kind}{i}") for kind in ["down", "busy"] for i in range(30)}
    wait_for(lambda: set(hook.of(bucket)) == expected, seconds=AWAY)


def test_what_a_target_refuses_does_not_hold_up_the_rest_and_is_not_lost(server, s3, bucket, hook):
    ask(server, s3, bucket, "s3:ObjectCreated:*")
    refuses = {"bad"}
    hook.status = lambda body: 400 if body.get("Records", [{"s3": {"object": {"key": ""}}}])[0]["s3"]["object"]["key"] in refuses else 200
    for key in ["bad", "good"]:
        s3.put_object(Bucket=bucket, Key=key)
    wait_for(lambda: hook.of(bucket) == [("ObjectCreated:Put", "good")])
    refuses.clear()
    wait_for(lambda: ("ObjectCreated:Put", "bad") in hook.of(bucket), seconds=AWAY)


def test_configurations_read_back_and_wrong_ones_are_refused(server, s3, bucket):
    assert "QueueConfigurations" not in s3.get_bucket_notification_configuration(Bucket=bucket)
    rule = {"Id": "r", "QueueArn": ARN, "Events": ["s3:ObjectCreated:*"], **filter_of(prefix="a&b/")}
    put = lambda *rules, **other: dict(Bucket=bucket, NotificationConfiguration={"QueueConfigurations": list(rules), **other})
    s3.put_bucket_notification_configuration(**put(rule))
    server.settle(bucket)
    read = s3.get_bucket_notification_configuration(Bucket=bucket)["QueueConfigurations"]
    assert read[0]["QueueArn"] == ARN and read[0]["Events"] == rule["Events"]
    assert [r["Value"] for r in read[0]["Filter"]["Key"]["FilterRules"]] == ["a&b/"]
    refused = lambda *rules, **other: error_code(s3.put_bucket_notification_configuration, **put(*rules, **other))
    assert refused({**rule, "QueueArn": "arn:coffer:sqs::nobody:webhook"}) == ("InvalidArgument", 400)
    assert refused({**rule, "Events": ["s3:ObjectCreated:Never"]}) == ("InvalidArgument", 400)
    assert refused({**rule, "Events": ["s3:Replication:*"]}) == ("NotImplemented", 501)
    assert refused(rule, {**rule, "Id": "s", "Events": ["s3:ObjectCreated:Put"]}) == ("InvalidArgument", 400)
    topic = {"TopicArn": "arn:aws:sns:us-east-1:1:t", "Events": rule["Events"]}
    assert refused(TopicConfigurations=[topic]) == ("InvalidArgument", 400)


def test_nobody_reaches_the_queue(server, s3, bucket):
    ask(server, s3, bucket, "s3:ObjectCreated:*")
    name = "coffer-.events"
    assert name not in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    for call in [s3.list_objects_v2, s3.delete_bucket, s3.create_bucket]:
        with pytest.raises(Exception):
            call(Bucket=name)
    assert error_code(s3.copy_object, Bucket=bucket, Key="k", CopySource=f"{name}/k")[1] == 400


def test_targets_are_told_by_a_test_event_that_they_are_configured(server, s3, bucket, hook):
    ask(server, s3, bucket, "s3:ObjectCreated:*")
    mine = lambda: [test for test in hook.tests if test["Bucket"] == bucket]
    wait_for(mine)
    test = mine()[0]
    assert set(test) == {"Service", "Event", "Time", "Bucket", "RequestId", "HostId"}
    assert test["Service"] == "Amazon S3" and len(test["RequestId"]) == 16 and test["Time"].endswith("Z")
    rule = {"Id": "r", "QueueArn": ARN, "Events": ["s3:ObjectRemoved:*"]}
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [rule]},
                                             SkipDestinationValidation=True)
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    time.sleep(3)
    assert {one["RequestId"] for one in mine()} == {test["RequestId"]}


def test_a_test_event_that_a_target_does_not_take_holds_up_neither_the_request_nor_events(server, s3, bucket, hook):
    hook.stop()
    # A target that takes the request and does not answer: the gateway waits ten seconds for that.
    silent = socket.create_server(("127.0.0.1", hook.port))
    rule = {"Id": "r", "QueueArn": ARN, "Events": ["s3:ObjectCreated:*"]}
    began = time.monotonic()
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [rule]})
    assert time.monotonic() - began < 10, "the request waits for the target"
    server.settle(bucket)
    silent.close()
    # A target that knows only records.
    hook.status = lambda body: 200 if "Records" in body else 500
    hook.start()
    s3.put_object(Bucket=bucket, Key="k")
    wait_for(lambda: hook.of(bucket) == [("ObjectCreated:Put", "k")], seconds=AWAY)


def test_forms_have_events_with_what_they_have_made(server, s3, bucket, hook):
    ask(server, s3, bucket, "s3:ObjectCreated:Post")
    s3.put_object(Bucket=bucket, Key="put", Body=b"x")
    form = s3.generate_presigned_post(bucket, "form/${filename}")
    answer = requests.post(form["url"], data=form["fields"], files={"file": ("a b.txt", b"12345")})
    assert answer.status_code == 204
    wait_for(lambda: hook.of(bucket) == [("ObjectCreated:Post", "form/a b.txt")])
    record = hook.record(bucket, "ObjectCreated:Post")
    assert record["s3"]["object"]["size"] == 5 and record["s3"]["object"]["eTag"] == answer.headers["etag"].strip('"')
    refused = requests.post(form["url"], data={**form["fields"], "key": "other"}, files={"file": ("a", b"1")})
    assert refused.status_code == 403
    time.sleep(2)
    assert len(hook.of(bucket)) == 1


def test_uploads_and_copies_tell_the_version_that_they_made(server, s3, bucket, hook):
    enable(s3, bucket)
    ask(server, s3, bucket, "s3:ObjectCreated:CompleteMultipartUpload", "s3:ObjectCreated:Copy")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, Body=b"x" * 1000)["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    done = s3.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload=parts)
    copied = s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "parts"})
    aborted = s3.create_multipart_upload(Bucket=bucket, Key="aborted")["UploadId"]
    s3.abort_multipart_upload(Bucket=bucket, Key="aborted", UploadId=aborted)
    expected = {("ObjectCreated:CompleteMultipartUpload", "parts"), ("ObjectCreated:Copy", "copy")}
    wait_for(lambda: set(hook.of(bucket)) == expected)
    whole = hook.record(bucket, "ObjectCreated:CompleteMultipartUpload")["s3"]["object"]
    assert (whole["versionId"], whole["eTag"], whole["size"]) == (done["VersionId"], done["ETag"].strip('"'), 1000)
    copy = hook.record(bucket, "ObjectCreated:Copy")["s3"]["object"]
    assert (copy["versionId"], copy["eTag"]) == (copied["VersionId"], copied["CopyObjectResult"]["ETag"].strip('"'))
    assert copy["sequencer"] != whole["sequencer"]


def test_lists_and_tags_have_events_of_the_version_that_they_are_of(server, s3, hook):
    bucket = "b-" + os.urandom(8).hex()
    s3.create_bucket(Bucket=bucket, ObjectOwnership="ObjectWriter")
    enable(s3, bucket)
    ask(server, s3, bucket, "s3:ObjectAcl:Put", "s3:ObjectTagging:*")
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"]
    s3.put_object(Bucket=bucket, Key="k", Body=b"2")
    s3.put_object_acl(Bucket=bucket, Key="k", VersionId=first, ACL="public-read")
    s3.put_object_tagging(Bucket=bucket, Key="k", VersionId=first, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    s3.delete_object_tagging(Bucket=bucket, Key="k", VersionId=first)
    names = ["ObjectAcl:Put", "ObjectTagging:Put", "ObjectTagging:Delete"]
    wait_for(lambda: set(hook.of(bucket)) == {(name, "k") for name in names})
    for name in names:
        record = hook.record(bucket, name)
        assert record["eventVersion"] == "2.3" and record["s3"]["object"]["versionId"] == first
        assert "sequencer" not in record["s3"]["object"]


def test_markers_have_events_of_their_own_also_of_lifecycle_rules(server, s3, bucket, hook):
    enable(s3, bucket)
    ask(server, s3, bucket, "s3:ObjectRemoved:DeleteMarkerCreated", "s3:LifecycleExpiration:DeleteMarkerCreated",
        "s3:LifecycleExpiration:Delete")
    versions = {key: s3.put_object(Bucket=bucket, Key=key, Body=b"1")["VersionId"] for key in ["many", "one", "expires"]}
    s3.delete_object(Bucket=bucket, Key="one")
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "many"}]})
    # A version that is named is no marker, and its event is not asked for.
    s3.delete_object(Bucket=bucket, Key="one", VersionId=versions["one"])
    marked = {("ObjectRemoved:DeleteMarkerCreated", key) for key in ["many", "one"]}
    wait_for(lambda: set(hook.of(bucket)) == marked)
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [
        {"ID": "l", "Status": "Enabled", "Filter": {"Prefix": "expires"}, "Expiration": {"Days": 1},
         "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}]})
    expired = {("LifecycleExpiration:DeleteMarkerCreated", "expires"), ("LifecycleExpiration:Delete", "expires")}
    wait_for(lambda: set(hook.of(bucket)) == marked | expired, seconds=20 * DAY_SECONDS + AWAY)
    # The marker goes, too, in time.
    gone = lambda: [r["s3"]["object"]["versionId"] for r in hook.all(bucket) if r["eventName"] == "LifecycleExpiration:Delete"]
    wait_for(lambda: versions["expires"] in gone())
    marker = hook.record(bucket, "LifecycleExpiration:DeleteMarkerCreated")["s3"]["object"]
    assert marker["versionId"] not in versions.values()


@pytest.fixture
def own(tmp_path, request):
    """A server that a test may kill."""
    server = Server(tmp_path)
    receiver = Receiver(server.hook)
    yield server, receiver
    receiver.stop()
    server.end()


def write_until_killed(server, bucket, kill):
    """Writes from several threads; returns the keys that were acknowledged."""
    acknowledged, stop = [], threading.Event()

    def writes(thread):
        client = server.client(connect_timeout=2, read_timeout=5)
        for i in range(1_000_000):
            if stop.is_set():
                return
            try:
                client.put_object(Bucket=bucket, Key=f"{thread}-{i}", Body=b"x")
                acknowledged.append(f"{thread}-{i}")
            except Exception:
                time.sleep(0.05)

    threads = [threading.Thread(target=writes, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(acknowledged) > 40)
    kill()
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join()
    return acknowledged


def assert_all_arrive(receiver, bucket, acknowledged):
    arrived = lambda: {key for _, key in receiver.of(bucket)}
    wait_for(lambda: set(acknowledged) <= arrived(), seconds=AWAY)


def test_a_server_that_is_killed_has_lost_no_event_of_what_it_acknowledged(own):
    server, receiver = own
    server.start_standalone()
    s3 = server.client()
    s3.create_bucket(Bucket="bucket")
    ask(server, s3, "bucket", "s3:ObjectCreated:*")
    process = server.processes[0]

    def kill():
        process.send_signal(signal.SIGKILL)
        process.wait()

    acknowledged = write_until_killed(server, "bucket", kill)
    assert receiver.of("bucket") == []
    server.start_standalone()
    receiver.start()
    assert_all_arrive(receiver, "bucket", acknowledged)


def test_the_others_deliver_what_a_killed_gateway_had_acknowledged(own):
    server, receiver = own
    server.start_distributed()
    s3 = server.client()
    s3.create_bucket(Bucket="bucket")
    ask(server, s3, "bucket", "s3:ObjectCreated:*")
    # The first process is etcd, four servers follow.
    acknowledged = write_until_killed(server, "bucket", lambda: server.processes[1].send_signal(signal.SIGKILL))
    receiver.start()
    assert_all_arrive(receiver, "bucket", acknowledged)
    before = len(acknowledged)
    # And they go on with the target there.
    acknowledged += write_until_killed(server, "bucket", lambda: None)
    assert len(acknowledged) > before
    assert_all_arrive(receiver, "bucket", acknowledged)


def test_a_target_with_tls_gets_events_once_its_certificate_is_right(own):
    server, receiver = own
    folder = server.folder
    for name in ["ours", "theirs"]:
        certificates.authority(folder / name)
    certificates.issue(folder / "ours", folder / "right")
    certificates.issue(folder / "theirs", folder / "foreign")
    certificates.issue(folder / "ours", folder / "misnamed", "DNS:elsewhere.example.com")
    server.environment = {"COFFER_NOTIFY_WEBHOOK_ENDPOINT_TEST": f"https://127.0.0.1:{server.hook}/hook",
                          "COFFER_NOTIFY_WEBHOOK_CA_TEST": str(folder / "ours/ca.crt")}
    server.start_standalone()
    s3, log = server.client(), folder / "server.log"
    s3.create_bucket(Bucket="bucket")
    for wrong in ["foreign", "misnamed"]:
        receiver.start(certificate(folder / wrong))
        ask(server, s3, "bucket", "s3:ObjectCreated:*")
        s3.put_object(Bucket="bucket", Key=wrong, Body=b"x")
        wait_for(lambda: "a target of events does not answer, its events wait" in log.read_text())
        assert "invalid peer certificate" in log.read_text()
        wait_for(lambda: receiver.refused, seconds=AWAY)
        time.sleep(3)
        assert receiver.posts == [], wrong
        receiver.stop()
    receiver.start(certificate(folder / "right"))
    wait_for(lambda: {key for _, key in receiver.of("bucket")} == {"foreign", "misnamed"}, seconds=AWAY)
    # It is told when the answer has come, which is after the receiver has seen the event.
    wait_for(lambda: "a target of events answers again" in log.read_text())


def certificate(folder):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context


def test_a_file_of_authorities_that_cannot_be_used_is_told_at_the_start(tmp_path):
    server = Server(tmp_path)
    (tmp_path / "empty").write_text("")
    server.environment = {"COFFER_NOTIFY_WEBHOOK_ENDPOINT_TEST": "https://127.0.0.1:1",
                          "COFFER_NOTIFY_WEBHOOK_CA_TEST": str(tmp_path / "empty")}
    command = [BINARY, "server", str(tmp_path / "drive{1...4}"), "--address", "127.0.0.1:0", "--console-address", "127.0.0.1:0"]
    process, log = server.launch("server", command, {"COFFER_ACCESS_KEY": "a-key", "COFFER_SECRET_KEY": "a-secret-key"})
    assert process.wait(60) != 0
    assert "`COFFER_NOTIFY_WEBHOOK_CA_TEST` is not usable" in log.read_text()
