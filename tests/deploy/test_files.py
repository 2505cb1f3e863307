"""Every file below `deploy/` is what the programs that read it accept."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helm import CHART, REPO, objects, run, template

VALUES = sorted((CHART / "ci").glob("*.yaml"))
TOOLS = Path(sys.executable).parent
KUBERNETES = ["1.30", "1.33", "1.36"]
COMPONENTS = {"gateway", "storage", "etcd", "job"}


def passes(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def with_auth(*arguments):
    return run("template", "x", CHART, "--set", "auth.existingSecret=a", *arguments, check=False)


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_chart_renders_what_kubernetes_accepts(values, tmp_path):
    assert run("lint", "--strict", CHART, "--values", values, check=False).returncode == 0
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(template("--values", values))
    for version in KUBERNETES:
        told = passes(TOOLS / "kubernetes-validate", "--kubernetes-version", version, "--strict", rendered)
        assert "passed" in told
    passes(TOOLS / "yamllint", "--strict", "--config-data",
           "{extends: relaxed, rules: {line-length: disable, indentation: disable, empty-lines: disable, trailing-spaces: enable}}", rendered)


def pod_specs(rendered):
    for one in rendered:
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield one, one["spec"]["template"]["metadata"], one["spec"]["template"]["spec"]
        elif one["kind"] == "Pod":
            yield one, one["metadata"], one["spec"]


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_chart_keeps_the_usual_rules(values):
    rendered = objects("--values", values)
    names = {(one["kind"], one["metadata"]["name"]) for one in rendered}
    assert len(names) == len(rendered), "an object is there twice"
    for one, metadata, spec in pod_specs(rendered):
        name = one["metadata"]["name"]
        assert metadata["labels"]["app.kubernetes.io/component"] in COMPONENTS, name
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", name
        assert spec["automountServiceAccountToken"] is False, name
        volumes = {volume["name"] for volume in spec.get("volumes") or []}
        volumes |= {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])}
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"], name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["requests"] and container["resources"]["limits"]["memory"], name
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name
            variables = [variable["name"] for variable in container["env"]]
            assert len(variables) == len(set(variables)), f"{name}: a variable is there twice"
            if one["kind"] in ("Deployment", "StatefulSet"):
                assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), name
                # Liveness must not depend on etcd or on a quorum.
                live = container["livenessProbe"]
                assert live.get("httpGet", {"path": "/health/live"})["path"] == "/health/live", name
    selectors = [one for one in rendered if one["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy")]
    labels = [metadata["labels"] for _, metadata, _ in pod_specs(rendered)]
    for one in selectors:
        spec = one["spec"]
        wanted = spec.get("selector") or spec.get("podSelector")
        wanted = wanted.get("matchLabels", wanted)
        assert any(wanted.items() <= label.items() for label in labels), f"{one['metadata']['name']} selects nothing"


def test_alerts_say_what_is_wrong_and_nothing_else():
    arguments = ("--set", "auth.existingSecret=a", "--set", "metrics.prometheusRule.enabled=true")
    rules = [rule for one in objects(*arguments) if one["kind"] == "PrometheusRule" for group in one["spec"]["groups"] for rule in group["rules"]]
    assert rules
    for rule in rules:
        # A comma in a text without quotes would begin another annotation.
        assert rule["annotations"].keys() <= {"summary", "description"} and all(rule["annotations"].values()), rule["alert"]


def test_network_policies_let_only_gateways_and_nodes_reach_nodes():
    policies = {one["metadata"]["name"]: one["spec"] for one in objects("--values", VALUES[0]) if one["kind"] == "NetworkPolicy"}
    rule = next(rule for rule in policies["coffer-storage"]["ingress"] if rule["ports"] == [{"port": "node"}])
    assert len(rule["from"]) == 1
    allowed = rule["from"][0]["podSelector"]["matchExpressions"]
    assert allowed == [{"key": "app.kubernetes.io/component", "operator": "In", "values": ["gateway", "storage"]}]


def test_budgets_follow_the_quorum():
    def may_be_away(*arguments):
        budgets = [one for one in objects("--set", "auth.existingSecret=a", *arguments) if one["kind"] == "PodDisruptionBudget"]
        return next(one for one in budgets if one["metadata"]["name"] == "coffer-storage")["spec"]["maxUnavailable"]

    def pool(replicas, drives):
        return ("--set-json", f'storage.pools=[{{"name":"storage","replicas":{replicas},"drives":{drives},"size":"1Gi"}}]')

    # (nodes, drives a node): a stripe of n slots is written by n/2 + 1.
    for shape, expected in {(1, 4): 0, (2, 1): 0, (2, 8): 0, (3, 1): 1, (3, 2): 1, (4, 1): 1, (4, 2): 1, (4, 4): 1, (6, 2): 1, (20, 3): 1}.items():
        nodes, drives = shape
        width = min(16, nodes * max(1, min(drives, 16 // nodes)))
        slots = max(1, min(drives, 16 // nodes))
        assert expected == int(width - slots >= width // 2 + 1), shape
        assert may_be_away(*pool(*shape)) == expected, shape


def test_pods_do_not_restart_when_replicas_change():
    def pods(replicas):
        rendered = objects("--set", "auth.existingSecret=a", "--set-json",
                           f'storage.pools=[{{"name":"storage","replicas":{replicas},"drives":1,"size":"1Gi"}}]')
        return {one["metadata"]["name"]: one["spec"]["template"] for one in rendered if one["kind"] in ("StatefulSet", "Deployment")}

    assert pods(4) == pods(5)


def test_rendering_twice_gives_the_same():
    for values in VALUES:
        assert template("--values", values) == template("--values", values)


@pytest.mark.parametrize("arguments, names", [
    ((), "auth.existingSecret"),
    (("--set", "auth.accessKey=a"), "auth.secretKey"),
    (("--set", "auth.existingSecret=a", "--set", "tls.enabled=true"), "tls.existingSecret"),
    (("--set", "auth.existingSecret=a", "--set", "etcd.internal.enabled=false"), "etcd.endpoints"),
    (("--set", "auth.existingSecret=a", "--set", "etcd.internal.replicas=2"), "replicas"),
    (("--set", "auth.existingSecret=a", "--set", "gateway.ingress.enabled=true"), "gateway.ingress.hosts"),
    (("--set", "auth.existingSecret=a", "--set", "gatewy.replicas=2"), "gatewy"),
    (("--set", "auth.existingSecret=a", "--set", "storage.pools[0].name=Bad"), "name"),
    (("--set", "auth.existingSecret=a", "--set-json", "storage.pools=[]"), "pools"),
    (("--set", "auth.existingSecret=a", "--set", "storage.purgePeriod=often"), "purgePeriod"),
    (("--set", "auth.existingSecret=a", "--set", "storage.backgroundSlowdown=1"), "backgroundSlowdown"),
])
def test_wrong_values_are_named(arguments, names):
    refused = run("template", "coffer", CHART, *arguments, check=False)
    assert refused.returncode != 0 and names in refused.stderr, refused.stderr


def test_every_value_is_in_the_schema_and_in_use():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    templates = "".join(path.read_text() for path in CHART.rglob("templates/**/*") if path.is_file())
    for name, part in values.items():
        for key in part if isinstance(part, dict) else {}:
            assert re.search(rf"\.{key}\b|\"{key}\"", templates) or name in ("podSecurityContext", "containerSecurityContext"), f"{name}.{key} is not used"


def test_plain_manifests_are_the_charts():
    folder = REPO / "deploy/kubernetes"
    rendered = template("--values", folder / "values.yaml", "--skip-tests", "--no-hooks")
    assert (folder / "coffer.yaml").read_text() == rendered, "run deploy/kubernetes/render.sh"


def test_dockerfile():
    passes(TOOLS / "hadolint", REPO / "deploy/docker/Dockerfile")


def test_compose():
    compose = REPO / "deploy/compose/compose.yaml"
    passes(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", compose)
    services = yaml.safe_load(compose.read_text())["services"]
    for service in services.values():
        assert set(service.get("depends_on", [])) <= services.keys()


@pytest.mark.parametrize("unit", sorted((REPO / "deploy/systemd").glob("*.service")), ids=lambda path: path.stem)
def test_systemd_units(unit, tmp_path):
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/usr/local/bin/coffer", shutil.which("true")))
    assert passes("systemd-analyze", "verify", "--man=no", copy) == ""
    told = passes("systemd-analyze", "security", "--offline=true", "--threshold=20", copy)
    assert "Overall exposure level" in told


def test_haproxy():
    passes("haproxy", "-c", "-f", REPO / "deploy/proxies/haproxy.cfg")
    passes("haproxy", "-c", "-f", REPO / "deploy/compose/haproxy.cfg")


def test_nginx(tmp_path):
    passes("nginx", "-t", "-p", tmp_path, "-c", REPO / "deploy/proxies/nginx.conf")


def test_envoy_is_yaml_with_known_parts():
    envoy = yaml.safe_load((REPO / "deploy/proxies/envoy.yaml").read_text())["static_resources"]
    route = envoy["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert route["normalize_path"] is False and route["merge_slashes"] is False
    names = {cluster["name"] for cluster in envoy["clusters"]}
    assert route["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["cluster"] in names
