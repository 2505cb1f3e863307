"""Starts the servers the suite talks to: `COFFER_BIN` names the binary. Each test runs on both shapes: standalone, and a
cluster behind haproxy."""

import base64
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

REPO = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("COFFER_BIN", str(REPO / "target/debug/coffer"))
ACCESS_KEY, SECRET_KEY = "coffer-test", "coffer-test-secret"
# So many seconds are a day for lifecycle rules.
DAY_SECONDS = 2
# Where the balancer's connections to gateways come from.
BALANCER = "127.0.0.2"
# What objects are encrypted with where a request asks for it: the first is the default.
ENCRYPTION_KEYS = {name: base64.b64encode(os.urandom(32)).decode() for name in ["main-key", "second-key"]}
# What the target of events is shown.
HOOK_TOKEN = "a token that only the tests know"


# How long to wait for what must come: so long that no machine is too slow for it. It costs time only where it does not come.
PATIENCE = 120

PORTS = itertools.count(os.getpid() % 2000 * 10)


def free_port():
    """Never the same twice, and below the kernel's range for outgoing connections: none of them takes it in between."""
    for number in PORTS:
        port = 11_000 + number % 20_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def wait_for(holds, seconds=PATIENCE, pause=0.1):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(pause)


def settled(call):
    """What a gateway answers once it has been told of a change. One: that all have been is what `Server.settle` waits for."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except (AssertionError, ClientError, pytest.fail.Exception):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def quickest(change, in_force, tries=10):
    """How long after a change it is in force, in seconds: the shortest of some times, as a busy machine lengthens any of them."""
    times = []
    for _ in range(tries):
        change()
        began = time.monotonic()
        in_force()
        times.append(time.monotonic() - began)
        if times[-1] < 1:
            break
    return min(times)


def wait_ready(url, process, log):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.1)
    pytest.exit(f"{url} did not become ready:\n{Path(log).read_text()[-4000:]}", returncode=1)


class Server:
    """A cluster of either shape: `endpoint` is its S3 front."""

    def __init__(self, folder):
        self.folder, self.processes, self.clients = folder, [], {}
        # Where events go: tests listen there.
        self.hook = free_port()
        self.keys = folder / "encryption-keys"
        self.write_keys(ENCRYPTION_KEYS)
        # What processes that start from now on find in their environment besides.
        self.environment = {"COFFER_TRUSTED_PROXIES": BALANCER}

    def write_keys(self, keys):
        """What a gateway that starts from now on encrypts with; nothing without keys."""
        self.keys.write_text("".join(f"{name}:{key}\n" for name, key in keys.items()))
        self.keys.chmod(0o600)

    def launch(self, name, command, environment=None):
        log = self.folder / f"{name}.log"
        environment = {**os.environ, "COFFER_TEST_LIFECYCLE_DAY_SECONDS": str(DAY_SECONDS),
                       "COFFER_NOTIFY_WEBHOOK_ENDPOINT_TEST": f"http://127.0.0.1:{self.hook}/hook",
                       "COFFER_NOTIFY_WEBHOOK_AUTH_TOKEN_TEST": f"Bearer {HOOK_TOKEN}", **self.environment,
                       **(environment or {})}
        if self.keys.stat().st_size:
            environment["COFFER_ENCRYPTION_KEYS"] = str(self.keys)
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL,
                                   stdout=log.open("ab"), stderr=subprocess.STDOUT)
        self.processes.append(process)
        return process, log

    def start_standalone(self):
        port, admin = free_port(), free_port()
        command = [BINARY, "server", str(self.folder / "drive{1...4}"), "--address", f"127.0.0.1:{port}",
                   "--console-address", f"127.0.0.1:{admin}"]
        process, log = self.launch("server", command, {"COFFER_ACCESS_KEY": ACCESS_KEY, "COFFER_SECRET_KEY": SECRET_KEY})
        wait_ready(f"http://127.0.0.1:{admin}/health/ready", process, log)
        scheme = "https" if "COFFER_S3_TLS_DIR" in self.environment else "http"
        self.endpoint = f"{scheme}://127.0.0.1:{port}"
        self.gateways = [self.endpoint]
        self.admin = f"http://127.0.0.1:{admin}"
        self.admins = [self.admin]
        self.daemons = [process]

    def start_distributed(self, nodes=4):
        etcd, peer = free_port(), free_port()
        url, peer_url = f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{peer}"
        process, log = self.launch("etcd", ["etcd", "--data-dir", str(self.folder / "etcd"), "--name", "t",
                                   "--initial-cluster", f"t={peer_url}", "--listen-client-urls", url,
                                   "--advertise-client-urls", url, "--listen-peer-urls", peer_url,
                                   "--initial-advertise-peer-urls", peer_url])
        wait_ready(f"{url}/health", process, log)
        ports = [[free_port() for _ in range(4)] for _ in range(nodes)]
        endpoints = [f"http://127.0.0.1:{p[0]}{self.folder}/node{i}" for i, p in enumerate(ports)]
        started = []
        for i, (node, s3, admin, node_admin) in enumerate(ports):
            command = [BINARY, "server", "--etcd", url, *endpoints, "--address", f"127.0.0.1:{s3}",
                       "--console-address", f"127.0.0.1:{admin}", "--node-address", f"127.0.0.1:{node}",
                       "--node-admin-address", f"127.0.0.1:{node_admin}"]
            environment = {"COFFER_ACCESS_KEY": ACCESS_KEY, "COFFER_SECRET_KEY": SECRET_KEY,
                           "COFFER_CLUSTER_SECRET": "a secret that only the tests know"}
            started.append((self.launch(f"node{i}", command, environment), admin))
        scheme = "https" if "COFFER_S3_TLS_DIR" in self.environment else "http"
        self.gateways = [f"{scheme}://127.0.0.1:{p[1]}" for p in ports]
        self.daemons = [process for (process, _), _ in started]
        self.admins = [f"http://127.0.0.1:{admin}" for _, admin in started]
        self.admin = self.admins[0]
        for (process, log), admin in started:
            wait_ready(f"http://127.0.0.1:{admin}/health/ready", process, log)
        self.start_balancer([(s3, admin) for _, s3, admin, _ in ports])

    def start_balancer(self, gateways):
        """haproxy in front of the gateways, with its own defaults: keep-alive on both sides."""
        port, config = free_port(), self.folder / "haproxy.cfg"
        servers = "".join(f"  server g{s3} 127.0.0.1:{s3} check port {admin}\n" for s3, admin in gateways)
        # A gateway that is slow to answer a check is not away; one that is refuses the connection.
        config.write_text("defaults\n  mode http\n  timeout connect 10s\n  timeout check 10s\n  timeout client 5m\n  timeout server 5m\n"
                          f"frontend s3\n  bind 127.0.0.1:{port}\n  default_backend gateways\n"
                          "  monitor-uri /balancer\n  monitor fail if { nbsrv(gateways) eq 0 }\n"
                          f"backend gateways\n  source {BALANCER}\n  option forwardfor\n"
                          f"  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]\n  option httpchk GET /health/ready\n{servers}")
        process, log = self.launch("haproxy", ["haproxy", "-f", str(config)])
        self.endpoint = f"http://127.0.0.1:{port}"
        wait_ready(f"http://127.0.0.1:{port}/balancer", process, log)

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def end(self):
        """Ends all of it at once, when a test is over: a stop waits for requests that nobody sends any more. Its logs stay, its
        drives do not: those of all tests together are more than a small machine has room for."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        for entry in self.folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)

    def kill(self, which):
        """Ends a server, or one of a cluster, as a crash would."""
        self.daemons[which].kill()
        self.daemons[which].wait()

    def client(self, keys=(ACCESS_KEY, SECRET_KEY), endpoint=None, **config):
        """A client of root, or of whoever has these keys; of one gateway if it is named."""
        return boto3.client("s3", endpoint_url=endpoint or self.endpoint, aws_access_key_id=keys[0],
                            aws_secret_access_key=keys[1], region_name="us-east-1",
                            config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}, **config))

    def nobody(self):
        """A client that does not sign."""
        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1",
                            config=Config(signature_version=UNSIGNED, retries={"max_attempts": 1},
                                          s3={"addressing_style": "path"}))

    def coffer(self, *arguments, check=True):
        """Runs a command of `coffer` as root's operator."""
        environment = {**os.environ, "COFFER_ACCESS_KEY": ACCESS_KEY, "COFFER_SECRET_KEY": SECRET_KEY,
                       "COFFER_ENDPOINT": self.admin}
        return subprocess.run([BINARY, *arguments], env=environment, check=check, capture_output=True, text=True)

    def direct(self, keys=(ACCESS_KEY, SECRET_KEY)):
        """A client for each gateway, past the balancer."""
        for gateway in self.gateways:
            if (keys, gateway) not in self.clients:
                self.clients[keys, gateway] = self.client(keys, endpoint=gateway)
        return [self.clients[keys, gateway] for gateway in self.gateways]

    def everywhere(self, holds, keys=(ACCESS_KEY, SECRET_KEY)):
        """Waits until this holds for a client of each gateway: whatever was changed is in force at each as soon as its watch has told it."""
        def is_so(client):
            try:
                return holds(client)
            except ClientError:
                return False

        for client in self.direct(keys):
            wait_for(lambda: is_so(client), pause=0.02)

    def settle(self, bucket):
        """Waits until each gateway has been told how the bucket is configured now: by its tags, which are written last, and are in the
        same record as all the rest."""
        tags = [{"Key": "settled", "Value": os.urandom(8).hex()}]
        self.client().put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})
        self.everywhere(lambda client: client.get_bucket_tagging(Bucket=bucket)["TagSet"] == tags)

    def add_user(self, name):
        """Makes a user, whom every gateway knows then: its canonical id and its keys."""
        made = json.loads(self.coffer("user", "add", name, "--json").stdout)
        keys = made["access_keys"][0], made["secret_key"]
        self.everywhere(lambda client: client.list_buckets(), keys)
        return made["id"], keys

    def user(self, name):
        """Makes a user: its canonical id and a client of it."""
        identity, keys = self.add_user(name)
        return identity, self.client(keys)

    def aws(self, *arguments, **options):
        """Runs the aws command line of this environment."""
        environment = {**os.environ, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                       "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}
        aws = Path(os.sys.executable).parent / "aws"
        return subprocess.run([aws, "--endpoint-url", self.endpoint, *arguments], env=environment, check=True,
                              capture_output=True, text=True, **options)


@pytest.fixture(scope="session", params=["standalone", "distributed"])
def server(request, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp(request.param))
    try:
        getattr(server, f"start_{request.param}")()
        yield server
    finally:
        server.end()


@pytest.fixture(scope="session")
def alice(server):
    """A user: canonical id and client."""
    return server.user("alice")


@pytest.fixture(scope="session")
def bob(server):
    return server.user("bob")


@pytest.fixture
def s3(server):
    return server.client()


@pytest.fixture
def bucket(server, s3, request):
    name = "b-" + os.urandom(8).hex()
    s3.create_bucket(Bucket=name)
    return name
