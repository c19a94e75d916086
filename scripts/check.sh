#!/usr/bin/env bash
# Formatting, lints, and what we depend on.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/stage.sh

stage 'formatting' cargo fmt --all --check
stage 'lints' cargo clippy --workspace --all-targets -- -D warnings
if command -v cargo-deny >/dev/null; then
  stage 'dependencies' cargo deny check licenses bans sources
  if cargo deny fetch db >/dev/null 2>&1; then
    stage 'advisories' cargo deny check --disable-fetch advisories
  else
    printf '==> advisories: NOT CHECKED, their database cannot be fetched\n'
  fi
else
  printf '==> dependencies: NOT CHECKED, cargo-deny is missing: cargo install --locked cargo-deny\n'
fi
