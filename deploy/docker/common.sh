# shellcheck shell=bash
# What the entry points share. Sourced, never run.

# One line of JSON on standard error, as the daemons log with --log-format json.
log() {
  local level=$1 message=$2
  message=${message//\\/\\\\}
  message=${message//\"/\\\"}
  printf '{"time":"%(%Y-%m-%dT%H:%M:%SZ)T","level":"%s","program":"%s","message":"%s"}\n' -1 "$level" \
    "$(basename "$0")" "$message" >&2
}

fail() {
  log error "$1"
  exit "${2:-1}"
}

# need NAME…: these variables have values.
need() {
  local name
  for name in "$@"; do
    [[ -n "${!name:-}" ]] || fail "$name is not set: see docs/deployment.md, Docker" 2
  done
}

# shellcheck disable=SC2034  # read by whoever sources this
federation=${TRIBUTARY_FEDERATION_DIR:-/var/lib/tributary/federation}
# shellcheck disable=SC2034
site=${TRIBUTARY_SITE_DIR:-/var/lib/tributary/site}
# shellcheck disable=SC2034
spool=${TRIBUTARY_SPOOL:-}
# As a container's first process a script has no default action for SIGTERM; a program that it executes has its own.
trap 'exit 143' TERM
export TZ=UTC
