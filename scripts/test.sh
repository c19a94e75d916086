#!/usr/bin/env bash
# Every test, with the servers that they need. ONLY="name" or ONLY="-p crate --test file name" runs some, without formatting and lints.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/stage.sh

# Words of ONLY go to `cargo test` as they are.
read -r -a only <<<"${ONLY:-}"
scope=(--workspace)
for word in "${only[@]}"; do
  case $word in -p | -p?* | --package | --package=*) scope=() ;; esac
done

stage 'requirements' scripts/requirements.sh
if [ ${#only[@]} -eq 0 ]; then
  stage 'formatting' cargo fmt --all --check
  stage 'lints' cargo clippy --workspace --all-targets -- -D warnings
fi
# Some tests run the programs, those of other packages as well: they must be there, and be today's.
stage 'programs' cargo build --workspace --bins
stage 'tests' scripts/with-servers.sh cargo test "${scope[@]}" "${only[@]}"
printf '==> all done in %s s\n' "$SECONDS"
