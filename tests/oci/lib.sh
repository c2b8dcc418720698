# SPDX-License-Identifier: Apache-2.0
# What the scripts of this folder share; sourced, with RUNSC, WORK (a temporary directory) and R (the command with its options) set.
# Counts checks in PASS and FAIL, and leaves no container behind.
PASS=0
FAIL=0
ok() { PASS=$((PASS + 1)); }
bad() { FAIL=$((FAIL + 1)); echo "FAIL: $*"; }
check() { local what=$1; shift; if "$@"; then ok; else bad "$what"; fi; }
is() { if [ "$2" = "$3" ]; then ok; else bad "$1: wanted \"$3\", got \"$2\""; fi; }
has() { case "$2" in *"$3"*) ok ;; *) bad "$1: \"$3\" is not in \"${2:0:2000}\"" ;; esac; }
cleanup() {
  for id in $($R list -q 2>/dev/null); do timeout 20 $R delete --force "$id"; done
  rm -rf "$WORK"
}
trap cleanup EXIT
