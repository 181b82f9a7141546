# `make help` lists what there is. Variables are given after the target: `make up DETACH=1 SIM=0`.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

DETACH ?= 0
SIM ?= 1
REGIONS ?= us-east,eu-west,ap-south
PORT_BASE ?= 18000
SPEED ?= 10
BENCH ?=
STATE ?= .local
PAYMENT_RUNS ?= 1000
export REGIONS PORT_BASE SPEED BENCH
export GOCOMET_STATE := $(STATE)

WEB := region-node/web
PROGRAMS := $(or $(CARGO_TARGET_DIR),target)/debug
LOCAL := $(PROGRAMS)/local
NEXTEST := $(shell command -v cargo-nextest 2>/dev/null)
# One command runs all tests, with nextest where it is installed.
TEST := $(if $(NEXTEST),cargo nextest run,cargo test --no-fail-fast)

.PHONY: help up down status test chaos simulate bench check check-deploy fix sqlx api web build tools

help: ## List all targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables of make up: DETACH=1 returns once all is ready, SIM=0 starts without simulated traffic,"
	@echo "  REGIONS=a,b chooses regions, PORT_BASE=19600 moves all ports, SPEED=10 sets the pace of the traffic."
	@echo "  STATE=.local-2 (with a PORT_BASE of its own) keeps a second cluster beside the first; make down and status take it too."
	@echo "  $(LOCAL) --help breaks the running cluster on purpose: kill, freeze, restart, link, backup, restore, region."

up: build ## Build everything and start three regions with real trips (Ctrl-C stops them)
	@exec $(LOCAL) up $(if $(filter-out 0,$(DETACH)),--detach) $(if $(filter 0,$(SIM)),--no-sim)

down: ## Stop what make up DETACH=1 started
	@if [ -x $(LOCAL) ]; then exec $(LOCAL) down; else echo "nothing runs here"; fi

status: ## Show every program and every link of the running cluster
	@exec $(LOCAL) status

test: build ## Run every test
	$(LOCAL) tools --tests
	cd $(WEB) && npm run check
	@without=; \
	if [ -z "$${CI:-}$${TERRAFORM:-}" ] && ! command -v terraform >/dev/null && ! command -v tofu >/dev/null; then \
	  without="-- --skip terraform"; fi; \
	$(LOCAL) services -- $(TEST) --workspace $$without; \
	[ -z "$$without" ] || \
	  echo "NOT TESTED: terraform/, since neither terraform nor tofu is on the PATH and this system has no package of them"

chaos: build ## Run the fault suite (PAYMENT_RUNS=1000: so often something dies in a payment)
	PAYMENT_RUNS=$(PAYMENT_RUNS) $(LOCAL) services -- $(if $(NEXTEST),cargo nextest run --profile chaos -p system-tests -E 'binary(/^chaos/)',cargo test -p system-tests --test 'chaos*')

simulate: ## Search many simulated meshes for one that breaks a law of replication (SEEDS=10000)
	SEEDS=$(or $(SEEDS),10000) cargo test --profile simulate -p global-sync --test simulation -- --nocapture

bench: tools $(WEB)/dist/index.html ## Measure, with programs built for speed (BENCH=quick, or sections: BENCH=positions,rides)
	cargo build --release --workspace --bins
	@exec $(or $(CARGO_TARGET_DIR),target)/release/bench

check: $(WEB)/dist/index.html ## Check format, lints, documentation, licences and advisories; changes nothing
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps --document-private-items
	@if command -v cargo-deny >/dev/null; then cargo deny --log-level warn check; else echo "cargo-deny is not installed: licences and advisories were not checked"; fi

check-deploy: build ## Check deploy/ and terraform/ with the tools that need no daemon (CI=true fetches those)
	deploy/check.sh

fix: ## Format and apply what the linters can mend
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

sqlx: tools ## Write .sqlx anew from the migrations
	cargo build -p deploy-local
	$(LOCAL) services -- bash -euc ' \
	  for file in migrations/*.sql; do psql -q -v ON_ERROR_STOP=1 -1 "$$DATABASE_URL" -f "$$file"; done; \
	  rm -rf .sqlx && mkdir .sqlx; \
	  find region-node global-sync shared tests -name "*.rs" -not -path "*/node_modules/*" -exec touch {} +; \
	  SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$$PWD/.sqlx" cargo check --workspace --all-targets'

api: build ## Write the API's document and the web app's types of it anew
	$(PROGRAMS)/region-node openapi > region-node/openapi.json
	cd $(WEB) && npm run api

web: $(WEB)/dist/index.html ## Build the web app

build: tools $(WEB)/dist/index.html
	cargo build --workspace

# What a newcomer must bring; Postgres and Redis are installed where they are missing.
tools:
	@missing() { echo "$$1 is missing; $$2" >&2; exit 1; }; \
	command -v cargo >/dev/null || missing cargo "install Rust from https://rustup.rs"; \
	command -v cc >/dev/null || missing "a C compiler (cc)" "install gcc or clang with the system's package manager"; \
	command -v node >/dev/null || missing node "install Node.js 20.19 or newer"; \
	command -v npm >/dev/null || missing npm "install it beside Node.js"; \
	node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' || missing "Node.js 20.19" "this is $$(node --version): install a newer one"

WEB_SOURCES := $(shell find $(WEB) -type f -not -path '*/node_modules/*' -not -path '*/dist/*' -not -path '*/e2e/*' -not -path '*/test-results/*' 2>/dev/null)

$(WEB)/node_modules/.package-lock.json: $(WEB)/package.json $(WEB)/package-lock.json | tools
	cd $(WEB) && npm ci --no-audit --no-fund
	@touch $@

$(WEB)/dist/index.html: $(WEB)/node_modules/.package-lock.json $(WEB_SOURCES)
	cd $(WEB) && npm run build
	@touch $@
