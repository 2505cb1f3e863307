"""`coffer mirror`: what differs is copied, as it was, and nothing else; what is not there is never said to be."""

import gzip
import http.client
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from botocore.exceptions import ClientError
from conftest import ACCESS_KEY, BINARY, PATIENCE, SECRET_KEY, Server, free_port, wait_for
from test_access import set_policy

MIB = 1 << 20


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """The store that is copied from."""
    server = Server(tmp_path_factory.mktemp("origin"))
    try:
        server.start_standalone()
        yield server
    finally:
        server.end()


@pytest.fixture
def old(origin):
    return origin.client()


@pytest.fixture
def pair(origin, old, s3):
    """A bucket of this name on both sides."""
    name = "m-" + os.urandom(8).hex()
    old.create_bucket(Bucket=name)
    s3.create_bucket(Bucket=name)
    return name


def command(source, destination, *options):
    return [BINARY, "mirror", source, destination, *options]


def keys(secret=SECRET_KEY, writer=(ACCESS_KEY, SECRET_KEY)):
    return {**os.environ, "COFFER_SOURCE_ACCESS_KEY": ACCESS_KEY, "COFFER_SOURCE_SECRET_KEY": secret,
            "COFFER_ACCESS_KEY": writer[0], "COFFER_SECRET_KEY": writer[1]}


def mirror(source, destination, *options, code=0, **who):
    done = subprocess.run(command(source, destination, *options), env=keys(**who), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def copy_bucket(origin, server, bucket, *options, **more):
    return mirror(f"{origin.endpoint}/{bucket}", f"{server.endpoint}/{bucket}", *options, **more)


def body_of(client, bucket, key):
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def put_in_parts(client, bucket, key, sizes, step=1, **more):
    upload = client.create_multipart_upload(Bucket=bucket, Key=key, **more)["UploadId"]
    body, parts = b"", []
    for number, size in zip(range(step, 10_000, step), sizes):
        piece = os.urandom(size)
        answer = client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=piece)
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        body += piece
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    return body


def test_objects_come_over_with_what_belongs_to_them(origin, old, server, s3, pair):
    bodies = {"a": b"", "a b/\u00fc+&%=?#": b"x" * 70_000, "a//b/": b"", "dir/": b"", "dir/file": os.urandom(3_000_000),
              "/first": b"f", " blank ": b"b", "quote\"'<>": b"q", "z": b"z"}
    for key, body in bodies.items():
        old.put_object(Bucket=pair, Key=key, Body=body, ContentType="text/x-test; charset=utf-8", CacheControl="max-age=5",
                       ContentDisposition="attachment; filename=\"x\"", ContentLanguage="de", Metadata={"colour": "blue  green", "n": "1"},
                       Tagging="team=a%20b&empty=")
    old.put_object(Bucket=pair, Key="zipped", Body=gzip.compress(b"text"), ContentEncoding="gzip")
    with ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda number: old.put_object(Bucket=pair, Key=f"many/{number:04}", Body=b"m"), range(1100)))
    told = copy_bucket(origin, server, pair, "--dry-run").stdout
    assert "1110 would be copied" in told and f"{pair}/dir/file (missing, 2.9 MiB)" in told
    assert s3.list_objects_v2(Bucket=pair)["KeyCount"] == 0
    assert "1110 copied" in copy_bucket(origin, server, pair).stdout
    for key, body in bodies.items():
        got, was = s3.get_object(Bucket=pair, Key=key), old.head_object(Bucket=pair, Key=key)
        assert got["Body"].read() == body
        for field in ("ETag", "ContentType", "CacheControl", "ContentDisposition", "ContentLanguage", "Metadata"):
            assert got[field] == was[field], (key, field)
        tags = s3.get_object_tagging(Bucket=pair, Key=key)["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in tags} == {"team": "a b", "empty": ""}
    zipped = s3.get_object(Bucket=pair, Key="zipped")
    assert zipped["ContentEncoding"] == "gzip" and gzip.decompress(zipped["Body"].read()) == b"text"
    assert "0 copied (0 B), 1110 already there, 0 newer at the destination, 0 failed" in copy_bucket(origin, server, pair).stdout
    # By prefixes: what follows them counts.
    told = mirror(f"{origin.endpoint}/{pair}/many/", f"{server.endpoint}/{pair}/elsewhere/", "--transfers", "32").stdout
    assert "1100 copied" in told and body_of(s3, pair, "elsewhere/0007") == b"m"


def test_what_has_changed_is_copied_and_what_is_newer_there_is_not(origin, old, server, s3, pair):
    for key in ("same", "changed", "described", "longer", "kept", "gone"):
        old.put_object(Bucket=pair, Key=key, Body=b"1")
    assert "6 copied" in copy_bucket(origin, server, pair).stdout
    time.sleep(1.1)
    old.put_object(Bucket=pair, Key="changed", Body=b"2")
    old.put_object(Bucket=pair, Key="longer", Body=b"22")
    old.put_object(Bucket=pair, Key="described", Body=b"1", Metadata={"colour": "blue"})
    old.delete_object(Bucket=pair, Key="gone")
    s3.put_object(Bucket=pair, Key="kept", Body=b"of its own")
    s3.put_object(Bucket=pair, Key="other", Body=b"of its own")
    done = copy_bucket(origin, server, pair)
    assert "3 copied (4 B), 1 already there, 1 newer at the destination, 0 failed" in done.stdout
    assert f"`{pair}/kept`" in done.stderr
    assert [body_of(s3, pair, key) for key in ("changed", "longer", "kept", "other", "gone")] == [b"2", b"22", b"of its own", b"of its own", b"1"]
    assert s3.head_object(Bucket=pair, Key="described")["Metadata"] == {"colour": "blue"}
    assert "1 copied (1 B), 4 already there, 0 newer" in copy_bucket(origin, server, pair, "--overwrite").stdout
    assert body_of(s3, pair, "kept") == b"1"


def test_objects_that_came_in_parts_keep_their_parts(origin, old, server, s3, pair):
    bodies = {"several": put_in_parts(old, pair, "several", [7 * MIB, 5 * MIB, 3], Metadata={"colour": "blue"}, Tagging="a=b"),
              "one": put_in_parts(old, pair, "one", [100]),
              "left-out": put_in_parts(old, pair, "left-out", [5 * MIB, 6 * MIB, 9], step=7), "large": os.urandom(MIB) * 140}
    old.put_object(Bucket=pair, Key="large", Body=bodies["large"])
    assert "4 copied" in copy_bucket(origin, server, pair).stdout
    for key, body in bodies.items():
        got = s3.get_object(Bucket=pair, Key=key)
        assert got["Body"].read() == body
        assert got["ETag"] == old.head_object(Bucket=pair, Key=key)["ETag"]
    assert s3.head_object(Bucket=pair, Key="several", PartNumber=2)["ContentLength"] == 5 * MIB
    assert s3.head_object(Bucket=pair, Key="several")["Metadata"] == {"colour": "blue"}
    assert s3.get_object_tagging(Bucket=pair, Key="several")["TagSet"] == [{"Key": "a", "Value": "b"}]
    assert "4 already there" in copy_bucket(origin, server, pair).stdout


def test_all_buckets_are_copied_and_made(server, s3, tmp_path):
    origin = Server(tmp_path)
    try:
        origin.start_standalone()
        old, names = origin.client(), ["all-" + os.urandom(8).hex() for _ in range(3)]
        for name in names:
            old.create_bucket(Bucket=name)
            old.put_object(Bucket=name, Key="k", Body=name.encode())
        s3.create_bucket(Bucket=names[0])
        told = mirror(origin.endpoint, server.endpoint, "--dry-run").stdout
        assert f"{names[1]}/ (the bucket would be made)" in told and "3 would be copied" in told
        assert names[1] not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
        assert "3 copied" in mirror(origin.endpoint, server.endpoint).stdout
        assert [body_of(s3, name, "k") for name in names] == [name.encode() for name in names]
        assert "name a bucket on both sides" in mirror(origin.endpoint, f"{server.endpoint}/{names[0]}", code=1).stderr
    finally:
        origin.end()


def test_what_fails_is_told_by_its_key(origin, old, server, s3, pair):
    for key in ("open/1", "closed/1", "open/2"):
        old.put_object(Bucket=pair, Key=key, Body=b"x")
    refused = copy_bucket(origin, server, pair, code=1, secret="wrong")
    assert "SignatureDoesNotMatch" in refused.stderr and "0 copied (0 B), 0 already there, 0 newer at the destination, 1 failed" in refused.stdout
    missing = mirror(f"{origin.endpoint}/{pair}", f"{server.endpoint}/no-such-bucket-here", code=1)
    assert "NoSuchBucket" in missing.stderr and "not all objects were seen" in missing.stderr
    user, writer = server.add_user("mover-" + os.urandom(4).hex())
    allow = lambda actions, resource: {"Effect": "Allow", "Principal": {"AWS": user}, "Action": actions, "Resource": resource}
    set_policy(server, s3, pair, allow("s3:ListBucket", f"arn:aws:s3:::{pair}"),
               allow(["s3:GetObject", "s3:PutObject"], f"arn:aws:s3:::{pair}/open/*"))
    some = copy_bucket(origin, server, pair, code=1, writer=writer)
    assert f"`{pair}/closed/1`" in some.stderr and "AccessDenied" in some.stderr and f"{pair}/open" not in some.stderr
    assert "2 copied (2 B), 0 already there, 0 newer at the destination, 1 failed" in some.stdout


class Between:
    """A proxy in front of a store that breaks things: `hooks` by key take the method, the number of the request and the answer's body."""

    def __init__(self, endpoint, hooks):
        host, port = endpoint.removeprefix("http://").split(":")
        seen, lock = {}, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                path = unquote(self.path.split("?")[0])
                key = path.split("/", 2)[2] if path.count("/") > 1 else ""
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                upstream = http.client.HTTPConnection(host, int(port))
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    upstream.putheader(name, value)
                upstream.endheaders(body)
                answer = upstream.getresponse()
                data, status = answer.read(), answer.status
                with lock:
                    number = seen[self.command, key] = seen.get((self.command, key), 0) + 1
                if key in hooks:
                    changed = hooks[key](self.command, number, data)
                    data, status = (b"", changed) if isinstance(changed, int) else (changed, status)
                self.send_response(status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("date", "server"):
                        self.send_header(name, value)
                if status != answer.status:
                    self.close_connection = True
                self.end_headers()
                self.wfile.write(data)
                if self.command == "GET" and len(data) != int(answer.getheader("content-length") or len(data)):
                    self.close_connection = True

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def test_bytes_that_are_not_the_objects_are_never_stored(origin, old, server, s3, pair):
    body = os.urandom(2_500_000)
    for key in ("good", "flipped", "cut", "flipped-once"):
        old.put_object(Bucket=pair, Key=key, Body=body)
    in_parts = put_in_parts(old, pair, "parts", [5 * MIB, 100])
    flipped = lambda data: data[:1000] + bytes([data[1000] ^ 1]) + data[1001:]
    hooks = {"flipped": lambda method, _, data: flipped(data) if method == "GET" else data,
             "cut": lambda method, _, data: data[:-1] if method == "GET" else data,
             "flipped-once": lambda method, number, data: flipped(data) if (method, number) == ("GET", 1) else data,
             "parts": lambda method, number, data: flipped(data) if (method, number) == ("GET", 1) else data}
    between = Between(origin.endpoint, hooks)
    try:
        done = mirror(f"{between.endpoint}/{pair}", f"{server.endpoint}/{pair}", code=1)
    finally:
        between.stop()
    assert "3 copied" in done.stdout and "2 failed" in done.stdout, done.stdout + done.stderr
    assert f"`{pair}/flipped`" in done.stderr and "its ETag is" in done.stderr and f"`{pair}/cut`" in done.stderr
    there = [one["Key"] for one in s3.list_objects_v2(Bucket=pair)["Contents"]]
    assert there == ["flipped-once", "good", "parts"]
    assert body_of(s3, pair, "flipped-once") == body and body_of(s3, pair, "parts") == in_parts
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=pair)


def test_an_object_that_changes_in_mid_copy_is_copied_as_it_is_then(origin, old, server, s3, pair):
    for key in ("moving", "deleted"):
        old.put_object(Bucket=pair, Key=key, Body=b"1" * 100_000)

    def moves(method, number, data):
        if (method, number) == ("GET", 1):
            old.put_object(Bucket=pair, Key="moving", Body=b"2" * 100_000)
        return data

    def goes(method, _, data):
        if method == "GET":
            old.delete_object(Bucket=pair, Key="deleted")
            return 503
        return data

    between = Between(origin.endpoint, {"moving": moves, "deleted": goes})
    try:
        done = mirror(f"{between.endpoint}/{pair}", f"{server.endpoint}/{pair}")
    finally:
        between.stop()
    assert "1 copied" in done.stdout and "1 deleted meanwhile, 0 failed" in done.stdout, done.stdout + done.stderr
    assert body_of(s3, pair, "moving") == b"2" * 100_000


def test_an_answer_that_is_lost_and_a_client_that_writes_there_are_both_seen(origin, old, server, s3, pair):
    for key in ("lost", "taken"):
        old.put_object(Bucket=pair, Key=key, Body=b"1")

    def taken(method, number, data):
        # Another client is faster, after the listing and before the copy.
        if (method, number) == ("GET", 1):
            time.sleep(1.1)
            s3.put_object(Bucket=pair, Key="taken", Body=b"of its own")
        return data

    source = Between(origin.endpoint, {"taken": taken})
    destination = Between(server.endpoint, {"lost": lambda method, number, data: 503 if (method, number) == ("PUT", 1) else data})
    try:
        done = mirror(f"{source.endpoint}/{pair}", f"{destination.endpoint}/{pair}")
    finally:
        source.stop()
        destination.stop()
    assert "1 copied (1 B), 0 already there, 1 newer at the destination, 0 failed" in done.stdout, done.stdout + done.stderr
    assert body_of(s3, pair, "taken") == b"of its own"


def test_a_run_that_is_stopped_leaves_nothing_half_done(origin, old, server, s3, pair):
    body = put_in_parts(old, pair, "large", [50 * MIB] * 6)
    run = subprocess.Popen(command(f"{origin.endpoint}/{pair}", f"{server.endpoint}/{pair}"), env=keys(),
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while run.poll() is None and "Uploads" not in s3.list_multipart_uploads(Bucket=pair):
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    told, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 1 and "stopped before the end: 0 copied" in told and "0 failed" in told
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=pair)
    with pytest.raises(ClientError):
        s3.head_object(Bucket=pair, Key="large")
    assert "1 copied" in copy_bucket(origin, server, pair).stdout
    assert body_of(s3, pair, "large") == body


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make a certificate with")
def test_https_with_an_authority_of_ones_own(origin, old, server, s3, pair, tmp_path):
    old.put_object(Bucket=pair, Key="k", Body=b"x" * 300_000)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
                    "-keyout", "key.pem", "-out", "ca.pem", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-addext", "basicConstraints=critical,CA:FALSE"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "both.pem").write_text((tmp_path / "ca.pem").read_text() + (tmp_path / "key.pem").read_text())
    port, config = free_port(), tmp_path / "haproxy.cfg"
    config.write_text("defaults\n  mode http\n  timeout connect 2s\n  timeout client 1m\n  timeout server 1m\n"
                      f"listen s3\n  bind 127.0.0.1:{port} ssl crt {tmp_path}/both.pem\n  server s {server.endpoint.removeprefix('http://')}\n")
    balancer = subprocess.Popen(["haproxy", "-f", str(config)])
    try:
        wait_for(lambda: listens(port))
        locations = f"{origin.endpoint}/{pair}", f"https://localhost:{port}/{pair}"
        assert "certificate" in mirror(*locations, code=1).stderr
        assert "1 copied" in mirror(*locations, "--ca", str(tmp_path / "ca.pem")).stdout
        assert body_of(s3, pair, "k") == b"x" * 300_000
    finally:
        balancer.terminate()
        balancer.wait(10)
