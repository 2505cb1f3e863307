"""HTTP/1.1 as clients of S3 use it: connections that are kept, requests that do not wait for answers, bodies that wait for a
go-ahead. Each test on both shapes: behind haproxy, too, what belongs to one request never gets to another."""

import os
import socket
import time
from contextlib import contextmanager

import pytest

MIB = 1024 * 1024


class Connection:
    """A connection that is never opened again."""

    def __init__(self, server):
        self.host = server.endpoint.removeprefix("http://")
        self.socket = socket.create_connection(self.host.split(":"), timeout=120)
        self.stream = self.socket.makefile("rb")

    def head(self, method, url, **headers):
        lines = [f"{method} {url.removeprefix('http://' + self.host)} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    def answer(self, method="GET"):
        """The next answer: status, headers, body."""
        status = int(self.stream.readline().split()[1])
        headers = {}
        while line := self.stream.readline().strip():
            name, value = line.decode().split(":", 1)
            headers[name.lower()] = value.strip()
        if method == "HEAD" or status in (100, 204, 304):
            return status, headers, b""
        return status, headers, self.stream.read(int(headers["content-length"]))

    def ask(self, method, url, body=b"", **headers):
        self.socket.sendall(self.head(method, url, Content_Length=len(body), **headers) + body)
        return self.answer(method)


@contextmanager
def connected(server):
    connection = Connection(server)
    try:
        yield connection
    finally:
        connection.socket.close()


@pytest.fixture
def url(server, bucket):
    """Signed addresses of this bucket's keys; other headers than the host are free."""
    client = server.client(signature_version="s3v4")
    return lambda method, key="k", bucket=bucket: client.generate_presigned_url(method, Params={"Bucket": bucket, "Key": key})


def test_a_connection_is_kept_for_whatever_is_asked(server, bucket, url):
    with connected(server) as connection:
        for size in [0, 1, 70_000, 3 * MIB]:
            body = os.urandom(size)
            assert connection.ask("PUT", url("put_object"), body)[0] == 200
            status, headers, got = connection.ask("GET", url("get_object"))
            assert status == 200 and got == body and headers["content-length"] == str(size)
            status, headers, _ = connection.ask("HEAD", url("head_object"))
            assert status == 200 and headers["content-length"] == str(size)
            # What is refused, before and after its body was read, costs no connection either.
            assert connection.ask("GET", url("get_object", "none"))[0] == 404
            assert connection.ask("HEAD", url("head_object", "none"))[0] == 404
            assert connection.ask("PUT", url("put_object", "refused"), body, Content_MD5="AAAAAAAAAAAAAAAAAAAAAA==")[0] == 400
            assert connection.ask("PUT", f"http://{connection.host}/{bucket}/unsigned", body)[0] == 403
            assert connection.ask("GET", url("get_object"), Range="bytes=0-0")[0] == (206 if size else 416)
            assert connection.ask("GET", url("get_object"), If_None_Match=headers["etag"])[0] == 304
        assert connection.ask("DELETE", url("delete_object"))[0] == 204
        assert connection.ask("GET", url("get_object"))[0] == 404


def test_a_connection_is_closed_where_that_is_asked_for(server, url):
    with connected(server) as connection:
        assert connection.ask("PUT", url("put_object"), b"x")[0] == 200
        status, headers, body = connection.ask("GET", url("get_object"), Connection="close")
        assert (status, body, headers["connection"]) == (200, b"x", "close")
        assert connection.stream.read() == b""


def test_requests_that_do_not_wait_are_answered_in_their_order(server, url):
    body = os.urandom(200_000)
    with connected(server) as connection:
        asked = [("PUT", url("put_object"), body, 200), ("GET", url("get_object"), b"", 200), ("GET", url("get_object", "none"), b"", 404),
                 ("HEAD", url("head_object"), b"", 200), ("PUT", url("put_object"), b"second", 200), ("GET", url("get_object"), b"", 200),
                 ("DELETE", url("delete_object"), b"", 204), ("GET", url("get_object"), b"", 404)]
        connection.socket.sendall(b"".join(connection.head(method, to, Content_Length=len(sent)) + sent for method, to, sent, _ in asked))
        answers = [connection.answer(method) for method, *_ in asked]
        assert [status for status, *_ in answers] == [status for *_, status in asked]
        assert answers[1][2] == body and answers[5][2] == b"second" and b"<Code>NoSuchKey</Code>" in answers[2][2]
        assert answers[3][1]["content-length"] == "200000"
        assert len({headers["x-amz-request-id"] for _, headers, _ in answers}) == len(asked)
        # Many small ones, cut anywhere.
        assert connection.ask("PUT", url("put_object"), b"y")[0] == 200
        many = connection.head("GET", url("get_object")) * 50
        for at in range(0, len(many), 997):
            connection.socket.sendall(many[at:at + 997])
        assert [connection.answer()[2] for _ in range(50)] == [b"y"] * 50


@pytest.mark.parametrize("size", [1, 100_000, 20 * MIB])
def test_a_body_that_waits_is_asked_for(server, s3, bucket, url, size):
    body = os.urandom(size)
    with connected(server) as connection:
        for _ in range(2):
            connection.socket.sendall(connection.head("PUT", url("put_object"), Content_Length=size, Expect="100-continue"))
            assert connection.answer()[0] == 100
            connection.socket.sendall(body)
            assert connection.answer()[0] == 200
        assert connection.ask("GET", url("get_object"))[2] == body
    # One that does not wait for what it asked for is served, too.
    with connected(server) as connection:
        connection.socket.sendall(connection.head("PUT", url("put_object", "eager"), Content_Length=size, Expect="100-continue") + body)
        status = connection.answer()[0]
        assert (connection.answer()[0] if status == 100 else status) == 200
    assert s3.head_object(Bucket=bucket, Key="eager")["ContentLength"] == size


def test_a_large_body_that_is_refused_is_never_asked_for(server, s3, bucket, url):
    unsigned = f"{server.endpoint}/{bucket}/k"
    for to, more, expected in [(unsigned, {}, 403), (url("put_object", bucket=f"{bucket}-none"), {}, 404),
                               (url("put_object"), {"Content_MD5": "nonsense"}, 400),
                               (url("put_object").replace("Signature=", "Signature=0"), {}, 403)]:
        with connected(server) as connection:
            connection.socket.sendall(connection.head("PUT", to, Content_Length=64 * MIB, Expect="100-continue", **more))
            assert connection.answer()[0] == expected, to
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_a_client_that_leaves_in_mid_body_leaves_nothing(server, s3, bucket, url):
    s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    for key in ["k", "new"]:
        with connected(server) as connection:
            connection.socket.sendall(connection.head("PUT", url("put_object", key), Content_Length=MIB) + b"x" * 1000)
            time.sleep(0.1)
    time.sleep(0.5)
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["k"]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"before"
