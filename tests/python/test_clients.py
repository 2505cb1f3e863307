"""Other people's clients, each with the settings and the command that the README's table names: a round trip of a small object and of
one that goes in parts (over 16 MiB), a listing, and the deletes. Those that no registry of `tests/run` carries are skipped where they are not
installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ACCESS_KEY, SECRET_KEY

HERE = Path(__file__).parent
KEY = "a folder/small ü"


@pytest.fixture
def client(server, tmp_path):
    """Runs a client's command, with nothing of the caller's own settings."""
    host = server.endpoint.removeprefix("http://")
    home = tmp_path / "home"
    home.mkdir()
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(home), "LC_ALL": "C.UTF-8",
                   "ENDPOINT": server.endpoint, "NODE_PATH": os.environ.get("NODE_PATH", ""),
                   "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1",
                   "RCLONE_CONFIG_COFFER_TYPE": "s3", "RCLONE_CONFIG_COFFER_PROVIDER": "Other",
                   "RCLONE_CONFIG_COFFER_ENDPOINT": server.endpoint, "RCLONE_CONFIG_COFFER_ENV_AUTH": "true",
                   "MC_HOST_coffer": f"http://{ACCESS_KEY}:{SECRET_KEY}@{host}"}
    (home / ".s3cfg").write_text(f"[default]\naccess_key = {ACCESS_KEY}\nsecret_key = {SECRET_KEY}\nhost_base = {host}\nhost_bucket = {host}\n"
                                 "use_https = False\n")

    def run(*command):
        if shutil.which(command[0], path=environment["PATH"]) is None:
            pytest.skip(f"{command[0]} is not installed")
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
        return ended.stdout

    return run


@pytest.fixture
def tree(tmp_path):
    """A folder with a small file and a large one."""
    tree = tmp_path / "tree"
    (tree / KEY).parent.mkdir(parents=True)
    (tree / KEY).write_bytes(b"small")
    (tree / "large").write_bytes(os.urandom(40 * 1024 * 1024 + 7))
    return tree


# What copies a folder there and back, lists and deletes. `{x}` are filled in.
COMMANDS = {
    "s3cmd": ["s3cmd sync {tree}/ s3://{bucket}/tree/", "s3cmd sync s3://{bucket}/tree/ {back}/", "s3cmd ls --recursive s3://{bucket}",
              "s3cmd del --recursive --force s3://{bucket}"],
    "rclone": ["rclone copy --s3-upload-cutoff 16M --s3-chunk-size 8M {tree} coffer:{bucket}/tree", "rclone copy coffer:{bucket}/tree {back}",
               "rclone lsf --recursive coffer:{bucket}", "rclone purge coffer:{bucket}/tree"],
    "mc": ["mc cp --recursive {tree}/ coffer/{bucket}/tree/", "mc cp --recursive coffer/{bucket}/tree/ {back}/", "mc ls --recursive coffer/{bucket}",
           "mc rm --recursive --force coffer/{bucket}/tree"],
    "s5cmd": ["s5cmd --endpoint-url {endpoint} cp --part-size 16 {tree}/ s3://{bucket}/tree/",
              "s5cmd --endpoint-url {endpoint} cp s3://{bucket}/tree/* {back}/", "s5cmd --endpoint-url {endpoint} ls s3://{bucket}/*",
              "s5cmd --endpoint-url {endpoint} rm s3://{bucket}/*"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_copies_a_folder_there_and_back(server, s3, bucket, client, tree, tmp_path, name):
    back = tmp_path / "back"
    back.mkdir()
    places = {"tree": tree, "back": back, "bucket": bucket, "endpoint": server.endpoint}
    put, get, ls, delete = ([word.format(**places) for word in command.split()] for command in COMMANDS[name])
    client(*put)
    assert sorted(o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]) == [f"tree/{KEY}", "tree/large"]
    assert "-" in s3.head_object(Bucket=bucket, Key="tree/large")["ETag"], "the large one goes in parts"
    client(*get)
    for key in (KEY, "large"):
        assert (back / key).read_bytes() == (tree / key).read_bytes(), key
    listed = client(*ls)
    assert "small ü" in listed and "large" in listed
    client(*delete)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


# Each program does all of it by itself, in a bucket that it makes, and exits with 0.
PROGRAMS = ["python3 minio-py.py", "node minio-js.cjs", "node aws-sdk-js.cjs", "minio-go"]
MOUNT = "s3fs {bucket} {point} -o url={endpoint},use_path_request_style,passwd_file={passwords}"


def test_the_readme_names_what_is_run():
    table = (HERE.parents[1] / "README.md").read_text()
    names = dict(tree="tree", bucket="first", endpoint="http://127.0.0.1:9000", point="point", passwords="passwords")
    expected = [commands[0].format(**names) for commands in COMMANDS.values()] + [MOUNT.format(**names)]
    for program, *script in map(str.split, PROGRAMS):
        expected.append(" ".join(["ENDPOINT=http://127.0.0.1:9000", program, *(f"tests/python/clients/{name}" for name in script)]))
    assert [command for command in expected if f"| `{command}` |" not in table] == []


@pytest.mark.parametrize("command", PROGRAMS)
def test_a_library_makes_a_round_trip(client, command):
    program, *script = command.split()
    if program == "node" and "NODE_PATH" not in os.environ:
        pytest.skip("NODE_PATH names no folder of packages")
    client(program, *(str(HERE / "clients" / name) for name in script))


def test_s3fs_is_a_folder(server, s3, bucket, client, tree, tmp_path):
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no FUSE here")
    point, passwords = tmp_path / "point", tmp_path / "passwords"
    point.mkdir()
    passwords.write_text(f"{ACCESS_KEY}:{SECRET_KEY}")
    passwords.chmod(0o600)
    client(*(word.format(bucket=bucket, point=point, endpoint=server.endpoint, passwords=passwords) for word in MOUNT.split()))
    try:
        shutil.copytree(tree, point / "tree")
        assert "-" in s3.head_object(Bucket=bucket, Key="tree/large")["ETag"], "the large one goes in parts"
        assert sorted(os.listdir(point / "tree")) == [KEY.split("/")[0], "large"]
        for key in (KEY, "large"):
            assert (point / "tree" / key).read_bytes() == (tree / key).read_bytes(), key
        shutil.rmtree(point / "tree")
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    finally:
        client("fusermount", "-u", str(point))
