#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# events, debug --stats and --stats of run and do: observe.sh RUNSC, on the machine's own root.
set -u
RUNSC=$(readlink -f "$1")
WORK=$(mktemp -d /tmp/runsc-observe-XXXXXX)
R="timeout --foreground 30 $RUNSC --root $WORK/state --ignore-cgroups"
. "$(dirname "$0")/lib.sh"
# json NAME FILE EXPRESSION: a python expression on the document `d` that must hold.
json() {
  local out
  if out=$(python3 -c 'import json, sys; d = json.load(open(sys.argv[1])); sys.exit(0 if eval(sys.argv[2]) else 1)' "$2" "$3" 2>&1); then ok
  else bad "$1: not true: $3 ${out:0:300}"; fi
}

mkdir -p "$WORK/loop"
cat >"$WORK/loop/config.json" <<'JSON'
{"ociVersion":"1.0.2","process":{"args":["/bin/sh","-c","while :; do /bin/true; read x </etc/hostname; done"],"cwd":"/","env":["PATH=/bin:/usr/bin"],
"user":{"uid":0,"gid":0}},"root":{"path":"/","readonly":true},"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
"linux":{"namespaces":[{"type":"pid"},{"type":"network"},{"type":"mount"}]}}
JSON
$R run -d -b "$WORK/loop" busy; is "run -d" $? 0
sleep 1

# --- events
$R events --stats busy >"$WORK/event"; is "events --stats" $? 0
is "events: one line" "$(wc -l <"$WORK/event")" 1
json "events: runc's frame" "$WORK/event" 'd["type"] == "stats" and d["id"] == "busy"'
json "events: runc's fields" "$WORK/event" 'd["data"]["cpu"]["usage"]["total"] > 0 and d["data"]["memory"]["usage"]["usage"] > 0 and d["data"]["pids"]["current"] >= 1'
json "events: calls" "$WORK/event" 'all(d["data"]["runsc"]["calls"][k] > 0 for k in ("in_place", "patched", "trapped"))'
json "events: processes" "$WORK/event" 'd["data"]["runsc"]["tasks"]["processes"] > 2 and d["data"]["runsc"]["tasks"]["execs"] > 1'
json "events: faults" "$WORK/event" 'all(d["data"]["runsc"]["faults"][k] > 0 for k in ("anonymous", "file", "copy_on_write"))'
json "events: gofer" "$WORK/event" 'any(m["name"] == "Walk" and m["count"] > 0 and m["total_ns"] > 0 for m in d["data"]["runsc"]["gofer_messages"])'
json "events: latencies" "$WORK/event" \
  'all(abs(sum(c["histogram"]) - c["count"]) <= 1 and 0 < c["p50_ns"] <= c["p99_ns"] <= c["max_ns"] <= c["total_ns"] for c in d["data"]["runsc"]["syscalls"])'
json "events: what waits is parked" "$WORK/event" '[c for c in d["data"]["runsc"]["syscalls"] if c["name"] == "wait4"][0]["parked_ns"] > 10**6'
json "events: time adds up" "$WORK/event" \
  'abs(sum(c["total_ns"] for k in ("syscalls", "events") for c in d["data"]["runsc"][k]) - d["data"]["runsc"]["time"]["sentry_ns"]) < 10**6'
sleep 0.3
$R events --stats busy >"$WORK/later"
python3 - "$WORK/event" "$WORK/later" <<'PY' && ok || bad "events: counters only grow"
import json, sys
a, b = (json.load(open(f))["data"]["runsc"] for f in sys.argv[1:])
assert b["hand_offs"]["events"] > a["hand_offs"]["events"]
for group in ("calls", "faults", "mappings", "tasks", "host"):
    for key, value in a[group].items():
        assert isinstance(value, dict) or b[group][key] >= value, (group, key)
PY
timeout 3 $R events --interval 1 busy >"$WORK/stream"
is "events --interval" "$([ "$(wc -l <"$WORK/stream")" -ge 2 ] && echo several)" several

# --- debug
table=$($R debug --stats busy); is "debug --stats" $? 0
has "debug --stats: calls" "$table" "in place"
has "debug --stats: a call" "$table" "openat"
has "debug --stats: messages" "$table" "Walk"
is "debug --stats: one screen" "$([ "$(echo "$table" | wc -l)" -le 50 ] && echo fits)" fits

# --- trace
cat >"$WORK/trace.py" <<'PY'
import json, sys
events = json.load(open(sys.argv[1]))["traceEvents"]
assert any(e["name"] == sys.argv[2] and e["dur"] >= 0 for e in events if e["ph"] == "X"), "no " + sys.argv[2]
tracks, opened = {}, set()
for e in events:
    if e["ph"] == "X": tracks.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"]))
    elif e["ph"] == "b": opened.add(e["id"])
    elif e["ph"] == "e": opened.remove(e["id"])
    else: assert e["ph"] == "M" and e["args"]["name"], e
for spans in tracks.values():
    spans.sort()
    assert all(b[0] >= a[1] - 0.01 for a, b in zip(spans, spans[1:])), "slices of one track overlap"
assert not opened
print("fine")
PY
traced() { python3 "$WORK/trace.py" "$@" 2>&1 | tail -1; }
$R trace --duration 0.3 -o "$WORK/trace" busy; is "trace: status" $? 0
is "trace: slices" "$(traced "$WORK/trace" read)" fine
$R trace --duration 30 -o "$WORK/trace2" busy & tracer=$!
sleep 0.3
err=$($R trace --duration 0.1 -o "$WORK/trace3" busy 2>&1); is "second trace: status" $? 128
has "second trace" "$err" "under way already"
kill -INT $tracer; wait $tracer; is "trace: ends with SIGINT" $? 0
is "trace: slices until SIGINT" "$(traced "$WORK/trace2" read)" fine
$RUNSC --root "$WORK/state" trace --duration 30 -o "$WORK/trace2" busy & tracer=$!
sleep 0.3
kill -KILL $tracer; wait $tracer 2>/dev/null
sleep 0.3
$R trace --duration 0.2 -o "$WORK/trace2" busy; is "trace: after one that was killed" $? 0
$R do --trace="$WORK/trace4" sh -c 'read x </etc/hostname; exit 7'; is "do --trace: status" $? 7
is "do --trace: slices" "$(traced "$WORK/trace4" openat)" fine
err=$($R do --trace="$WORK/no/such" true 2>&1); is "--trace to nowhere" $? 128
has "--trace to nowhere" "$err" "no/such"

# --- what is not there
for verb in "events --stats" "debug --stats" "trace -o $WORK/none"; do
  err=$($R $verb nobody 2>&1); is "$verb of nobody: status" $? 128
  has "$verb of nobody" "$err" 'container "nobody" does not exist'
done
$R kill busy KILL
for _ in $(seq 100); do [ "$($R list -q -f json >/dev/null; $R state busy | grep -c stopped)" = 1 ] && break; sleep 0.05; done
for verb in "events --stats" "debug --stats"; do
  err=$($R $verb busy 2>&1); is "$verb of a stopped container: status" $? 128
  has "$verb of a stopped container" "$err" "is not running"
  is "$verb of a stopped container: one line" "$(echo "$err" | wc -l)" 1
done

# --- --stats of do
out=$($R --stats="$WORK/do" do sh -c 'read x </etc/hostname; exit 7'); is "do --stats: status" $? 7
json "do --stats" "$WORK/do" 'd["type"] == "stats" and any(c["name"] == "openat" for c in d["data"]["runsc"]["syscalls"])'
err=$($R do --stats - sh -c 'echo out' 2>&1 >"$WORK/out"); is "do --stats -: status" $? 0
is "do --stats -: the guest's output" "$(cat "$WORK/out")" out
has "do --stats -: the table" "$err" "ANSWERED BY THE SENTRY"
err=$($R --stats="$WORK/no/such/dir" do true 2>&1); is "--stats to nowhere" $? 128
has "--stats to nowhere" "$err" "--stats: "
err=$($R --stats=- run -d -b "$WORK/loop" none 2>&1); is "--stats with --detach" $? 128
has "--stats with --detach" "$err" "foreground"
is "nothing left" "$($R list -q | grep -v busy)" ""

echo "observe: $PASS passed, $FAIL failed"
[ "$FAIL" = 0 ]
