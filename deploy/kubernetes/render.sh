#!/usr/bin/env bash
# Renders coffer.yaml from the chart; `tests/deploy` checks that it is up to date.
set -euo pipefail
cd "$(dirname "$0")"
"${HELM:-helm}" template coffer ../helm/coffer --namespace coffer --values values.yaml --skip-tests --no-hooks >coffer.yaml
