"""What dashboards and alerts read."""

import re
from pathlib import Path

import requests

REPO = Path(__file__).resolve().parents[2]


def test_each_drive_and_whatever_the_chart_warns_of_is_there(server):
    texts = [requests.get(f"{admin}/metrics", timeout=60).text for admin in server.admins]
    rules = (REPO / "deploy/helm/coffer/templates/monitoring.yaml").read_text()
    for name in {*re.findall("coffer_[a-z_]+", rules), "coffer_background_limit", "coffer_background_slowdown"}:
        assert all(re.search(rf"^{name}(\{{.*\}})? [0-9.e+]+$", text, re.M) for text in texts), name
    up = [re.findall(r'^coffer_drive_up\{.*path="([^"]+)".*\} 1$', text, re.M) for text in texts]
    assert all(paths for paths in up) and len({path for paths in up for path in paths}) == 4
