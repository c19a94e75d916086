#!/usr/bin/env bash
# Formatting, lints, and what we depend on.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/stage.sh

stage 'formatting' cargo fmt --all --check
stage 'lints' cargo clippy --workspace --all-targets -- -D warnings
# Advisories come from a database that both tools fetch; without a way to it nobody can say that there are none.
if command -v cargo-deny >/dev/null; then
  stage 'dependencies' cargo deny check licenses bans sources
else
  printf '==> dependencies: NOT CHECKED, cargo-deny is missing: make tools\n'
fi
if ! command -v cargo-audit >/dev/null; then
  printf '==> advisories: NOT CHECKED, cargo-audit is missing: make tools\n'
elif fetched=$(cargo audit --quiet 2>&1) || ! grep -q 'fetch advisory database' <<<"$fetched"; then
  stage 'advisories' cargo audit --no-fetch --deny warnings
else
  printf '==> advisories: NOT CHECKED, their database cannot be fetched\n'
fi
