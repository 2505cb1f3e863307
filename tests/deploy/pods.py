"""Runs what the chart renders: each pod of a StatefulSet or Deployment as a process in a sandbox, by its own command, environment,
volumes, probes and hooks."""

import os
import re
import subprocess
from pathlib import Path

from helm import objects
from sandbox import USER, Balancer, Names, Sandbox, answers, wait_until

DOMAIN = "coffer.svc.cluster.local"
SECRETS = {"coffer-auth": {"access-key": "coffer", "secret-key": "a-secret-of-the-tests", "cluster-secret": "another-secret-of-the-tests"}}
GATEWAYS = 4  # addresses for gateways: those of two that run, and of their successors


class Pod:
    def __init__(self, release, name, owner, address):
        self.release, self.name, self.owner, self.address = release, name, owner, address
        self.spec = owner["spec"]["template"]["spec"] if "template" in owner["spec"] else owner["spec"]
        self.container = self.spec["containers"][0]
        self.ports = {port["name"]: port["containerPort"] for port in self.container.get("ports", [])}
        binds, writable = self.volumes()
        self.sandbox = Sandbox(release.folder, name, release.programs, release.names, binds, writable, self.environment())

    def volumes(self):
        binds, writable = {}, {}
        volumes = {volume["name"]: volume for volume in self.spec.get("volumes") or []}
        for mount in self.container["volumeMounts"]:
            place = self.release.folder / self.name / mount["name"]
            place.mkdir(parents=True, exist_ok=True)
            if mount["name"] in volumes:
                secret = volumes[mount["name"]]["secret"]
                for key, value in SECRETS[secret["secretName"]].items():
                    (place / key).write_text(value)
                assert mount["readOnly"]
                binds[mount["mountPath"]] = place
            else:
                # What fsGroup does.
                os.chown(place, USER, USER)
                writable[mount["mountPath"]] = place
        return binds, writable

    def environment(self):
        values = {}
        for source in self.container.get("envFrom", []):
            config = self.release.find("ConfigMap", source["configMapRef"]["name"])
            values.update(config["data"])
        for variable in self.container.get("env", []):
            if "value" in variable:
                value = re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], variable["value"])
            else:
                field = variable["valueFrom"]["fieldRef"]["fieldPath"]
                assert field == "metadata.name", field
                value = self.name
            values[variable["name"]] = value
        # A pod has a network of its own and listens on all of its addresses; here it has a loopback address.
        for name, port in {"COFFER_ADDRESS": 9000, "COFFER_CONSOLE_ADDRESS": 9001, "COFFER_NODE_ADDRESS": 9100,
                           "COFFER_NODE_ADMIN_ADDRESS": 9101}.items():
            assert name not in values
            values[name] = f"{self.address}:{port}"
        for name in ("ETCD_LISTEN_CLIENT_URLS", "ETCD_LISTEN_PEER_URLS", "ETCD_LISTEN_METRICS_URLS"):
            if name in values:
                values[name] = values[name].replace("0.0.0.0", self.address)
        return values

    def command(self):
        command = self.container.get("command") or ["/usr/local/bin/coffer"]
        return [*command, *self.container.get("args", [])]

    def start(self):
        self.sandbox.start(self.command())

    def probe(self, kind):
        probe = self.container[kind]["httpGet"]
        return answers(f"http://{self.address}:{self.ports[probe['port']]}{probe['path']}")

    def wait_ready(self, seconds=180):
        def ready():
            assert self.sandbox.process.poll() is None, f"{self.name} ended:\n{self.sandbox.tail()}"
            return self.probe("readinessProbe")

        wait_until(f"{self.name} to be ready", ready, seconds)

    def stop(self):
        """As the kubelet does: the hook, then SIGTERM, then what is left of the grace period."""
        hook = self.container.get("lifecycle", {}).get("preStop", {})
        if "exec" in hook:
            code, told = self.sandbox.run(hook["exec"]["command"], timeout=self.spec["terminationGracePeriodSeconds"])
            assert code == 0, told
        return self.sandbox.stop(self.spec["terminationGracePeriodSeconds"])


class Release:
    def __init__(self, folder, binary, *arguments):
        self.folder, self.programs = folder, folder / "bin"
        self.programs.mkdir()
        install(binary, self.programs / "coffer")
        (self.programs / "etcd").symlink_to("/usr/bin/etcd")
        self.names, self.pods, self.jobs = Names(folder), {}, 0
        self.rendered = objects(*arguments)
        gateways = [f"127.30.1.{1 + number}" for number in range(GATEWAYS)]
        self.free_gateways = list(gateways)
        self.s3, self.admin = "127.30.0.1", "127.30.0.2"
        self.names.add(f"coffer-gateway.{DOMAIN}", self.s3)
        self.names.add(f"coffer-gateway-admin.{DOMAIN}", self.admin)
        self.gateway_addresses = gateways
        self.balancer = Balancer(folder, {"s3": (self.s3, 9000, gateways, 9001), "admin": (self.admin, 9001, gateways, 9001)})

    def find(self, kind, name):
        return next(one for one in self.rendered if (one["kind"], one["metadata"]["name"]) == (kind, name))

    def of_kind(self, kind):
        return [one for one in self.rendered if one["kind"] == kind]

    def start_pod(self, name, owner):
        component = owner["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        if component == "gateway":
            address = self.free_gateways.pop(0)
        else:
            address = f"127.30.{({'etcd': 2, 'storage': 3}[component])}.{10 + int(name.rsplit('-', 1)[1])}"
            service = owner["spec"]["serviceName"]
            if name not in {entry[0].split(".")[0] for entry in self.names.entries}:
                self.names.add(f"{name}.{service}.{DOMAIN}", address)
                self.names.add(f"{service}.{DOMAIN}", address)
        pod = self.pods[name] = Pod(self, name, owner, address)
        pod.start()
        return pod

    def scale(self):
        """Starts the pods that should be there and are not."""
        started = []
        for owner in self.of_kind("StatefulSet"):
            for number in range(owner["spec"]["replicas"]):
                name = f"{owner['metadata']['name']}-{number}"
                if name not in self.pods:
                    started.append(self.start_pod(name, owner))
        for owner in self.of_kind("Deployment"):
            running = [name for name in self.pods if name.startswith(owner["metadata"]["name"])]
            for number in range(len(running), owner["spec"]["replicas"]):
                started.append(self.start_pod(f"{owner['metadata']['name']}-{number}", owner))
        for pod in started:
            pod.wait_ready()
        return started

    def render(self, *arguments):
        self.rendered = objects(*arguments)

    def hook(self, kind):
        """Runs the jobs of a hook; returns the exit code and the output of the first that fails, else of the last."""
        code, told = 0, ""
        for job in self.of_kind("Job"):
            if job["metadata"]["annotations"]["helm.sh/hook"] == kind:
                self.jobs += 1
                pod = Pod(self, f"job-{self.jobs}", job, "127.30.4.1")
                code, told = pod.sandbox.run(pod.command(), timeout=job["spec"]["activeDeadlineSeconds"])
                if code:
                    break
        return code, told

    def test(self):
        """`helm test`."""
        pod = Pod(self, "test", next(one for one in self.of_kind("Pod")), "127.30.4.2")
        return pod.sandbox.run(pod.command())

    def restart_storage(self, number, owner):
        """As a rolling update of a StatefulSet: the pod comes back under the same name with another address."""
        name = f"{owner['metadata']['name']}-{number}"
        code = self.pods.pop(name).stop()
        assert code == 0, f"{name} ended with {code}"
        self.start_pod(name, owner).wait_ready()

    def replace_gateway(self, name, successor):
        """As a rolling update of a Deployment with a surge of one: the successor is ready before the old one goes."""
        owner = self.of_kind("Deployment")[0]
        self.start_pod(successor, owner).wait_ready()
        old = self.pods.pop(name)
        # Endpoints lose the pod when its end begins; it serves on for the hook's time.
        self.balancer.set_endpoint(self.gateway_addresses.index(old.address), False)
        subprocess.run(["sleep", str(old.container["lifecycle"]["preStop"]["sleep"]["seconds"])], check=True)
        assert old.stop() == 0
        self.balancer.set_endpoint(self.gateway_addresses.index(old.address), True)

    def end(self):
        for pod in reversed(self.pods.values()):
            try:
                pod.sandbox.stop()
            except subprocess.TimeoutExpired:
                pass
        self.balancer.stop()


def install(binary, place):
    """Puts a program in place, over one that runs."""
    new = Path(f"{place}.new")
    new.unlink(missing_ok=True)
    try:
        os.link(binary, new)
    except OSError:
        subprocess.run(["cp", binary, new], check=True)
    new.rename(place)
