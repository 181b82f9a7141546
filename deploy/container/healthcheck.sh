#!/usr/bin/env bash
# healthcheck PORT PATH: succeeds when http://127.0.0.1:PORT/PATH answers 200.
# Bash's own sockets, so that the runtime image carries no HTTP client an intruder could use.
set -euo pipefail
port=${1:?port}
path=${2:?path}
exec 3<>"/dev/tcp/127.0.0.1/$port"
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$path" >&3
IFS=' ' read -r -t 2 _ status _ <&3
[ "$status" = 200 ]
