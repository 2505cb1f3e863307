"""Whom a request comes from, behind load balancers that are trusted and others."""

import os
import subprocess

import pytest
import requests

from conftest import ACCESS_KEY, BALANCER, BINARY, PATIENCE, SECRET_KEY
from test_access import new_bucket, set_policy, statement


class From(requests.adapters.HTTPAdapter):
    """Requests that come from this address."""

    def __init__(self, address):
        self.address = address
        super().__init__()

    def init_poolmanager(self, *arguments, **options):
        super().init_poolmanager(*arguments, source_address=(self.address, 0), **options)


def status_of(url, address, **headers):
    with requests.Session() as session:
        session.mount("http://", From(address))
        return session.get(url, headers={name.replace("_", "-"): value for name, value in headers.items()}).status_code


def test_addresses_and_schemes_are_those_that_trusted_proxies_tell(server, alice):
    _, owner = alice
    bucket = new_bucket(owner)
    for key in ["inside", "safe"]:
        owner.put_object(Bucket=bucket, Key=key, Body=b"x")
    of = lambda key, **more: {**statement(bucket, "s3:GetObject", **more), "Resource": f"arn:aws:s3:::{bucket}/{key}"}
    set_policy(server, owner, bucket, of("inside", Condition={"IpAddress": {"aws:SourceIp": ["127.0.0.5", "192.0.2.0/24"]}}),
               of("safe"), of("safe", effect="Deny", Condition={"Bool": {"aws:SecureTransport": "false"}}))
    inside, safe = f"/{bucket}/inside", f"/{bucket}/safe"
    for gateway in server.gateways:
        # Who is no proxy is who it is, whatever it says.
        assert status_of(gateway + inside, "127.0.0.5") == 200
        assert status_of(gateway + inside, "127.0.0.5", X_Forwarded_For="127.0.0.1") == 200
        assert status_of(gateway + inside, "127.0.0.1", X_Forwarded_For="127.0.0.5") == 403
        assert status_of(gateway + safe, "127.0.0.1", X_Forwarded_Proto="https") == 403
        # A proxy tells whom it has the request from: what stands before is the client's own word.
        told = lambda client: status_of(gateway + inside, BALANCER, X_Forwarded_For=client)
        assert told("127.0.0.5") == told("192.0.2.7:4711") == told(f"10.0.0.1, 192.0.2.7, {BALANCER}") == 200
        assert told("127.0.0.1") == told("192.0.2.7, 127.0.0.1") == told(BALANCER) == 403
        assert status_of(gateway + inside, BALANCER) == 403
        assert status_of(gateway + safe, BALANCER, X_Forwarded_Proto="https") == 200
        assert status_of(gateway + safe, BALANCER, X_Forwarded_Proto="https, http") == 403
        assert status_of(gateway + safe, BALANCER) == 403
    if server.endpoint not in server.gateways:
        assert status_of(server.endpoint + inside, "127.0.0.5") == 200
        assert status_of(server.endpoint + inside, "127.0.0.1") == 403
        assert status_of(server.endpoint + inside, "127.0.0.1", X_Forwarded_For="127.0.0.5") == 403
        assert status_of(server.endpoint + safe, "127.0.0.5", X_Forwarded_Proto="https") == 403


@pytest.mark.parametrize("text", ["balancer", "10.0.0.0/33", "10.0.0.1,10.0.0"])
def test_a_start_with_proxies_that_are_no_networks_says_so(tmp_path, text):
    environment = {**os.environ, "COFFER_ACCESS_KEY": ACCESS_KEY, "COFFER_SECRET_KEY": SECRET_KEY}
    started = subprocess.run([BINARY, "server", str(tmp_path / "drive"), "--trusted-proxies", text], env=environment,
                             capture_output=True, text=True, timeout=PATIENCE)
    assert started.returncode != 0 and f"`{text.split(',')[-1]}` is no network" in started.stderr
