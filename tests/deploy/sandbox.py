"""Processes with the files, addresses and rights that a container or a service has: nothing of the host but programs.

Each has a loopback address of its own and finds others by name; its root is read-only, it is no root user and has no
capabilities. Needs root and bubblewrap."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

USER = 10001


def possible():
    """Whether sandboxes can be made here."""
    return os.geteuid() == 0 and subprocess.run(["bwrap", "--ro-bind", "/", "/", "true"], capture_output=True).returncode == 0


def wait_until(what, done, seconds=120):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.2)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return answer.status == 200
    except OSError:
        return False


class Names:
    """What `/etc/hosts` of all sandboxes says; changes reach those that run."""

    def __init__(self, folder):
        self.path, self.entries = folder / "hosts", []
        self.write()

    def add(self, name, address):
        self.entries.append((name, address))
        self.write()

    def write(self):
        # In place: the file is bound into sandboxes.
        with self.path.open("w") as file:
            file.write("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in self.entries))


class Sandbox:
    """One container's or service's surroundings. `binds` maps a path inside to one outside; those in `writable` may be written."""

    def __init__(self, folder, name, programs, names, binds=None, writable=None, environment=None):
        self.folder, self.name = folder / name, name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log, self.environment, self.process, self.pid = self.folder / "log", environment or {}, None, None
        own = ["--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
               "--symlink", "usr/lib64", "/lib64", "--tmpfs", "/usr/local", "--ro-bind", str(programs), "/usr/local/bin",
               "--perms", "0755", "--dir", "/etc", "--ro-bind", "/etc/nsswitch.conf", "/etc/nsswitch.conf",
               "--ro-bind", str(names.path), "/etc/hosts", "--proc", "/proc", "--dev", "/dev"]
        made = set()
        for kind, paths in (("--ro-bind", binds or {}), ("--bind", writable or {})):
            for inside, outside in paths.items():
                for parent in reversed(Path(inside).parents):
                    if str(parent) not in ("/", "/etc", *made):
                        own += ["--perms", "0755", "--dir", str(parent)]
                        made.add(str(parent))
                own += [kind, str(outside), inside]
        rights = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs",
                  "--bounding-set=-all", "--inh-caps=-all"]
        self.prefix = ["bwrap", "--tmpfs", "/", *own, "--remount-ro", "/", "--cap-add", "ALL", "--clearenv"]
        self.rights = rights

    def command(self, arguments):
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", **self.environment}
        set_environment = [part for key, value in environment.items() for part in ("--setenv", key, value)]
        return [*self.prefix, *set_environment, "--", *self.rights, *arguments]

    def start(self, arguments):
        read, write = os.pipe()
        command = self.command(arguments)
        command[1:1] = ["--die-with-parent", "--json-status-fd", str(write)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log.open("ab"), stderr=subprocess.STDOUT,
                                        pass_fds=[write])
        os.close(write)
        # Stays open: bubblewrap tells the end there, too.
        self.status = os.fdopen(read)
        self.pid = json.loads(self.status.readline())["child-pid"]

    def run(self, arguments, timeout=300):
        """Runs a command to its end in the same surroundings."""
        done = subprocess.run(self.command(arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        return done.returncode, done.stdout + done.stderr

    def ask(self, arguments):
        """What a command prints as JSON."""
        done = subprocess.run(self.command(arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def stop(self, seconds=60):
        """Tells it to stop, and returns its exit code."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        if process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise

    def tail(self):
        return self.log.read_text()[-3000:] if self.log.exists() else ""


class Balancer:
    """haproxy: the services of a cluster. Backends are told which of their servers are endpoints."""

    def __init__(self, folder, fronts):
        # A server that is slow to answer a check is not away; one that is refuses the connection.
        # fronts: {name: (address, port, [server addresses], check port)}
        self.control = folder / "haproxy.sock"
        text = ("global\n stats socket " + str(self.control) + " level admin\ndefaults\n mode http\n timeout connect 10s\n"
                " timeout check 10s\n timeout client 5m\n timeout server 5m\n timeout http-request 30s\n"
                " retries 2\n retry-on conn-failure empty-response\n option redispatch\n")
        for name, (address, port, servers, check) in fronts.items():
            text += f"frontend {name}\n bind {address}:{port}\n default_backend {name}\n"
            text += f"backend {name}\n balance leastconn\n option httpchk GET /health/ready\n"
            for number, server in enumerate(servers):
                text += f" server s{number} {server}:{port} check port {check} inter 500ms fall 2 rise 1\n"
        self.fronts = list(fronts)
        config = folder / "haproxy.cfg"
        config.write_text(text)
        self.process = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stdin=subprocess.DEVNULL,
                                        stdout=(folder / "haproxy.log").open("ab"), stderr=subprocess.STDOUT)

    def set_endpoint(self, number, there):
        """Whether a server is among the endpoints of its services."""
        for front in self.fronts:
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(str(self.control))
                control.sendall(f"set server {front}/s{number} state {'ready' if there else 'drain'}\n".encode())
                control.recv(1000)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


class Load:
    """Writes, reads and lists all the time, through one address and without any retry of its own. Every object that was acknowledged must
    read as it was written."""

    def __init__(self, endpoint, access_key, secret_key, threads=3):
        import boto3
        from botocore.config import Config

        config = Config(retries={"total_max_attempts": 1}, read_timeout=120, connect_timeout=60, s3={"addressing_style": "path"})
        self.clients = [boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=access_key, aws_secret_access_key=secret_key,
                                     region_name="us-east-1", config=config) for _ in range(threads)]
        self.requests, self.failures, self.over = 0, [], threading.Event()
        self.lock = threading.Lock()
        self.clients[0].create_bucket(Bucket="load")
        self.threads = [threading.Thread(target=self.work, args=(number,), daemon=True) for number in range(threads)]
        for thread in self.threads:
            thread.start()

    def attempt(self, what, call):
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - each is a failed request
            with self.lock:
                self.failures.append(f"{time.strftime('%T')} {what}: {error!r}")
            return None
        with self.lock:
            self.requests += 1
        return result

    def work(self, thread):
        s3, number = self.clients[thread], 0
        while not self.over.is_set():
            key = f"{thread}/{number % 50}"
            size = (100, 20_000, 600_000)[number % 3]
            body = bytes([number % 251]) * size
            if self.attempt(f"PUT {key}", lambda: s3.put_object(Bucket="load", Key=key, Body=body)) is not None:
                got = self.attempt(f"GET {key}", lambda: s3.get_object(Bucket="load", Key=key)["Body"].read())
                if got is not None and got != body:
                    self.failures.append(f"GET {key} reads otherwise")
            if number % 10 == 9:
                self.attempt("LIST", lambda: s3.list_objects_v2(Bucket="load"))
            number += 1

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()
        return self.requests, self.failures
