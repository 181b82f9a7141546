#!/usr/bin/env bash
# example-local.sh PROGRAM STATE_DIR [REGION]: lives through examples/local against a running demo: adds REGION (sa-east), sees that
# nothing is left to do, takes it out of the list, adds it again, destroys it. Works on a copy, so the state of a user's own apply is never touched.
# TERRAFORM names another program than terraform, such as tofu.
set -euo pipefail
program=$(realpath "${1:?usage: example-local.sh PROGRAM STATE_DIR [REGION]}")
state_dir=$(realpath "${2:?usage: example-local.sh PROGRAM STATE_DIR [REGION]}")
region=${3:-sa-east}
scratch=$(mktemp -d)
cp -R "$(dirname "$0")/../modules" "$(dirname "$0")/../examples" "$scratch"
example=$scratch/examples/local
rm -rf "$example"/.terraform "$example"/*.tfstate*
export TF_IN_AUTOMATION=1 CHECKPOINT_DISABLE=1
say() { printf 'terraform example: %s\n' "$*"; }
fail() {
    say "FAILED: $*"
    exit 1
}
tf() { "${TERRAFORM:-terraform}" -chdir="$example" "$@"; }
settings=(-var "program=$program" -var "state_dir=$state_dir" -input=false -no-color)
apply() { tf apply -auto-approve "${settings[@]}" -var "regions={$1}" >"$scratch/log" 2>&1 || { cat "$scratch/log"; fail "apply"; }; }
destroy() { tf destroy -auto-approve "${settings[@]}" -var "regions={$region={}}" >"$scratch/log" 2>&1 || { cat "$scratch/log"; fail "destroy"; }; }
runs() { grep -q "\"name\": *\"$region\"" "$state_dir/cluster.json"; }
finish() {
    # Whatever went wrong, the demo is left as it was found.
    [ ! -s "$example/terraform.tfstate" ] || destroy || true
    rm -rf "$scratch"
}
trap finish EXIT

! runs || fail "$region runs already"
tf init -backend=false -input=false -no-color >"$scratch/log" 2>&1 || { cat "$scratch/log"; fail "init"; }

apply "$region={}"
runs || fail "after apply $region is not in cluster.json"
address=$(tf output -json regions | tr -d ' \n' | grep -o '"http":"[^"]*"') || fail "the output names no address"
say "$region answers at $address"

tf plan -detailed-exitcode "${settings[@]}" -var "regions={$region={}}" >"$scratch/log" 2>&1 || { cat "$scratch/log"; fail "a second plan still has something to do"; }
say "a second plan has nothing to do"

apply ""
! runs || fail "taken out of the list, $region still runs"
say "taken out of the list, $region is removed"

apply "$region={}"
runs || fail "added again, $region is not in cluster.json"
destroy
! runs || fail "after destroy $region still runs"
say "added again and destroyed"
