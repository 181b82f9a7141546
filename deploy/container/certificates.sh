#!/usr/bin/env bash
# certificates DIR CLUSTER_ID REGION...: the private certificate authority of a mesh and two certificates for each region.
#
# DIR/ca/ca.key, ca.crt          the authority; keep the key off the machines that serve
# DIR/REGION/ca.crt              the authority's certificate, for TLS__CA_FILE
# DIR/REGION/node.crt, node.key  proves the region to its peers: TLS__CERT_FILE, TLS__KEY_FILE
# DIR/REGION/signing.crt, .key   Ed25519, signs the region's facts: SIGNING__CERT_FILE, SIGNING__KEY_FILE
#
# Running it again changes nothing, except that it renews what ends within 30 days (the authority: a year) and adds
# regions that are new. A signing key is kept when its certificate is renewed: it is the origin's identity.
# OWNER=uid:gid hands the regions' files to that user (needs root).
set -euo pipefail
umask 077
dir=${1:?usage: certificates DIR CLUSTER_ID REGION...}
cluster=${2:?usage: certificates DIR CLUSTER_ID REGION...}
shift 2
[ $# -gt 0 ] || { echo "certificates: name at least one region" >&2; exit 2; }
day=86400

# lasts CERTIFICATE DAYS: it exists and is valid for that long.
lasts() { [ -s "$1" ] && openssl x509 -in "$1" -noout -checkend $(($2 * day)) >/dev/null; }

make_authority() {
    mkdir -p "$dir/ca"
    lasts "$dir/ca/ca.crt" 365 && return
    [ -s "$dir/ca/ca.key" ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$dir/ca/ca.key"
    openssl req -x509 -new -key "$dir/ca/ca.key" -sha256 -days 3650 -subj "/O=$cluster/CN=$cluster mesh authority" \
        -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' -addext 'keyUsage=critical,keyCertSign,cRLSign' -out "$dir/ca/ca.crt"
    echo "made the authority of $cluster"
}

# make_certificate REGION NAME USAGES DAYS: certifies DIR/REGION/NAME.key, or the key waiting in NAME.key.new.
# Key and certificate change places last, next to each other: a program that watches them reloads once both are there.
make_certificate() {
    local region=$1 name=$2 usages=$3 days=$4 base="$dir/$1/$2" key="$dir/$1/$2.key"
    [ ! -s "$key.new" ] || key=$key.new
    openssl req -new -key "$key" -subj "/O=$cluster/CN=$region $name" -out "$base.csr"
    printf '%s\n' 'basicConstraints=critical,CA:FALSE' "subjectAltName=URI:gocomet://$cluster/$region,DNS:$region" \
        'authorityKeyIdentifier=keyid' "$usages" >"$base.ext"
    openssl x509 -req -in "$base.csr" -CA "$dir/ca/ca.crt" -CAkey "$dir/ca/ca.key" -sha256 -days "$days" \
        -set_serial "0x00$(openssl rand -hex 16)" -extfile "$base.ext" -out "$base.crt.new" 2>/dev/null
    rm -f "$base.csr" "$base.ext"
    [ "$key" = "$base.key" ] || mv "$key" "$base.key"
    mv "$base.crt.new" "$base.crt"
    echo "made the $name certificate of $region"
}

make_region() {
    local region=$1
    [[ $region =~ ^[a-z0-9-]{2,40}$ ]] || { echo "certificates: '$region' is no region name ([a-z0-9-]{2,40})" >&2; exit 2; }
    mkdir -p "$dir/$region"
    if ! lasts "$dir/$region/node.crt" 30; then
        openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$dir/$region/node.key.new"
        make_certificate "$region" node $'keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth' 90
    fi
    if ! lasts "$dir/$region/signing.crt" 30; then
        [ -s "$dir/$region/signing.key" ] || openssl genpkey -algorithm ED25519 -out "$dir/$region/signing.key"
        make_certificate "$region" signing 'keyUsage=critical,digitalSignature' 730
    fi
    cp "$dir/ca/ca.crt" "$dir/$region/ca.crt"
    chmod 0700 "$dir/$region"
    [ -z "${OWNER:-}" ] || chown -R "$OWNER" "$dir/$region"
}

make_authority
for region in "$@"; do make_region "$region"; done
