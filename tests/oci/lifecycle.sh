#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The OCI life cycle from outside: lifecycle.sh RUNSC [real]. Without "real" the guest programs are those of the fake sentry
# (fake_sentry.cc); with it, those of the machine's own root.
set -u
RUNSC=$(readlink -f "$1")
MODE=${2:-fake}
WORK=$(mktemp -d /tmp/runsc-oci-XXXXXX)
RAW="$RUNSC --root $WORK/state --ignore-cgroups"
R="timeout --foreground 20 $RAW"
. "$(dirname "$0")/lib.sh"

if [ "$MODE" = real ]; then
  EXIT5='["/bin/sh","-c","exit 5"]'; SLEEP='["/bin/sleep","1000"]'; HELLO='["/bin/echo","hello"]'; MISSING='["/no/such"]'
  X_EXIT5="/bin/sh -c 'exit 5'"; X_TRUE=/bin/true; X_SLEEP="/bin/sleep 1000"; ROOTFS=/
else
  EXIT5='["exit","5"]'; SLEEP='["sleep"]'; HELLO='["echo","hello"]'; MISSING='["missing"]'
  X_EXIT5="exit 5"; X_TRUE=true; X_SLEEP="sleep"; ROOTFS=$WORK/rootfs
fi
mkdir -p "$WORK/rootfs"

# bundle NAME ARGS [MORE-TOP-LEVEL-JSON]
bundle() {
  mkdir -p "$WORK/$1"
  cat >"$WORK/$1/config.json" <<JSON
{"ociVersion":"1.0.2","process":{"args":$2,"cwd":"/","env":["PATH=/bin:/usr/bin"],"user":{"uid":0,"gid":0}},
"root":{"path":"$ROOTFS","readonly":true},"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
"annotations":{"org.test":"1"},"linux":{"namespaces":[{"type":"pid"},{"type":"network"},{"type":"mount"}]}${3:+,$3}}
JSON
}
status() { $R state "$1" 2>/dev/null | sed -n 's/.*"status": "\(.*\)",/\1/p'; }
gone() { ! kill -0 "$1" 2>/dev/null || [ "$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c1)" = Z ]; }
await_gone() { for _ in $(seq 200); do gone "$1" && return 0; read -rt 0.02 <> <(:); done; return 1; }

version=$($RUNSC --version)
has version "$version" "runsc version "
has version "$version" "spec: 1.1.0"
check features sh -c "$RUNSC features | grep -q ociVersionMax"
(cd "$WORK" && mkdir specdir && $R spec --bundle specdir) && ok || bad spec
$R spec --bundle "$WORK/specdir" 2>/dev/null && bad "spec overwrites" || ok
has "unknown command" "$($R bogus 2>&1)" 'unknown command "bogus"'

# --- run
bundle five "$EXIT5"
$R run --bundle "$WORK/five" r1; is "run: exit status" $? 5
is "run: nothing left" "$($R list -q)" ""
bundle hello "$HELLO"
is "run: output" "$($R run -b "$WORK/hello" r2)" hello
bundle missing "$MISSING"
err=$($R --log "$WORK/log" --log-format json run -b "$WORK/missing" r3 2>&1); is "run of nothing: status" $? 128
has "run of nothing: stderr" "$err" "o such file"
has "run of nothing: log" "$(cat "$WORK/log")" '{"level":"error","msg":"'
is "run of nothing: one line" "$(echo "$err" | wc -l)" 1
is "run of nothing: nothing left" "$($R list -q)" ""

# --- create, start, kill, delete
bundle sleep "$SLEEP"
$R create -b "$WORK/sleep" --pid-file "$WORK/pid" c1; is create $? 0
pid=$(cat "$WORK/pid")
is "created: status" "$(status c1)" created
check "created: pid lives" kill -0 "$pid"
has "created: state" "$($R state c1)" "\"pid\": $pid"
has "created: annotations" "$($R state c1)" '"org.test": "1"'
has "created: list" "$($R list)" c1
has "created: list json" "$($R list --format json)" '"id":"c1"'
$R create -b "$WORK/sleep" c1 2>/dev/null; is "create twice" $? 128
is "create twice: first unharmed" "$(status c1)" created
$R start c1; is start $? 0
is "started: status" "$(status c1)" running
$R start c1 2>/dev/null; is "start twice" $? 128
err=$($R delete c1 2>&1); is "delete of a running container" $? 128
has "delete of a running container" "$err" "not stopped"
$R kill c1 0; is "kill 0 of a running container" $? 0
is "kill 0 changes nothing" "$(status c1)" running
sh -c "$R exec c1 $X_EXIT5"; is "exec: exit status" $? 5
$R exec c1 ${MISSING//[\[\]\",]/ } 2>/dev/null; is "exec of nothing" $? 128
$R exec --detach --pid-file "$WORK/epid" c1 $X_SLEEP; is "exec --detach" $? 0
epid=$(cat "$WORK/epid")
check "exec --detach: host pid lives" kill -0 "$epid"
kill -TERM "$epid"; check "exec --detach: a signal reaches it" await_gone "$epid"
has ps "$($R ps c1)" sleep
[ "$MODE" = fake ] || has "ps: arguments" "$($R ps c1)" "sleep 1000"
has "exec: unknown capability" "$($R exec --cap CAP_FROM_THE_FUTURE c1 $X_TRUE 2>&1)" "unknown capability CAP_FROM_THE_FUTURE ignored"
has "ps json" "$($R ps --format json c1)" "[$pid"
$R kill c1 NOSUCH 2>/dev/null; is "kill: unknown signal" $? 128
($R wait c1 >"$WORK/waited") & waiter=$!
read -rt 0.2 <> <(:)
$R kill c1 KILL; is kill $? 0
check "killed: sentry ends" await_gone "$pid"
wait $waiter; has "wait: status" "$(cat "$WORK/waited")" '"exitStatus":137'
is "killed: status" "$(status c1)" stopped
has "killed: pid" "$($R state c1)" '"pid": 0'
err=$($R kill c1 TERM 2>&1); is "kill of a stopped container" $? 128
has "kill of a stopped container" "$err" "not running"
$R kill --all c1 KILL; is "kill --all of a stopped container" $? 0
$R start c1 2>/dev/null; is "start of a stopped container" $? 128
$R exec c1 true 2>/dev/null; is "exec in a stopped container" $? 128
$R delete c1; is delete $? 0
err=$($R delete c1 2>&1); is "delete twice" $? 128
has "delete twice" "$err" "does not exist"
$R delete --force c1; is "delete --force of nothing" $? 0
err=$($R state c1 2>&1); is "state of nothing" $? 128
has "state of nothing" "$err" "does not exist"

# --- delete before start
$R create -b "$WORK/sleep" c2; $R delete c2; is "delete of a created container" $? 0

# --- pid is the init's stand-in: its exit status is the guest's
bundle five2 "$EXIT5"
$R create -b "$WORK/five2" --pid-file "$WORK/pid" c3
pid=$(cat "$WORK/pid"); $R start c3; check "exit: sentry ends by itself" await_gone "$pid"
is "exit: stopped" "$(status c3)" stopped
$R delete c3; is "exit: delete" $? 0

# --- hooks
hook() { echo "{\"path\":\"/bin/sh\",\"args\":[\"sh\",\"-c\",\"(echo $1; cat) >> $WORK/hooks.out; echo >> $WORK/hooks.out\"]}"; }
: >"$WORK/hooks.out"
bundle hooks "$SLEEP" "\"hooks\":{\"prestart\":[$(hook prestart)],\"createRuntime\":[$(hook createRuntime)],\"createContainer\":[$(hook createContainer)],\"poststart\":[$(hook poststart)],\"poststop\":[$(hook poststop)]}"
$R create -b "$WORK/hooks" h1; is "hooks: create" $? 0
$R start h1; $R delete --force h1
is "hooks: order" "$(grep -v '{' "$WORK/hooks.out" | grep . | tr '\n' ' ')" "prestart createRuntime createContainer poststart poststop "
has "hooks: state of the first" "$(sed -n 2p "$WORK/hooks.out")" '"status":"creating"'
has "hooks: state of the last" "$(grep -A1 poststop "$WORK/hooks.out")" '"status":"stopped"'
bundle badhook "$SLEEP" '"hooks":{"prestart":[{"path":"/bin/sh","args":["sh","-c","echo oh no; exit 3"]}]}'
err=$($R create -b "$WORK/badhook" h2 2>&1); is "failing hook: create fails" $? 128
has "failing hook: message" "$err" "oh no"
is "failing hook: nothing left" "$($R list -q)" ""
bundle slowhook "$SLEEP" '"hooks":{"prestart":[{"path":"/bin/sleep","args":["sleep","100"],"timeout":1}]}'
err=$($R create -b "$WORK/slowhook" h3 2>&1); is "slow hook: create fails" $? 128
has "slow hook: message" "$err" "timed out"
bundle poststop "$HELLO" '"hooks":{"poststop":[{"path":"/bin/sh","args":["sh","-c","echo oh no; exit 3"]}]}'
err=$($R run -b "$WORK/poststop" h4 2>&1); is "failing poststop hook: status" $? 0
has "failing poststop hook: warning" "$err" "warning: poststop hook #0 (/bin/sh): exit status 3, output: oh no"
if [ "$MODE" = real ]; then
  inside() { echo "\"hooks\":{\"startContainer\":[{\"path\":\"/bin/sh\",\"args\":[\"hook\",\"-c\",\"$1\"],\"env\":[\"PATH=/bin:/usr/bin\",\"X=y\"]${2:-}}]}"; }
  shm='"mounts":[{"destination":"/dev","type":"tmpfs"},{"destination":"/dev/shm","type":"tmpfs"},{"destination":"/proc","type":"proc"}]'
  bundle start '["/bin/cat","/dev/shm/hook"]' "$(inside '(echo $0 $X $(pwd) $$; cat) > /dev/shm/hook'),$shm"
  said=$($R run -b "$WORK/start" s1); is "startContainer: before the program" "${said%%$'\n'*}" "hook y / 2"
  has "startContainer: state" "$said" '"pid":1,"status":"created"'
  bundle badstart "$HELLO" "$(inside 'echo oh no; exit 3')"
  err=$($R run -b "$WORK/badstart" s2 2>&1); is "failing startContainer: run" $? 128
  is "failing startContainer: message" "$err" "runsc: startContainer hook #0 (/bin/sh): exit status 3, output: oh no"
  $R create -b "$WORK/badstart" s3 >"$WORK/out" 2>&1; $R start s3 2>/dev/null; is "failing startContainer: start" $? 128
  is "failing startContainer: stopped" "$(status s3)" stopped
  $R delete s3; is "failing startContainer: delete" "$?$(cat "$WORK/out")" 0
  bundle slowstart "$HELLO" "$(inside 'sleep 100' ',"timeout":1')"
  has "slow startContainer" "$($R run -b "$WORK/slowstart" s4 2>&1)" "timed out after 1 s"
  bundle nostart "$HELLO" '"hooks":{"startContainer":[{"path":"/no/hook"}]}'
  has "missing startContainer" "$($R run -b "$WORK/nostart" s5 2>&1)" "program /no/hook: no such file or directory"
  # runc gives a process the HOME of the container's passwd file
  bundle home '["/bin/sh","-c","echo $HOME"]'
  is "HOME of root" "$($R run -b "$WORK/home" e1)" "$(getent passwd 0 | cut -d: -f6)"
  sed -i 's/"uid":0/"uid":54321/' "$WORK/home/config.json"; is "HOME of nobody there" "$($R run -b "$WORK/home" e2)" /
  sed -i 's/"env":\[/"env":["HOME=\/mine",/' "$WORK/home/config.json"; is "HOME of one's own" "$($R run -b "$WORK/home" e3)" /mine
fi

# --- terminals
if command -v script >/dev/null; then
  bundle tty "$HELLO"
  sed -i 's/"process":{/"process":{"terminal":true,/' "$WORK/tty/config.json"
  has "terminal: run" "$(script -qec "$R run -b $WORK/tty t1" /dev/null </dev/null)" hello
  err=$($R run -b "$WORK/tty" t2 2>&1 </dev/null); is "terminal: none there" $? 128
  err=$($R create -b "$WORK/tty" t3 2>&1); is "terminal: create without --console-socket" $? 128
fi
if [ "$MODE" = real ] && command -v python3 >/dev/null; then
  bundle shell '["/bin/sh","-i"]'
  sed -i 's/"process":{/"process":{"terminal":true,/' "$WORK/shell/config.json"
  timeout 60 "$(dirname "$0")/console.py" "$WORK/console" >"$WORK/said" 2>&1 & console=$!
  for _ in $(seq 100); do [ -s "$WORK/said" ] && break; read -rt 0.05 <> <(:); done
  $R create -b "$WORK/shell" --console-socket "$WORK/console" t4; $R start t4
  wait $console; is "terminal: console socket" "$?: $(cat "$WORK/said")" "0: listening"
  for _ in $(seq 100); do [ "$(status t4)" = running ] || break; read -rt 0.05 <> <(:); done
  is "terminal: its shell has ended" "$(status t4)" stopped; $R delete --force t4
  said=$(timeout 60 "$(dirname "$0")/terminal.py" $RAW 2>&1); is "terminal: bash at one" "$?: $said" "0: "
fi

# --- hostile configs: one line that names the field, status 128, nothing left
for patch in '"process":{"args":[]}|process.args: must not be empty' '"process":{"args":["x"],"cwd":"x"}|process.cwd: must be' \
  '"root":{"path":"/no/such/dir"}|root.path: /no/such/dir' '"mounts":[{"destination":"/x","type":"bind","source":"/no/such"}]|mounts[0].source: /no/such' \
  '"linux":{"namespaces":[{"type":"bogus"}]}|linux.namespaces[0].type'; do
  mkdir -p "$WORK/hostile"
  base='"ociVersion":"1.0.2","process":{"args":["x"],"cwd":"/"},"root":{"path":"/"}'
  echo "{$base,${patch%%|*}}" >"$WORK/hostile/config.json"
  err=$($R create -b "$WORK/hostile" x1 2>&1); is "hostile: status" $? 128
  has hostile "$err" "config.json: ${patch#*|}"
  is "hostile: one line" "$(echo "$err" | wc -l)" 1
done
head -c 8000000 /dev/zero | tr '\0' '[' >"$WORK/hostile/config.json"
$R create -b "$WORK/hostile" x1 2>/dev/null; is "hostile: huge" $? 128
head -c 3000000 /dev/zero | tr '\0' '[' >"$WORK/hostile/config.json"
$R create -b "$WORK/hostile" x1 2>/dev/null; is "hostile: deep" $? 128
rm "$WORK/hostile/config.json"; mkfifo "$WORK/hostile/config.json"
timeout 5 $R create -b "$WORK/hostile" x1 2>/dev/null; is "hostile: a FIFO" $? 128
$R create -b "$WORK/sleep" ../x 2>/dev/null; is "hostile: id" $? 128
is "hostile: nothing left" "$($R list -q)" ""

# --- two commands at once
for i in 1 2 3 4 5 6; do ($R create -b "$WORK/sleep" same 2>/dev/null && echo won >>"$WORK/won") & done; wait
is "race: one create wins" "$(wc -l <"$WORK/won")" 1
is "race: it is whole" "$(status same)" created
for i in 1 2 3 4; do ($R start same 2>/dev/null && echo won >>"$WORK/won2") & done; wait
is "race: one start wins" "$(wc -l <"$WORK/won2")" 1
for i in 1 2 3 4; do $R delete --force same & done; wait
is "race: deleted" "$($R list -q)" ""
for i in 1 2 3; do
  ($R create -b "$WORK/sleep" churn 2>/dev/null; $R start churn 2>/dev/null; $R exec churn $X_EXIT5 2>/dev/null) &
  ($R delete --force churn; $R list >/dev/null; $R state churn >/dev/null 2>&1) &
done; wait
$R delete --force churn; is "race: churn leaves nothing" "$($R list -q)" ""

# --- SIGKILLed processes leave nothing that delete --force does not clean
$R create -b "$WORK/sleep" --pid-file "$WORK/pid" k1; $R start k1
pid=$(cat "$WORK/pid"); children=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null)
kill -KILL "$pid"; check "killed sentry: ends" await_gone "$pid"
for child in $children; do check "killed sentry: its children end" await_gone "$child"; done
is "killed sentry: stopped" "$(status k1)" stopped
$R delete --force k1; is "killed sentry: delete" $? 0
for delay in 0.002 0.006 0.012 0.02; do
  $RAW create -b "$WORK/sleep" k2 & cli=$!
  read -rt $delay <> <(:); kill -KILL $cli 2>/dev/null; wait $cli 2>/dev/null
  $R delete --force k2; is "killed create ($delay): delete" $? 0
done
is "killed: nothing left" "$($R list -q)" ""
read -rt 0.2 <> <(:)
is "killed: no stray process" "$(pgrep -fc -- "$WORK/state" || true)" 0

# --- do
if [ "$MODE" = real ]; then
  is "do: output" "$($R do echo hi)" hi
  $R do sh -c 'exit 9'; is "do: exit status" $? 9
  $R do sh -c 'kill -9 $$'; is "do: killed" $? 137
  is "do: cwd" "$(cd /usr/bin && $R do pwd)" /usr/bin
  is "do: stdin" "$(echo data | $R do cat)" data
  printf 'first\nsecond\n' >"$WORK/lines"
  is "do: a file as stdin keeps its place" "$({ read -r _; $R do python3 -c 'import os
while os.sendfile(1, 0, None, 3): pass'; cat; } <"$WORK/lines")" second
  is "do: env" "$($R do -e FOO=bar sh -c 'echo $FOO')" bar
  $R do touch /tmp/runsc-oci-written; check "do: writes stay inside" test ! -e /tmp/runsc-oci-written
  mkdir "$WORK/vol"; $R do -v "$WORK/vol:/mnt" sh -c 'echo x > /mnt/f'; is "do: volume" "$(cat "$WORK/vol/f" 2>/dev/null)" x
  $R do -v "$WORK/vol:/mnt:ro" sh -c 'echo y > /mnt/f' 2>/dev/null && bad "do: ro volume" || ok
  mkdir "$WORK/mount"
  is "do: a host mount is another device" "$(unshare -m sh -c "mount -t tmpfs none $WORK/mount && touch $WORK/mount/f && $R do find $WORK -maxdepth 2 -xdev -name f")" "$WORK/vol/f"
  $R do no-such-program 2>/dev/null; is "do: missing program" $? 128
else
  is "do: output" "$($R do echo hi)" hi
  $R do exit 9; is "do: exit status" $? 9
fi
$RAW do sleep 1000 & cli=$!
read -rt 0.3 <> <(:); kill -TERM $cli; wait $cli; code=$?
is "do: a signal is passed on" $code 143

echo "lifecycle ($MODE): $PASS passed, $FAIL failed"
[ "$FAIL" = 0 ]
