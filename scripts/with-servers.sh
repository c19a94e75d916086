#!/usr/bin/env bash
# with-servers.sh COMMAND...: runs the command with a PostgreSQL and a Redis of its own, and stops them when it ends, however it ends.
#
# The command finds them in ORRERY_TEST_DATABASE_URL and ORRERY_TEST_REDIS_URL. Their data are in a temporary directory and do not outlive it.
# Only what was started here is stopped, by its process id.
set -euo pipefail

if [ $# -eq 0 ]; then
  printf 'usage: %s COMMAND...\n' "$0" >&2
  exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
"$here/requirements.sh"
postgres_bin=$("$here/requirements.sh" --postgres-bin)

directory='' postgres='' redis='' command=''

# alive PID: whether a child of this shell runs. Bash takes note of its ended children at once, so that none lingers as a zombie.
alive() { kill -0 "$1" 2>/dev/null; }

# stop PID SIGNAL...: sends one signal after the other, with up to 10 s for each, until the process is gone.
stop() {
  local pid=$1 signal
  shift
  for signal in "$@"; do
    kill -s "$signal" "$pid" 2>/dev/null || break
    for _ in $(seq 100); do
      alive "$pid" || break 2
      sleep 0.1
    done
  done
  wait "$pid" 2>/dev/null || true
}

clean_up() {
  local status=$?
  trap - EXIT
  trap '' INT TERM HUP
  if [ -n "$command" ]; then
    # The command leads a process group of its own: what it started goes with it.
    kill -s TERM -- "-$command" 2>/dev/null || true
    wait "$command" 2>/dev/null || true
  fi
  [ -z "$redis" ] || stop "$redis" TERM KILL
  # INT is PostgreSQL's fast shutdown, QUIT its immediate one.
  [ -z "$postgres" ] || stop "$postgres" INT QUIT KILL
  [ -z "$directory" ] || rm -rf "$directory"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# detached COMMAND...: out of reach of Ctrl-C, since this script stops the servers itself; and ended with this script even where it is killed.
# PostgreSQL refuses to run as root.
detached() {
  local options=(--pdeathsig TERM)
  if [ "$1" = --as-nobody ]; then
    shift
    if [ "$(id -u)" -eq 0 ]; then
      options=(--reuid "$account" --regid "$(id -g "$account")" --clear-groups --pdeathsig INT)
    fi
  fi
  if command -v setpriv >/dev/null; then
    exec setsid setpriv "${options[@]}" "$@"
  fi
  exec "$@"
}

# A port below those that the system gives out, on which nothing listens now.
free_port() {
  local port
  for _ in $(seq 100); do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      printf '%s\n' "$port"
      return
    fi
  done
  printf 'no free port was found\n' >&2
  return 1
}

# await PID QUESTION...: asks until the answer is yes; fails when the process has ended, or after 30 s.
await() {
  local pid=$1
  shift
  for _ in $(seq 300); do
    "$@" >/dev/null 2>&1 && alive "$pid" && return
    alive "$pid" || return 1
    sleep 0.1
  done
  return 1
}

redis_answers() {
  local answer
  exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf 'PING\r\n' >&3
  read -r -t 2 answer <&3
  exec 3>&-
  [ "${answer%$'\r'}" = +PONG ]
}

start_postgres() {
  local port
  port=$(free_port)
  (
    cd "$directory"
    detached --as-nobody "$postgres_bin/postgres" -D "$directory/postgres" -p "$port" -k "$directory" \
      -c listen_addresses=127.0.0.1 -c max_connections=300 -c fsync=off -c full_page_writes=off
  ) >"$directory/postgres.log" 2>&1 </dev/null &
  postgres=$!
  if await "$postgres" "$postgres_bin/pg_isready" -q -h "$directory" -p "$port"; then
    export ORRERY_TEST_DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres"
    return
  fi
  stop "$postgres" INT QUIT KILL
  postgres=
  return 1
}

start_redis() {
  local port
  port=$(free_port)
  (detached redis-server --bind 127.0.0.1 --port "$port" --save '' --appendonly no --dir "$directory") \
    >"$directory/redis.log" 2>&1 </dev/null &
  redis=$!
  if await "$redis" redis_answers "$port"; then
    export ORRERY_TEST_REDIS_URL="redis://127.0.0.1:$port"
    return
  fi
  stop "$redis" TERM KILL
  redis=
  return 1
}

# Another may take the port between the look and the start: then it is tried again with another one.
start() {
  local name=$1
  for _ in 1 2 3; do
    "start_$name" && return
  done
  printf '%s does not start:\n' "$name" >&2
  cat "$directory/$name.log" >&2
  return 1
}

# Not under TMPDIR: the path of a socket may have 107 characters.
directory=$(mktemp -d /tmp/orrery-test.XXXXXX)
account=postgres
id -u "$account" >/dev/null 2>&1 || account=nobody
[ "$(id -u)" -ne 0 ] || chown "$account" "$directory"
if ! (
  cd "$directory"
  detached --as-nobody "$postgres_bin/initdb" -D "$directory/postgres" -U postgres --auth=trust --no-locale -E UTF8 --no-sync
) >"$directory/initdb.log" 2>&1; then
  cat "$directory/initdb.log" >&2
  exit 1
fi
start postgres
start redis

# Job control gives the command a process group of its own, with its signals as they should be; it reads nothing.
set -m
"$@" </dev/null &
command=$!
set +m
status=0
wait "$command" || status=$?
command=
exit "$status"
