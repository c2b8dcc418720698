#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# coreutils, findutils, procps.
. "$(dirname "$0")/lib.sh"
mkdir -p d/e/f; echo one > d/a; ln d/a d/hard; ln -s a d/soft; touch -d '2020-01-02 03:04:05 UTC' d/e/old
equal "$(stat -c %h d/a)" 2; equal "$(readlink d/soft)" a; equal "$(TZ=UTC stat -c %y d/e/old | cut -c1-19)" "2020-01-02 03:04:05"
cp -a d copy; diff -r d copy; equal "$(find copy -type f | sort | tr '\n' ' ')" "copy/a copy/e/old copy/hard "
mv copy/a copy/b; test ! -e copy/a; rm -r copy; test ! -e copy
equal "$(seq 10000 | sort -R | sort -n | md5sum | cut -c1-8)" "$(seq 10000 | md5sum | cut -c1-8)"
equal "$(printf abc | sha256sum | cut -c1-16)" ba7816bf8f01cfea
dd if=/dev/zero of=big bs=64k count=64 2>/dev/null; equal "$(stat -c %s big)" 4194304; truncate -s 10 big; equal "$(wc -c < big)" 10
split -l 3 <(seq 10) part.; equal "$(ls part.* | wc -l)" 4; equal "$(cat part.* | paste -sd,)" 1,2,3,4,5,6,7,8,9,10
equal "$(echo a:b:c | cut -d: -f2)" b; equal "$(printf '%s\n' b a b | sort | uniq -c | tr -s ' ' | tr '\n' ';')" " 1 a; 2 b;"
equal "$(seq 3 | xargs -n1 -P3 echo | sort | tr '\n' ' ')" "1 2 3 "; equal "$(echo hi | base64)" aGkK
chmod 640 d/a; equal "$(stat -c %a d/a)" 640; install -m 700 d/a inst; equal "$(stat -c %a inst)" 700
equal "$(nproc)" "$(grep -c ^processor /proc/cpuinfo)"; df . >/dev/null; du -s d >/dev/null; equal "$(basename "$(pwd -P)")" "$(basename "$work")"
equal "$(find /usr/bin -maxdepth 1 -name bash -printf %f)" bash; equal "$(find . -newermt 2021-01-01 -name a | wc -l)" 1
mkfifo p; timeout 5 cat p > out & echo x > p; wait $!; equal "$(cat out)" x; tail -f out > tailed & sleep 0.2; echo y >> out; eventually 5 grep -q y tailed; kill $!; wait $! 2>/dev/null || true
equal "$(id -u)" "$(awk '/^Uid:/{print $3}' /proc/self/status)"; date +%s | has -E '^[0-9]{10}$'; env -i A=b env | has -x A=b
sleep 30 & pid=$!; ps -p $pid -o comm= | has -x sleep; pgrep -x sleep | has -x $pid; ps aux | has 'sleep 30'; kill $pid
free | has ^Mem:; uptime | has load; vmstat 1 1 >/dev/null; top -bn1 | sed -n 1,5p | has Tasks; w -h >/dev/null 2>&1 || true
nice -n 5 nice | has -x 5; nohup true 2>/dev/null; stdbuf -oL echo ok | has -x ok; test "$(mktemp -u x.XXXX | wc -c)" = 7
sync; tac <(seq 3) | paste -sd, | has -x 3,2,1; shuf -i 1-100 | sort -n | sed -n 1p | has -x 1; tsort <<< 'a b' | sed -n 1p | has -x a
