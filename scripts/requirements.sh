#!/usr/bin/env bash
# Sees to it that everything that the tests need is there. Root on Debian: installs what is missing. Otherwise: says what is missing, exit status 1.
set -euo pipefail

# Prints the directory of the newest PostgreSQL's programs, 15 or later; fails where there is none.
postgres_bin() {
  local bin version best='' best_version=14
  for bin in /usr/lib/postgresql/*/bin "$(pg_config --bindir 2>/dev/null || true)"; do
    if ! [ -x "$bin/postgres" ] || ! [ -x "$bin/initdb" ]; then continue; fi
    version=$("$bin/postgres" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/')
    if [ "$version" -gt "$best_version" ]; then
      best=$bin best_version=$version
    fi
  done
  [ -n "$best" ] && printf '%s\n' "$best"
}

if [ "${1:-}" = --postgres-bin ]; then
  postgres_bin
  exit
fi

packages=()
command -v cc >/dev/null || packages+=(gcc libc6-dev)
postgres_bin >/dev/null || packages+=(postgresql)
command -v redis-server >/dev/null || packages+=(redis-server)
command -v python3 >/dev/null || packages+=(python3)
command -v node >/dev/null || packages+=(nodejs)
command -v faketime >/dev/null || packages+=(faketime)
command -v setpriv >/dev/null || packages+=(util-linux)
command -v bwrap >/dev/null || packages+=(bubblewrap)

if [ ${#packages[@]} -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    {
      printf 'The tests need, and this machine has not: %s\n' "${packages[*]}"
      printf 'On Debian or Ubuntu:  sudo apt-get install --no-install-recommends %s\n' "${packages[*]}"
    } >&2
    exit 1
  fi
  printf 'installing %s\n' "${packages[*]}"
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get update && apt-get install --yes --no-install-recommends "${packages[@]}"; } >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    printf 'apt-get could not install %s\n' "${packages[*]}" >&2
    exit 1
  fi
  rm -f "$log"
fi

wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$(dirname "$0")/../Cargo.toml")
if ! command -v cargo >/dev/null; then
  printf 'Rust %s or later is needed: see https://rustup.rs\n' "$wanted" >&2
  exit 1
fi
have=$(rustc --version | cut -d' ' -f2)
if [ "$(printf '%s\n' "$wanted" "${have%%-*}" | sort -V | head -n 1)" != "$wanted" ]; then
  printf 'Rust %s or later is needed, and this is %s: rustup update stable\n' "$wanted" "$have" >&2
  exit 1
fi
