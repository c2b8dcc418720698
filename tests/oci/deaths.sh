#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What a container does when the host kills one of its processes: deaths.sh RUNSC, on the machine's own root.
set -u
RUNSC=$(readlink -f "$1")
WORK=$(mktemp -d /tmp/runsc-deaths-XXXXXX)
R="timeout --foreground 30 $RUNSC --root $WORK/state --ignore-cgroups --debug-log=$WORK/debug"
. "$(dirname "$0")/lib.sh"

# bundle NAME SCRIPT
bundle() {
  mkdir -p "$WORK/$1"
  cat >"$WORK/$1/config.json" <<JSON
{"ociVersion":"1.0.2","process":{"args":["/bin/sh","-c","$2"],"cwd":"/","env":["PATH=/bin:/usr/bin"],"user":{"uid":0,"gid":0}},
"root":{"path":"/","readonly":true},"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
"linux":{"namespaces":[{"type":"pid"},{"type":"network"},{"type":"mount"}]}}
JSON
}
state_of() { $R state "$1" 2>/dev/null | python3 -c 'import json, sys; print(json.load(sys.stdin)["status"])' 2>/dev/null; }
sentry_of() { $R state "$1" | python3 -c 'import json, sys; print(json.load(sys.stdin)["pid"])'; }
gofer_of() { pgrep -P "$(sentry_of "$1")" runsc-gofer || pgrep -P "$(sentry_of "$1")" -f runsc-gofer; }
# Host processes that guest code runs in, those that wait for a guest left out: they are tiny.
stubs_of() {
  local p
  for p in $(pgrep -P "$(sentry_of "$1")"); do
    if grep -q stub "/proc/$p/cmdline" "/proc/$p/comm" && [ "$(awk '/VmRSS/ {print $2}' "/proc/$p/status")" -gt 600 ]; then echo "$p"; fi
  done
}
until_processes() {
  local i
  for ((i = 0; i < 100; i++)); do
    [ "$($R ps "$1" 2>/dev/null | grep -c "$3")" -ge "$2" ] && break
    sleep 0.05
  done
  sleep 0.2
}
until_stopped() {
  local i
  for ((i = 0; i < 100; i++)); do
    [ "$(state_of "$1")" = stopped ] && break
    sleep 0.05
  done
  state_of "$1"
}

# --- the gofer
bundle sleeps "sleep 1000; exit 3"
$R run -b "$WORK/sleeps" gofer </dev/null & runner=$!
until_processes gofer 1 "[s]leep 1000"
kill -KILL "$(gofer_of gofer)"
wait $runner; is "gofer killed: run's status" $? 137
$R run -d -b "$WORK/sleeps" gofer2 </dev/null
until_processes gofer2 1 "[s]leep 1000"
kill -KILL "$(gofer_of gofer2)"
is "gofer killed: state" "$(until_stopped gofer2)" stopped
has "gofer killed: log" "$(cat "$WORK/debug")" "gofer is gone"
$R delete gofer2; is "gofer killed: delete without force" $? 0

# --- a stub whose guest waits in the sentry: either init dies of it, or its child, and init goes on
bundle child "sleep 1000; [ \$? = 137 ] && exit 3"
statuses=
for which in 1 2; do
  $R run -b "$WORK/child" "stub$which" </dev/null 2>/dev/null & runner=$!
  until_processes "stub$which" 2 sleep
  kill -KILL "$(stubs_of "stub$which" | sed -n ${which}p)"
  wait $runner; statuses="$statuses $?"
done
is "waiting stubs killed: statuses" "$(tr ' ' '\n' <<<"$statuses" | sort -n | xargs)" "3 137"
has "stub killed: log" "$(cat "$WORK/debug")" "host side of the process is gone"

# --- one whose guest computes
bundle busy "while :; do :; done & wait \$!; [ \$? = 137 ] && exit 4"
$R run -b "$WORK/busy" busy </dev/null 2>/dev/null & runner=$!
until_processes busy 2 sh
sleep 0.5
busiest=$(for p in $(stubs_of busy); do echo "$(awk '{print $14}' "/proc/$p/stat") $p"; done | sort -n | tail -1)
kill -KILL "${busiest#* }"
wait $runner; is "computing stub killed: status" $? 4

echo "$PASS passed, $FAIL failed"
[ $FAIL = 0 ]
