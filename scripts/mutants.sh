#!/usr/bin/env bash
# The check of the checker: plants known bugs, one after the other, in a copy of this tree, and sees that the harness catches each.
# ONLY=name,... plants some.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/stage.sh

args=()
[ -z "${ONLY:-}" ] || args+=(--only "$ONLY")

stage 'requirements' scripts/requirements.sh
stage 'programs' cargo build --workspace --bins
exec target/debug/orrery-chaos mutants "${args[@]}"
