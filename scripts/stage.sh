# shellcheck shell=bash
# Sourced by the other scripts: says what runs, and how long it took.

# stage NAME COMMAND...: runs the command; says its name before, and its time and outcome after.
stage() {
  local name=$1 from=$SECONDS status=0
  shift
  printf '==> %s\n' "$name"
  "$@" || status=$?
  if [ "$status" -eq 0 ]; then
    printf '==> %s: done in %s s\n' "$name" "$((SECONDS - from))"
  else
    printf '==> %s: FAILED (exit status %s) after %s s\n' "$name" "$status" "$((SECONDS - from))" >&2
  fi
  return "$status"
}
