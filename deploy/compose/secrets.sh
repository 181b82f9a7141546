#!/usr/bin/env bash
# secrets.sh [DIR]: makes the passwords and keys compose.yaml reads, in ./secrets or DIR; what exists is kept.
# Only random values: a password is known to its database and to the program that signs in with it, and to nobody else.
set -euo pipefail
umask 077
dir=${1:-$(dirname "$0")/secrets}
regions=(us-east eu-west ap-south)

# Hexadecimal, so that it needs no escaping in a URL, in SQL or in an env file.
random() { head -c "$1" /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

mkdir -p "$dir"
# One operator signs in at every region.
[ -s "$dir/operator.env" ] || cat >"$dir/operator.env" <<END
REGION_NODE_OPERATOR__CLIENT_ID=operator
REGION_NODE_OPERATOR__CLIENT_SECRET=$(random 24)
END
[ -s "$dir/grafana" ] || random 16 >"$dir/grafana"

for region in "${regions[@]}"; do
    mkdir -p "$dir/$region"
    [ -s "$dir/$region/global-sync.env" ] && continue
    owner=$(random 24) app=$(random 24) system=$(random 24) sync=$(random 24)
    random 24 >"$dir/$region/postgres"
    cat >"$dir/$region/roles.env" <<END
gocomet_owner=$owner
gocomet_app=$app
gocomet_system=$system
gocomet_sync=$sync
END
    cat "$dir/operator.env" - >"$dir/$region/region-node.env" <<END
REGION_NODE_DATABASE__URL=postgres://gocomet_app:$app@postgres:5432/gocomet
REGION_NODE_DATABASE__SYSTEM_URL=postgres://gocomet_system:$system@postgres:5432/gocomet
REGION_NODE_DATABASE__MIGRATE_URL=postgres://gocomet_owner:$owner@postgres:5432/gocomet
REGION_NODE_SECRETS__MASTER_KEY=$(head -c 32 /dev/urandom | base64 | tr -d '\n')
END
    # The last one written: it marks the region as complete.
    cat >"$dir/$region/global-sync.env" <<END
GLOBAL_SYNC_DATABASE__URL=postgres://gocomet_sync:$sync@postgres:5432/gocomet
END
    echo "made the secrets of $region in $dir/$region"
done
# Postgres reads its secret files as its own user, through a bind mount that keeps the modes: the folders alone are closed.
chmod 0644 "$dir"/*/postgres "$dir"/*/roles.env "$dir/grafana"
