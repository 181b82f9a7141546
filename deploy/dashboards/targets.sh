#!/usr/bin/env bash
# targets.sh CLUSTER_JSON DIR: writes Prometheus targets for every region of a running demo, one file per program.
set -euo pipefail
cluster=${1:?usage: targets.sh CLUSTER_JSON DIR}
dir=${2:?usage: targets.sh CLUSTER_JSON DIR}
mkdir -p "$dir"
targets() { # KEY: the regions' address under that key, as Prometheus wants it
    jq --arg key "$1" '[.regions[] | {targets: [.[$key] | sub("^https?://"; "") | sub("/.*$"; "")], labels: {region: .name}}]' "$cluster"
}
targets http >"$dir/region-node.json"
targets sync_status_url >"$dir/global-sync.json"
