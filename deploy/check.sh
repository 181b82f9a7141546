#!/usr/bin/env bash
# deploy/check.sh [--install] [--strict]: checks everything in deploy/ and terraform/ with the tools that need no daemon.
#
# A tool that is missing is named with what was not checked for it; nothing is left out in silence. --install (implied by CI=true)
# fetches missing tools: Debian packages, and into target/check-tools what Debian does not have. --strict (implied too) makes
# what a Debian package could have checked a failure. Ends with 'N passed, N failed, N skipped'.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
install=${CI:-false}
strict=${CI:-false}
for argument in "$@"; do
    case $argument in
    --install) install=true ;;
    --strict) strict=true ;;
    *)
        sed -n '2,6s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
    esac
done
export CHECKPOINT_DISABLE=1 TF_IN_AUTOMATION=1
# A configuration file that is named but missing would only add warnings to every answer.
[ -e "${TF_CLI_CONFIG_FILE:-/}" ] || unset TF_CLI_CONFIG_FILE
tools=$PWD/target/check-tools
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=0 failed=0 skipped=0

# check NAME COMMAND...: runs it silently; its output is shown when it fails.
check() {
    local name=$1
    shift
    if "$@" >"$scratch/out" 2>&1 </dev/null; then
        passed=$((passed + 1))
        printf 'ok    %s\n' "$name"
    else
        failed=$((failed + 1))
        printf 'FAIL  %s\n' "$name"
        sed 's/^/      /' "$scratch/out"
    fi
}
# missing NAME TOOL HOW: says what is not checked and how to get the tool.
missing() {
    if [ "$strict" = true ] && [[ $3 == apt-get* ]]; then
        failed=$((failed + 1))
        printf 'FAIL  %s: %s is missing (%s)\n' "$1" "$2" "$3"
    else
        skipped=$((skipped + 1))
        printf 'SKIP  %s: NOT CHECKED, %s is missing (%s)\n' "$1" "$2" "$3"
    fi
}
have() { command -v "$1" >/dev/null 2>&1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

# shellcheck source=deploy/checks/tools.sh
. deploy/checks/tools.sh
# shellcheck source=deploy/checks/parts.sh
. deploy/checks/parts.sh

[ "$install" != true ] || install_tools
find_tools
check_scripts
check_images
check_compose
check_systemd
check_kubernetes
check_programs
check_dashboards
check_terraform
[ "$skipped" = 0 ] || echo "Run deploy/check.sh --install to fetch what is missing."
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" = 0 ]
