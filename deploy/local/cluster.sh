#!/usr/bin/env bash
# A Coffer cluster on this machine: etcd, storage nodes, two gateways and haproxy in front, all on loopback.
#
#   deploy/local/cluster.sh start [--nodes 4] [--drives 1] [--data DIR] [--port 9000]
#   deploy/local/cluster.sh status | stop | wipe   [--data DIR]
#
# `start` installs etcd and haproxy from Debian's packages where they are missing (needs root for that only),
# builds the release binary unless COFFER_BIN names one, and prints how to use the cluster.
# `stop` ends the processes it started, by their recorded ids, and keeps the data; `wipe` stops and deletes the data.
set -euo pipefail

repo=$(cd "$(dirname "$0")/../.." && pwd)
command=${1:-help}
[ $# -gt 0 ] && shift
nodes=4 drives=1 port=9000 data=$repo/data/local
while [ $# -gt 0 ]; do
  case $1 in
    --nodes) nodes=$2; shift 2 ;;
    --drives) drives=$2; shift 2 ;;
    --port) port=$2; shift 2 ;;
    --data) data=$2; shift 2 ;;
    *) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
  esac
done
run=$data/run

install_missing() {
  local missing=()
  command -v etcd >/dev/null || missing+=(etcd-server)
  command -v haproxy >/dev/null || missing+=(haproxy)
  command -v curl >/dev/null || missing+=(curl)
  if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
  fi
}

# launch NAME COMMAND… : in the background, id and log recorded
launch() {
  local name=$1
  shift
  setsid "$@" >"$run/$name.log" 2>&1 </dev/null &
  echo $! >"$run/$name.pid"
}

alive() { [ -f "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

# wait_for NAME URL : until it answers 200, or its process is gone
wait_for() {
  for _ in $(seq 300); do
    [ "$(curl -s -o /dev/null -w '%{http_code}' "$2" || true)" = 200 ] && return 0
    alive "$run/$1.pid" || break
    sleep 0.2
  done
  echo "$1 did not become ready; the end of its log:" >&2
  tail -n 20 "$run/$1.log" >&2
  exit 1
}

write_haproxy() {
  cat >"$run/haproxy.cfg" <<CFG
defaults
  mode http
  timeout connect 2s
  timeout client 5m
  timeout server 5m
  timeout http-request 30s
  retries 2
  retry-on conn-failure empty-response
  option redispatch
frontend s3
  bind 127.0.0.1:$port
  default_backend gateways
backend gateways
  balance leastconn
  option httpchk GET /health/ready
  server gateway1 127.0.0.1:$((port + 11)) check port $((port + 21)) inter 500ms fall 2 rise 1
  server gateway2 127.0.0.1:$((port + 12)) check port $((port + 22)) inter 500ms fall 2 rise 1
CFG
}

start() {
  for pid in "$run"/*.pid; do
    if alive "$pid"; then echo "already running: $pid; stop it first" >&2; exit 1; fi
  done
  install_missing
  local bin=${COFFER_BIN:-$repo/target/release/coffer}
  [ -n "${COFFER_BIN:-}" ] || (cd "$repo" && cargo build --release --package coffer)
  mkdir -p "$run"
  umask 077
  [ -f "$run/secret" ] || head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$run/secret"
  [ -f "$run/access-key" ] || echo "${COFFER_ACCESS_KEY:-coffer}" >"$run/access-key"
  if [ ! -f "$run/secret-key" ]; then
    echo "${COFFER_SECRET_KEY:-$(head -c 20 /dev/urandom | od -An -tx1 | tr -d ' \n')}" >"$run/secret-key"
  fi
  # What was recorded at the first start is what is printed, and nothing else is used.
  unset COFFER_ACCESS_KEY COFFER_SECRET_KEY COFFER_CLUSTER_SECRET
  export COFFER_CLUSTER_SECRET_FILE=$run/secret COFFER_ACCESS_KEY_FILE=$run/access-key COFFER_SECRET_KEY_FILE=$run/secret-key

  local etcd=http://127.0.0.1:$((port + 50)) peer=http://127.0.0.1:$((port + 51))
  launch etcd etcd --data-dir "$data/etcd" --name local --initial-cluster "local=$peer" \
    --listen-client-urls "$etcd" --advertise-client-urls "$etcd" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer"
  wait_for etcd "$etcd/health"

  for i in $(seq "$nodes"); do
    launch "node$i" "$bin" storage-node --etcd "$etcd" --node-id "node$i" --bootstrap-expect "$nodes" \
      --node-address "127.0.0.1:$((port + 100 + i))" --node-admin-address "127.0.0.1:$((port + 200 + i))" \
      "$data/node$i/drive{1...$drives}"
  done
  for i in 1 2; do
    launch "gateway$i" "$bin" gateway --etcd "$etcd" \
      --address "127.0.0.1:$((port + 10 + i))" --console-address "127.0.0.1:$((port + 20 + i))"
  done
  for i in $(seq "$nodes"); do wait_for "node$i" "http://127.0.0.1:$((port + 200 + i))/health/ready"; done
  for i in 1 2; do wait_for "gateway$i" "http://127.0.0.1:$((port + 20 + i))/health/ready"; done
  write_haproxy
  launch haproxy haproxy -db -f "$run/haproxy.cfg"
  cat <<USE
Coffer runs: $nodes storage nodes x $drives drive(s), 2 gateways, haproxy on http://127.0.0.1:$port
  export AWS_ACCESS_KEY_ID=$(cat "$run/access-key") AWS_SECRET_ACCESS_KEY=$(cat "$run/secret-key") AWS_DEFAULT_REGION=us-east-1
  aws --endpoint-url http://127.0.0.1:$port s3 mb s3://first
  $bin status --endpoint http://127.0.0.1:$((port + 21))
Logs: $run/*.log    Stop: $0 stop --data $data
USE
}

stop() {
  local files=("$run"/haproxy.pid "$run"/gateway*.pid "$run"/node*.pid "$run"/etcd.pid)
  for file in "${files[@]}"; do
    [ -f "$file" ] || continue
    local pid
    pid=$(cat "$file")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 150); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
    rm -f "$file"
  done
}

case $command in
  start) start ;;
  stop) stop ;;
  wipe) stop; rm -rf "$data" ;;
  status)
    for file in "$run"/*.pid; do
      [ -f "$file" ] || { echo "nothing was started"; exit 3; }
      if alive "$file"; then state=running; else state=gone; fi
      printf '%-12s %-8s pid %s\n' "$(basename "$file" .pid)" "$state" "$(cat "$file")"
    done ;;
  *) sed -n '2,9p' "$0"; exit 2 ;;
esac
