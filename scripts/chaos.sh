#!/usr/bin/env bash
# Faults against a whole Orrery of real processes, with a PostgreSQL and a Redis of their own; at the end a table. SEED=n makes the same
# choices again, MINUTES=n bounds it (8 where it is not given), ONLY=fault,... runs some, ARGS are further arguments of `orrery-chaos run`.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/stage.sh

read -r -a args <<<"${ARGS:-}"
[ -z "${SEED:-}" ] || args+=(--seed "$SEED")
[ -z "${MINUTES:-}" ] || args+=(--minutes "$MINUTES")
[ -z "${ONLY:-}" ] || args+=(--only "$ONLY")

stage 'requirements' scripts/requirements.sh
stage 'programs' cargo build --workspace --bins
exec target/debug/orrery-chaos run "${args[@]}"
