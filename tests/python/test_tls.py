"""S3 over TLS: HTTP/2 and HTTP/1.1 at one port, what each of them limits, and certificates that change."""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager

import boto3
import certificates
import h2.config
import h2.connection
import h2.events
import httpx
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from conftest import ACCESS_KEY, BINARY, PATIENCE, SECRET_KEY, Server, wait_for
from test_boto3 import error_code

MIB = 1024 * 1024


@contextmanager
def with_tls(folder, start):
    """A server that speaks TLS; `ca` is the file of its authority."""
    server = Server(folder)
    server.ca = certificates.authority(server.folder / "ca")
    certificates.issue(server.folder / "ca", server.folder / "tls")
    server.environment["COFFER_S3_TLS_DIR"] = str(server.folder / "tls")
    try:
        start(server)
        # Past the balancer, which speaks clear text.
        server.endpoint = server.gateways[-1]
        client(server).create_bucket(Bucket="bucket")
        yield server
    finally:
        server.end()


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    with with_tls(tmp_path_factory.mktemp("tls"), Server.start_standalone) as server:
        yield server


@pytest.fixture(scope="module")
def tls_cluster(tmp_path_factory):
    with with_tls(tmp_path_factory.mktemp("tls-cluster"), Server.start_distributed) as server:
        yield server


def client(server, **more):
    return boto3.client("s3", endpoint_url=server.endpoint, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
                        region_name="us-east-1", verify=str(server.ca),
                        config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}, **more))


def sign(method, url, body=b"", headers=None):
    request = AWSRequest(method=method, url=url, data=body, headers=headers or {})
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
    return dict(request.headers)


class Http:
    """Signed requests through httpx; `close` ends its connections."""

    def __init__(self, server, http2=True):
        context = ssl.create_default_context(cafile=server.ca)
        # Connections are kept until the server ends them.
        limits = httpx.Limits(keepalive_expiry=None)
        self.base, self.client = server.endpoint, httpx.Client(http2=http2, verify=context, timeout=PATIENCE, limits=limits)

    def send(self, method, path, body=b"", **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        url = self.base + path
        # In pieces: httpx copies all that is left of one with every frame.
        pieces = (body[at:at + 65536] for at in range(0, len(body), 65536))
        headers = {**sign(method, url, body, headers), **({"content-length": str(len(body))} if body else {})}
        return self.client.request(method, url, content=pieces if body else b"", headers=headers)


@pytest.fixture(params=["tls", "tls_cluster"], ids=["standalone", "distributed"])
def shape(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[True, False], ids=["http2", "http1"])
def http(shape, request):
    http = Http(shape, request.param)
    http.version = "HTTP/2" if request.param else "HTTP/1.1"
    http.large_mib = 64 if len(shape.gateways) == 1 else 8
    yield http
    http.client.close()


def test_both_versions_serve_every_kind_of_request(http):
    put = http.send("PUT", "/bucket/a/b%20c", b"0123456789", content_type="text/x", x_amz_meta_m="v")
    assert (put.status_code, put.http_version) == (200, http.version)
    assert put.headers["etag"] == '"781e5e245d69b566979b86e28d23f2c7"'
    got = http.send("GET", "/bucket/a/b%20c")
    assert got.content == b"0123456789" and got.headers["x-amz-meta-m"] == "v" and got.http_version == http.version
    part = http.send("GET", "/bucket/a/b%20c", range="bytes=2-4")
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    head = http.send("HEAD", "/bucket/a/b%20c")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")
    listed = http.send("GET", "/bucket?list-type=2&prefix=a%2F")
    assert listed.status_code == 200 and "<Key>a/b c</Key>" in listed.text
    for method in ["GET", "HEAD"]:
        missing = http.send(method, "/bucket/missing")
        assert missing.status_code == 404 and ("NoSuchKey" in missing.text) == (method == "GET")
    assert http.send("GET", "/bucket/a/b%20c", if_none_match=put.headers["etag"]).status_code == 304
    assert http.send("DELETE", "/bucket/a/b%20c").status_code == 204
    # And whoever signs for another host, or sends another body than it signed, is refused, with the reason.
    url = f"{http.base}/bucket/k"
    wrong = http.client.put(url, content=b"x", headers=sign("PUT", url.replace("127.0.0.1", "localhost"), b"x"))
    assert wrong.status_code == 403 and "SignatureDoesNotMatch" in wrong.text
    other = http.client.put(url, content=b"y", headers=sign("PUT", url, b"x"))
    assert other.status_code == 400 and "XAmzContentSHA256Mismatch" in other.text


def test_large_bodies_pass_in_both_directions(http):
    body = os.urandom(MIB) * http.large_mib
    began = time.monotonic()
    assert http.send("PUT", "/bucket/large", body).status_code == 200
    wrote = time.monotonic()
    got = http.send("GET", "/bucket/large").content
    print(f"{http.version}: {http.large_mib} MiB put in {wrote - began:.2f} s, got in {time.monotonic() - wrote:.2f} s")
    assert hashlib.md5(got).digest() == hashlib.md5(body).digest()


def test_many_requests_share_one_connection(shape):
    async def all_of_them():
        context = ssl.create_default_context(cafile=shape.ca)
        async with httpx.AsyncClient(http2=True, verify=context, timeout=PATIENCE, limits=httpx.Limits(max_connections=1)) as one:
            async def both(i):
                url, body = f"{shape.endpoint}/bucket/many/{i}", os.urandom(i * 1000)
                put = await one.put(url, content=body, headers=sign("PUT", url, body))
                got = await one.get(url, headers=sign("GET", url))
                return put.status_code, got.content == body, got.http_version
            return await asyncio.gather(*(both(i) for i in range(100)))

    assert set(asyncio.run(all_of_them())) == {(200, True, "HTTP/2")}


class Raw:
    """A connection of HTTP/2 that keeps no rule but those that a test keeps."""

    def __init__(self, server):
        self.base = server.endpoint
        host, port = self.base.removeprefix("https://").split(":")
        context = ssl.create_default_context(cafile=server.ca)
        context.set_alpn_protocols(["h2"])
        self.socket = context.wrap_socket(socket.create_connection((host, int(port)), timeout=PATIENCE), server_hostname=host)
        assert self.socket.selected_alpn_protocol() == "h2"
        loose = h2.config.H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(loose)
        self.h2.initiate_connection()
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def begin(self, method, path, body=b"", extra=(), end=True, flush=True):
        stream = self.h2.get_next_available_stream_id()
        signed = sign(method, self.base + path, body)
        pseudo = [(":method", method), (":scheme", "https"), (":authority", self.base.removeprefix("https://")), (":path", path)]
        self.h2.send_headers(stream, pseudo + [(name.lower(), value) for name, value in signed.items()] + list(extra), end)
        if flush:
            self.flush()
        return stream

    def events(self):
        """What comes, until the peer closes."""
        while True:
            data = self.socket.recv(65536)
            if not data:
                return
            yield from self.h2.receive_data(data)
            self.flush()

    def status(self, stream):
        for event in self.events():
            if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                return int(dict(event.headers)[b":status"])
            if isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                return event
        return None


def refuses(connect):
    try:
        connect().close()
        return False
    except OSError:
        return True


GOAWAY = 7


def frames(data):
    """The types of the frames of HTTP/2 in this."""
    types = []
    while len(data) >= 9:
        types.append(data[3])
        data = data[9 + int.from_bytes(data[:3], "big"):]
    return types


def serves(tls):
    http = Http(tls)
    assert http.send("PUT", "/bucket/serves", b"x").status_code == 200
    assert http.send("GET", "/bucket/serves").content == b"x"
    http.client.close()


def test_requests_that_are_taken_back_leave_nothing_behind(tls):
    assert Http(tls).send("PUT", "/bucket/long", os.urandom(8 * MIB)).status_code == 200
    raw = Raw(tls)
    # What is still on its way to a stream that is gone counts for the connection.
    raw.h2.increment_flow_control_window(2**30)
    for _ in range(40):
        stream = raw.begin("GET", "/bucket/long")
        next(event for event in raw.events() if isinstance(event, h2.events.DataReceived) and event.stream_id == stream)
        raw.h2.reset_stream(stream, 8)
        raw.flush()
    for i in range(10):
        stream = raw.begin("PUT", f"/bucket/half{i}", b"0123456789", [("content-length", "10")], end=False)
        raw.h2.send_data(stream, b"01234")
        raw.flush()
        time.sleep(0.05)
        raw.h2.reset_stream(stream, 8)
        raw.flush()
    time.sleep(1)
    kept = [o["Key"] for o in client(tls).list_objects_v2(Bucket="bucket", Prefix="half").get("Contents", [])]
    assert kept == []
    # The connection is good for more.
    assert raw.status(raw.begin("GET", "/bucket/half0")) is not None
    serves(tls)


def test_a_flood_of_resets_ends_its_connection_and_nothing_else(tls):
    raw, received = Raw(tls), b""
    try:
        for _ in range(100):
            for _ in range(100):
                raw.h2.reset_stream(raw.begin("GET", "/bucket/serves", flush=False), 8)
            raw.flush()
    except OSError:
        pass
    try:
        while piece := raw.socket.recv(65536):
            received += piece
    except TimeoutError:
        pytest.fail("the connection goes on")
    except OSError:
        pass
    # ENHANCE_YOUR_CALM, if the GOAWAY still gets through.
    assert GOAWAY not in frames(received) or b"\0\0\0\x0b" in received
    serves(tls)


def test_heads_that_are_too_long_are_refused(tls):
    for extra in [[("x-amz-meta-a", "x" * 70_000)], [(f"x-amz-meta-{i}", "x" * 100) for i in range(1000)]]:
        raw = Raw(tls)
        answer = raw.status(raw.begin("GET", "/bucket/serves", extra=extra))
        assert answer == 431 or not isinstance(answer, int), answer
    # Not if they are merely long.
    raw = Raw(tls)
    assert raw.status(raw.begin("GET", "/bucket/serves", extra=[("x-long", "x" * 15_000)])) == 200
    serves(tls)


def test_fields_of_http1_are_none_of_http2(tls):
    for extra in [("connection", "close"), ("transfer-encoding", "chunked"), ("te", "gzip")]:
        raw = Raw(tls)
        assert isinstance(raw.status(raw.begin("GET", "/bucket/serves", extra=[extra])), h2.events.StreamReset), extra
    raw = Raw(tls)
    assert raw.status(raw.begin("GET", "/bucket/serves", extra=[("te", "trailers")])) == 200


def test_clients_that_know_only_http1_are_served(shape):
    tls, s3 = shape, client(shape)
    s3.put_object(Bucket="bucket", Key="k", Body=b"x" * 100_000, ChecksumAlgorithm="SHA256")
    assert s3.get_object(Bucket="bucket", Key="k")["Body"].read() == b"x" * 100_000
    upload = s3.create_multipart_upload(Bucket="bucket", Key="parts")["UploadId"]
    part = s3.upload_part(Bucket="bucket", Key="parts", UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    done = s3.complete_multipart_upload(Bucket="bucket", Key="parts", UploadId=upload,
                                        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})
    assert done["Location"] == f"{tls.endpoint}/bucket/parts"
    context = ssl.create_default_context(cafile=tls.ca)
    for version in ["s3v4", "s3"]:
        url = client(tls, signature_version=version).generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "k"})
        assert len(urllib.request.urlopen(url, context=context).read()) == 100_000
    # Who speaks no TLS gets no answer of S3.
    with pytest.raises(Exception):
        urllib.request.urlopen(tls.endpoint.replace("https", "http"))


def test_policies_know_that_the_connection_is_encrypted(tls, server):
    policy = lambda bucket: json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*",
         "Condition": {"Bool": {"aws:SecureTransport": "false"}}}]})
    for of, s3, expected in [(tls, client(tls), None), (server, server.client(), ("AccessDenied", 403))]:
        bucket = "b-" + os.urandom(8).hex()
        s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket=bucket, Key="k", Body=b"x")
        s3.put_bucket_policy(Bucket=bucket, Policy=policy(bucket))
        # One gateway knows it at once.
        if len(of.gateways) > 1:
            of.settle(bucket)
        if expected:
            assert error_code(s3.get_object, Bucket=bucket, Key="k") == expected
        else:
            assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def test_policies_know_the_version_of_tls(tls):
    s3, bucket = client(tls), "b-" + os.urandom(8).hex()
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*",
         "Condition": {"NumericLessThan": {"s3:TlsVersion": 1.3}}}]}))
    if len(tls.gateways) > 1:
        tls.settle(bucket)
    context = ssl.create_default_context(cafile=tls.ca)
    get = lambda: urllib.request.urlopen(s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "k"}), context=context)
    assert get().read() == b"x"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get()


def shown(tls):
    """The certificate that a new connection is shown."""
    host, port = tls.endpoint.removeprefix("https://").split(":")
    return ssl.get_server_certificate((host, int(port)), ca_certs=tls.ca)


def error_of(connection):
    """The whole of an answer that is an error."""
    told = b""
    while not told.endswith(b"</Error>"):
        piece = connection.recv(4096)
        assert piece, told
        told += piece
    return told


def test_a_new_certificate_is_taken_and_half_of_one_is_not(tls, tmp_path):
    folder, log = tls.folder / "tls", tls.folder / "server.log"
    first = shown(tls)
    certificates.issue(tls.folder / "ca", tmp_path)
    shutil.copy(tmp_path / "tls.key", folder / "tls.key")
    wait_for(lambda: "is not the key of" in log.read_text())
    assert shown(tls) == first
    shutil.copy(tmp_path / "tls.crt", folder / "tls.crt")
    wait_for(lambda: shown(tls) != first)
    assert shown(tls) == (tmp_path / "tls.crt").read_text()
    serves(tls)


def test_a_start_without_a_usable_certificate_is_refused(tls, tmp_path):
    def refusal(folder):
        command = [BINARY, "server", str(tmp_path / "drive{1...4}"), "--address", "127.0.0.1:0", "--console-address", "127.0.0.1:0",
                   "--s3-tls-dir", str(folder)]
        environment = {**os.environ, "COFFER_ACCESS_KEY": ACCESS_KEY, "COFFER_SECRET_KEY": SECRET_KEY}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert run.returncode != 0
        return run.stderr + run.stdout

    assert "tls.crt" in refusal(tmp_path / "nothing")
    for name in ["a", "b"]:
        certificates.issue(tls.folder / "ca", tmp_path / name)
    shutil.copy(tmp_path / "a/tls.key", tmp_path / "b/tls.key")
    assert "it is not the key of" in refusal(tmp_path / "b")
    (tmp_path / "a/tls.crt").write_text("")
    assert "it holds no certificate" in refusal(tmp_path / "a")


def test_a_stop_finishes_what_runs_and_takes_no_more(tmp_path):
    server = Server(tmp_path)
    server.ca = certificates.authority(tmp_path / "ca")
    certificates.issue(tmp_path / "ca", tmp_path / "tls")
    server.environment["COFFER_S3_TLS_DIR"] = str(tmp_path / "tls")
    try:
        server.start_standalone()
        client(server).create_bucket(Bucket="bucket")
        http, body = Http(server), os.urandom(32 * MIB)
        assert http.send("PUT", "/bucket/k", body).status_code == 200
        idle, url = Raw(server), f"{server.endpoint}/bucket/k"
        # Not httpx: its library knows no PING after a GOAWAY, by which hyper finds out what was on its way. It gets no further than
        # what is taken of its output.
        headers = [part for name, value in sign("GET", url).items() for part in ("-H", f"{name}: {value}")]
        running = subprocess.Popen(["curl", "--silent", "--http2", "--cacert", server.ca, "--write-out", "%{stderr}%{http_code} %{http_version}",
                                    *headers, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        got = running.stdout.read(MIB)
        server.processes[0].send_signal(signal.SIGTERM)
        # An idle connection is told at once.
        told = b""
        while GOAWAY not in frames(told):
            told += idle.socket.recv(65536)
        wait_for(lambda: refuses(lambda: Raw(server).socket))
        assert running.poll() is None, "it is still running"
        got += running.stdout.read()
        assert running.stderr.read() == b"200 2" and running.wait() == 0
        assert got == body
        assert server.processes[0].wait(60) == 0
    finally:
        server.end()


def test_idle_connections_live_longer_than_heads_may_take(tls, tmp_path):
    """Load balancers keep idle connections for a minute."""
    clear = Server(tmp_path)
    try:
        clear.start_standalone()
        address = ("127.0.0.1", int(clear.endpoint.rsplit(":", 1)[1]))
        connect = lambda: socket.create_connection(address, timeout=90)
        request = b"GET /bucket/none HTTP/1.1\r\nhost: x\r\n\r\n"
        times = {}

        def closed_after(name, first):
            connection, began = connect(), time.monotonic()
            connection.sendall(first)
            if name == "second":
                assert error_of(connection).startswith(b"HTTP/1.1 404")
                connection.sendall(b"GET / HTTP/1.1\r\n")
            while connection.recv(4096):
                pass
            times[name] = time.monotonic() - began

        kept, idle, http = connect(), Raw(tls), Http(tls, http2=False)
        kept.sendall(request)
        assert error_of(kept).startswith(b"HTTP/1.1 404")
        assert http.send("HEAD", "/bucket").status_code == 200
        connections = list(http.client._transport._pool.connections)
        began = time.monotonic()
        slow = {"half": b"GET / HTTP/1.1\r\nhost: ", "preface": b"P", "second": request}
        threads = [threading.Thread(target=closed_after, args=one) for one in slow.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # After half a minute, and before the minute that a connection may take for its first byte.
        assert all(29 < seconds < 55 for seconds in times.values()) and len(times) == 3, times
        time.sleep(max(0, 45 - (time.monotonic() - began)))
        kept.sendall(request)
        assert error_of(kept).startswith(b"HTTP/1.1 404")
        assert idle.status(idle.begin("GET", "/bucket/none")) == 404
        assert http.send("HEAD", "/bucket").status_code == 200
        assert http.client._transport._pool.connections == connections
    finally:
        clear.end()


def serves_on(server):
    """Whether a server that is told to stop could be sent two more requests in time, which it serves then."""
    server.start_standalone()
    address, process = ("127.0.0.1", int(server.endpoint.rsplit(":", 1)[1])), server.daemons[0]
    request = b"GET /bucket/none HTTP/1.1\r\nhost: x\r\n\r\n"
    new, used, idle = [socket.create_connection(address, timeout=PATIENCE) for _ in range(3)]
    for connection in used, idle:
        connection.sendall(request)
        answer = error_of(connection).lower()
        assert answer.startswith(b"http/1.1 404") and b"connection: close" not in answer
    process.send_signal(signal.SIGTERM)
    stopped = time.monotonic()
    try:
        for connection in used, new:
            time.sleep(0.7)
            connection.sendall(request)
            answer = b"".join(iter(lambda: connection.recv(4096), b"")).lower()
            assert answer.startswith(b"http/1.1 404") and b"connection: close" in answer
    except (AssertionError, OSError):
        # It has three seconds for what comes late.
        if time.monotonic() - stopped < 2.5:
            raise
        process.wait(60)
        return False
    wait_for(lambda: refuses(lambda: socket.create_connection(address)))
    # An idle one is closed by then, and not only where the stop does not wait any longer, after half a minute.
    assert idle.recv(1) == b"" and 2.5 < time.monotonic() - stopped < 25
    assert process.wait(60) == 0
    return True


def test_a_stop_serves_what_a_balancer_still_sends(tmp_path):
    """It reuses idle connections until its checks have failed, which takes a second or two."""
    server = Server(tmp_path)
    try:
        assert any(serves_on(server) for _ in range(5))
    finally:
        server.end()
