# What a person does here, a target each. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help dev bench test chaos mutants races check tools clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

dev: ## Run coordinator, agent and UI in one process; nothing else is needed
	cargo run --release -- dev

bench: ## Measure this machine, beside PostgreSQL's raw limit, in about ten minutes; ONLY="throughput latency" for some, ARGS=... for other sizes
	cargo build --release
	target/release/orrery bench --quick $(ARGS) $(ONLY)

test: ## Run every test, on PostgreSQL and Redis of its own; ONLY="name" or ONLY="-p crate name" for some
	@ONLY='$(ONLY)' scripts/test.sh

chaos: ## Break a whole Orrery in every way, for MINUTES=8; ONLY=fault,... for some faults, SEED=n to make the same choices again
	@SEED='$(SEED)' MINUTES='$(MINUTES)' ONLY='$(ONLY)' scripts/chaos.sh

mutants: ## Plant bugs and see that `make chaos` catches each; ONLY=name,... for some
	@ONLY='$(ONLY)' scripts/mutants.sh

races: ## Race cancel, completion, expiry and time-out 100,000 times on each engine, and try 500 series of calls on the model
	ORRERY_RACES=100000 ORRERY_CASES=500 scripts/with-servers.sh cargo test -p orrery-server --test store -- races model --nocapture

check: ## Formatting, lints, licences and advisories
	@scripts/check.sh

tools: ## Install what `make check` asks: cargo-deny and cargo-audit
	cargo install --locked cargo-deny cargo-audit

clean: ## Remove what was built
	cargo clean
