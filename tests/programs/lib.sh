# SPDX-License-Identifier: Apache-2.0
# For the end-to-end programs: a fresh working directory, checks with a line number, a skip with a reason.
set -euo pipefail
trap 'echo "# $(basename "$0"):$LINENO: failed: $BASH_COMMAND"' ERR
export LC_ALL=C HOME=${TMPDIR:-/tmp} PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin
unset PYTHONPATH PERL5LIB CCACHE_DIR
work=$(mktemp -d "${TMPDIR:-/tmp}/program.XXXXXX")
cleanup() {
  local pids
  pids=$(jobs -p)
  if [ -n "$pids" ]; then kill $pids 2>/dev/null || true; fi
  cd / && rm -rf "$work"
}
trap cleanup EXIT
cd "$(dirname "$0")" && script_dir=$PWD && cd "$work"

need() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || { echo "# skip: $program is not installed"; exit 77; }
  done
}
# equal GOT WANTED
equal() { [ "$1" = "$2" ] || { printf '# %s:%s: got [%s], wanted [%s]\n' "$(basename "$0")" "${BASH_LINENO[0]}" "$1" "$2"; exit 1; }; }
# eventually SECONDS COMMAND...: retries until it succeeds
eventually() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "# never succeeded: $*"; return 1; }
    sleep 0.05
  done
}
# has GREP-ARGUMENTS...: whether a line of the input matches. It reads all of it: `producer | grep -q` would kill
# the producer by SIGPIPE now and then, which pipefail makes a failure.
has() { local all; all=$(cat); grep -q "$@" <<<"$all"; }
# Below those that the host gives to outgoing connections.
free_port() { echo $((10000 + (RANDOM * 32768 + RANDOM) % 22000)); }
