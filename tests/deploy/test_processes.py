"""What the chart and the units run, run: it serves, scales, and restarts one by one with no failed request."""

import os
import socket
import threading
from pathlib import Path

import pytest

import sandbox
from helm import REPO
from pods import SECRETS, Release, install
from sandbox import Balancer, Load, Names, Sandbox, answers, wait_until

BINARY = os.environ.get("COFFER_BIN", str(REPO / "target/debug/coffer"))
pytestmark = pytest.mark.skipif(not sandbox.possible(), reason="needs root and bubblewrap")


def values(replicas, automatic=True):
    pools = f'storage.pools=[{{"name":"storage","replicas":{replicas},"drives":2,"size":"1Gi"}}]'
    return ("--set", "auth.existingSecret=coffer-auth", "--set-json", pools, "--set", "gateway.preStopSeconds=3",
            "--set", f"storage.autoLayout.enabled={str(automatic).lower()}")


def slots(release, name):
    rows = release.pods["coffer-storage-0"].sandbox.ask(["coffer", "node", "list", "--json"])
    return {row["id"]: row["slots"] for row in rows}[name]


def moves_are_done(release):
    return release.pods["coffer-storage-0"].sandbox.ask(["coffer", "layout", "show", "--json"])["moves"] is None


def test_rendered_pods_serve_scale_and_restart_without_a_failed_request(tmp_path):
    release = Release(tmp_path, BINARY, *values(4))
    try:
        release.scale()
        code, told = release.test()
        assert code == 0, told
        auth = SECRETS["coffer-auth"]
        load = Load(f"http://{release.s3}:9000", auth["access-key"], auth["secret-key"])

        # 4 -> 5: the hooks of an upgrade, and the new pod between them.
        release.render(*values(5))
        code, told = release.hook("pre-upgrade")
        assert code == 0, told
        release.scale()
        code, told = release.hook("post-upgrade")
        assert code == 0, told
        wait_until("the fifth node to hold slots", lambda: slots(release, "coffer-storage-4") > 0)
        wait_until("the moves to end", lambda: moves_are_done(release), 600)

        # A rolling update of everything, storage from the highest number down.
        owner = release.find("StatefulSet", "coffer-storage")
        for number in reversed(range(5)):
            release.restart_storage(number, owner)
        for number in range(2):
            release.replace_gateway(f"coffer-gateway-{number}", f"coffer-gateway-{number}-next")
        wait_until("enough load", lambda: load.failures or load.requests > 100)
        requests, failures = load.end()
        print(f"{requests} requests, {len(failures)} failed")
        assert not failures, failures[:10]

        # A shrink that would take data away is refused.
        release.render(*values(4))
        code, told = release.hook("pre-upgrade")
        assert code == 1 and "coffer-storage-4" in told, told
        code, told = release.test()
        assert code == 0, told
    finally:
        release.end()


class Unit:
    """A service of systemd, by its own command and what of its confinement can be had here."""

    def __init__(self, bench, unit, host, address, environment, drives=0):
        self.lines = [line.split("=", 1) for line in (REPO / f"deploy/systemd/{unit}.service").read_text().splitlines() if "=" in line]
        settings = dict(self.lines)
        assert settings["User"] == "coffer" and settings["NoNewPrivileges"] == "yes" and settings["CapabilityBoundingSet"] == ""
        assert settings["ProtectSystem"] == "strict" and settings["Type"] == "notify"
        writable = {}
        for drive in range(1, drives + 1):
            place = bench.folder / host / f"drive{drive}"
            place.mkdir(parents=True, exist_ok=True)
            os.chown(place, sandbox.USER, sandbox.USER)
            writable[f"/var/lib/coffer/drive{drive}"] = place
        self.told = bench.folder / host
        self.told.mkdir(parents=True, exist_ok=True)
        os.chown(self.told, sandbox.USER, sandbox.USER)
        writable["/run/notify"] = self.told
        self.environment = {**environment, "COFFER_DRIVES": f"/var/lib/coffer/drive{{1...{drives}}}", "NOTIFY_SOCKET": "/run/notify/socket"}
        self.command = [self.environment.get(part[1:], part) if part.startswith("$") else part for part in settings["ExecStart"].split()]
        self.name, self.address, self.messages = host, address, []
        self.sandbox = Sandbox(bench.folder, f"{host}-root", bench.programs, bench.names, {}, writable, self.environment)

    def start(self):
        path = self.told / "socket"
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(path))
        path.chmod(0o777)
        self.messages.clear()
        threading.Thread(target=self.listen, args=(listener,), daemon=True).start()
        self.sandbox.start(self.command)

    def listen(self, listener):
        while True:
            self.messages.append(listener.recv(1000).decode().strip())

    def wait_ready(self):
        def ready():
            assert self.sandbox.process.poll() is None, f"{self.name} ended:\n{self.sandbox.tail()}"
            return "READY=1" in self.messages

        wait_until(f"{self.name} to say that it serves", ready, 180)

    def stop(self):
        code = self.sandbox.stop()
        assert code == 0, self.sandbox.tail()
        wait_until("the word that it stops", lambda: "STOPPING=1" in self.messages)


class Hosts:
    """An etcd, storage nodes and gateways as units, and haproxy."""

    def __init__(self, folder, binary, nodes):
        self.folder, self.programs = folder, folder / "bin"
        self.programs.mkdir()
        install(binary, self.programs / "coffer")
        (self.programs / "etcd").symlink_to("/usr/bin/etcd")
        self.names = Names(folder)
        (folder / "etcd-data").mkdir()
        os.chown(folder / "etcd-data", sandbox.USER, sandbox.USER)
        etcd, peer = "http://127.31.0.1:2379", "http://127.31.0.1:2380"
        self.etcd = Sandbox(folder, "etcd", self.programs, self.names, {}, {"/var/lib/etcd": folder / "etcd-data"})
        self.etcd.start(["etcd", "--data-dir", "/var/lib/etcd", "--name", "t", "--initial-cluster", f"t={peer}",
                         "--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", peer,
                         "--initial-advertise-peer-urls", peer])
        wait_until("etcd", lambda: answers(f"{etcd}/health"))
        common = {"COFFER_ETCD": etcd, "COFFER_CLUSTER_SECRET": "a secret of the tests", "COFFER_ENDPOINT": "http://127.31.0.2:9001"}
        self.nodes = []
        for number in range(1, nodes + 1):
            address = f"127.31.1.{number}"
            self.nodes.append(Unit(self, "coffer-storage-node", f"node-{number}", address, {
                **common, "COFFER_NODE_ID": f"node-{number}", "COFFER_NODE_ADDRESS": f"{address}:9100",
                "COFFER_NODE_ADMIN_ADDRESS": f"{address}:9101", "COFFER_BOOTSTRAP_EXPECT": str(nodes)}, drives=1))
        self.gateways = []
        for number in range(1, 3):
            address = f"127.31.2.{number}"
            self.gateways.append(Unit(self, "coffer-gateway", f"gateway-{number}", address, {
                **common, "COFFER_ADDRESS": f"{address}:9000", "COFFER_CONSOLE_ADDRESS": f"{address}:9001",
                "COFFER_ACCESS_KEY": "coffer", "COFFER_SECRET_KEY": "a-secret-of-the-tests"}))
        addresses = [gateway.address for gateway in self.gateways]
        self.balancer = Balancer(folder, {"s3": ("127.31.0.2", 9000, addresses, 9001), "admin": ("127.31.0.2", 9001, addresses, 9001)})

    def end(self):
        for unit in [*self.gateways, *self.nodes]:
            try:
                unit.sandbox.stop()
            except Exception:  # noqa: BLE001 - everything is ended
                pass
        self.etcd.stop()
        self.balancer.stop()


def test_units_start_stop_and_are_upgraded_in_place_without_a_failed_request(tmp_path):
    hosts = Hosts(tmp_path, BINARY, nodes=4)
    try:
        for unit in [*hosts.nodes, *hosts.gateways]:
            unit.start()
        for unit in [*hosts.nodes, *hosts.gateways]:
            unit.wait_ready()
        wait_until("a gateway behind the balancer", lambda: answers("http://127.31.0.2:9001/health/ready"))
        load = Load("http://127.31.0.2:9000", "coffer", "a-secret-of-the-tests")
        wait_until("some load", lambda: load.failures or load.requests > 30)

        # The new program takes the old one's place while that runs; the same build stands for both versions unless another is given.
        install(os.environ.get("COFFER_NEW_BIN", BINARY), hosts.programs / "coffer")
        for node in hosts.nodes:
            code, told = node.sandbox.run(["coffer", "node", "drain", node.name, "--for-restart", "--wait"])
            assert code == 0, told
            node.stop()
            node.start()
            node.wait_ready()
        for gateway in hosts.gateways:
            gateway.stop()
            gateway.start()
            gateway.wait_ready()
            wait_until("the balancer to see it", lambda: answers(f"http://{gateway.address}:9001/health/ready"))
            before = load.requests
            wait_until("some load", lambda: load.failures or load.requests > before + 30)
        requests, failures = load.end()
        print(f"{requests} requests, {len(failures)} failed")
        assert not failures, failures[:10]
    finally:
        hosts.end()
