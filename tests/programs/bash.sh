#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# bash: pipes, here-documents, subshells, traps, job control, process substitution.
. "$(dirname "$0")/lib.sh"
equal "$(printf 'c\na\nb\n' | sort | tr '\n' ' ' | sed 's/ $//')" "a b c"
equal "$(cat <<X
one $((1 + 1))
X
)" "one 2"
equal "$(wc -l < <(seq 1000))" 1000
set +e; (exit 3); equal $? 3; false | true; equal "${PIPESTATUS[*]}" "1 0"; set -e
x=$(for i in $(seq 200); do (echo $i) ; done | awk '{s+=$1} END {print s}'); equal "$x" 20100
sleep 5 & pid=$!; kill -TERM $pid; set +e; wait $pid; equal $? 143; set -e
equal "$(bash -c 'trap "echo caught; exit 7" USR1; kill -USR1 $$; sleep 1' || echo $?)" $'caught\n7'
coproc CAT { cat; }; echo ping >&"${CAT[1]}"; read -r -t 5 line <&"${CAT[0]}"; equal "$line" ping
eval "exec ${CAT[1]}>&-"; wait "$CAT_PID"
mkfifo f; (echo through > f) & equal "$(cat f)" through
echo hello | tee a b > /dev/null; equal "$(cat a b | sort -u)" hello
if command -v script >/dev/null; then
  cat > jobs <<'X'
set -m
sleep 0.2 & jobs %1 | grep -c Running
fg %1 >/dev/null; echo $?
X
  equal "$(script -qec 'bash jobs' /dev/null < /dev/null | tr -d '\r')" $'1\n0'
  equal "$(script -qec 'stty size; test -t 0 && echo tty' /dev/null < /dev/null | tail -1 | tr -d '\r')" tty
fi
ulimit -n 64; equal "$(ulimit -n)" 64
equal "$(bash -c 'echo $BASHPID' | grep -c '^[0-9]*$')" 1
time_out=$(timeout 1 sleep 10; echo $?) || true; equal "$time_out" 124
