#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Whole programs, timed from inside: prints `name<TAB>milliseconds` (or a rate), medians of three where short.
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
work=$(mktemp -d /var/tmp/bench.XXXXXX)
trap 'rm -rf "$work"' EXIT
cd "$work"
only=${1:-}

now() { date +%s%N; }
# timed NAME ROUNDS COMMAND...: median in milliseconds
timed() {
  local name=$1 rounds=$2 i t list=()
  shift 2
  for ((i = 0; i < rounds; i++)); do
    t=$(now)
    "$@" >/dev/null 2>&1 || { printf '%s\t-\n' "$name"; return; }
    list+=($((($(now) - t) / 1000)))
  done
  printf '%s\t%s\n' "$name" "$(printf '%s\n' "${list[@]}" | sort -n | awk '{a[NR]=$1} END {printf "%.2f", a[int((NR+1)/2)]/1000}')"
}
wanted() { [ -z "$only" ] || [[ $1 == *"$only"* ]]; }

make_project() {
  for i in $(seq 6); do printf '#include <vector>\n#include <string>\nint part%d(int x){std::vector<std::string> v(x,"a");return (int)v.size()+%d;}\n' "$i" "$i" >"p$i.cc"; done
  { for i in $(seq 6); do echo "int part$i(int);"; done; echo 'int main(){return part1(1)+part6(1)==0;}'; } >main.cc
  printf 'prog: main.o p1.o p2.o p3.o p4.o p5.o p6.o\n\tg++ -o $@ $^\n%%.o: %%.cc\n\tg++ -O1 -c $<\n' >Makefile
}
build_once() { rm -f ./*.o prog && make -s -j2; }
many_execs() { for i in $(seq 100); do /bin/true; done; }
many_subshells() { for i in $(seq 100); do (:); done; }
sqlite_inserts() { rm -f s.db; sqlite3 s.db "create table t(id integer primary key, x text); with recursive n(i) as (select 1 union all select i+1 from n where i<50000) insert into t(x) select 'row ' || i from n"; }
sqlite_commits() { rm -f c.db; { echo 'pragma journal_mode=wal; pragma synchronous=normal; create table t(x);'; for i in $(seq 500); do echo "insert into t values($i);"; done; } | sqlite3 c.db; }
git_tree() { git init -q g && cd g && for d in $(seq 100); do mkdir "d$d" && for f in $(seq 100); do echo "$f" >"d$d/f$f"; done; done && git add -A && git -c user.name=a -c user.email=a@b commit -qm x; cd ..; }
# 50,000 small files in 500 directories; the archive is written by python, so that making it costs little.
make_archive() {
  python3 - <<'END'
import io, tarfile
with tarfile.open("many.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
    for d in range(500):
        for f in range(100):
            member = tarfile.TarInfo(f"d{d}/f{f}")
            member.size = 20 + f
            archive.addfile(member, io.BytesIO(b"x" * member.size))
END
}
redis_rates() {
  redis-server --port 0 --unixsocket "$work/s" --save '' --dir "$work" >/dev/null 2>&1 &
  local pid=$! i
  for i in $(seq 200); do redis-cli -s "$work/s" ping >/dev/null 2>&1 && break; sleep 0.05; done
  redis-benchmark -s "$work/s" -n 50000 -c 20 -t set,get --csv 2>/dev/null | tr -d '"' | awk -F, '$1=="SET"||$1=="GET" {printf "redis %s /s\t%s\n", $1, $2}'
  kill $pid; wait $pid 2>/dev/null
}

# Below those that the host gives to outgoing connections.
free_port() { echo $((10000 + (RANDOM * 32768 + RANDOM) % 22000)); }
until_listening() { local i; for i in $(seq 200); do (exec 9<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return; sleep 0.05; done; return 1; }
redis_loopback_rates() {
  local port pid
  port=$(free_port)
  redis-server --port "$port" --bind 127.0.0.1 --save '' --dir "$work" >/dev/null 2>&1 & pid=$!
  until_listening "$port" && redis-benchmark -p "$port" -n 50000 -c 20 -t set,get --csv 2>/dev/null | tr -d '"' |
    awk -F, '$1=="SET"||$1=="GET" {printf "redis loopback %s /s\t%s\n", $1, $2}'
  kill $pid; wait $pid 2>/dev/null
}
# requests_per_second NAME PORT
requests_per_second() { wrk -t1 -c16 -d3s "http://127.0.0.1:$2/" 2>/dev/null | awk -v name="$1" '/^Requests\/sec:/ {printf "%s /s\t%s\n", name, $2}'; }
nginx_rate() {
  local port pid
  port=$(free_port)
  chmod 755 "$work"; mkdir -p www tmp; head -c 1024 /dev/zero >www/index.html
  cat >n.conf <<END
user root; worker_processes 1; pid $work/n.pid; error_log $work/n.log; daemon off;
events { worker_connections 256; }
http { access_log off; sendfile on; client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  server { listen 127.0.0.1:$port; root $work/www; } }
END
  nginx -p "$work" -c "$work/n.conf" 2>/dev/null & pid=$!
  until_listening "$port" && requests_per_second "nginx + wrk" "$port"
  kill $pid; wait $pid 2>/dev/null
}
node_rate() {
  local port pid
  port=$(free_port)
  node -e "require('http').createServer((q, r) => r.end('hello')).listen($port, '127.0.0.1')" & pid=$!
  until_listening "$port" && requests_per_second "node http + wrk" "$port"
  kill $pid; wait $pid 2>/dev/null
}
pgbench_rates() {
  local bin as="runuser -u postgres --" host
  bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
  mkdir -p pg && chown postgres pg && chmod 755 "$work"
  $as "$bin/initdb" -D "$work/pg/db" -A trust -U postgres >/dev/null 2>&1 || return
  $as "$bin/pg_ctl" -D "$work/pg/db" -l "$work/pg/log" -w -t 60 -o "-c listen_addresses=127.0.0.1 -p 54329 -k $work/pg -c fsync=off -c shared_buffers=16MB" start >/dev/null || return
  $as "$bin/pgbench" -h "$work/pg" -p 54329 -U postgres -i -s 2 -q postgres >/dev/null 2>&1
  for host in "$work/pg" 127.0.0.1; do
    $as "$bin/pgbench" -h $host -p 54329 -U postgres -S -c 4 -j 1 -T 3 postgres 2>/dev/null |
      awk -v name="pgbench -S $([ "$host" = 127.0.0.1 ] && echo loopback || echo unix)" '/^tps/ {printf "%s /s\t%s\n", name, $3}'
  done
  $as "$bin/pgbench" -h "$work/pg" -p 54329 -U postgres -c 4 -j 1 -T 3 postgres 2>/dev/null | awk '/^tps/ {printf "pgbench unix /s\t%s\n", $3}'
  $as "$bin/pg_ctl" -D "$work/pg/db" -m immediate stop >/dev/null
}

wanted "100 x /bin/true" && timed "100 x /bin/true" 3 many_execs
wanted "100 subshells" && timed "100 subshells" 3 many_subshells
wanted "sh -c true" && timed "sh -c true" 9 sh -c true
wanted "python3 start" && timed "python3 start" 7 python3 -c 'import json, os, re'
command -v node >/dev/null && wanted "node start" && timed "node start" 5 node -e 0
command -v java >/dev/null && wanted "java start" && timed "java start" 3 java -version
wanted "make -j2" && make_project && timed "make -j2" 1 build_once
wanted "find /usr" && timed "find /usr" 3 find /usr -xdev -newermt 2099-01-01
wanted "tar of /usr/share" && timed "tar of /usr/share/doc" 1 sh -c 'tar -cf - -C /usr/share doc | wc -c'
wanted "git status 10k files" && git_tree >/dev/null 2>&1 && timed "git status 10k files" 3 git -C g status
wanted "git clone" && { [ -d g ] || git_tree >/dev/null 2>&1; } && timed "git clone 10k files" 1 git clone -q --no-local g clone
wanted "unpack and remove 50k files" && make_archive && mkdir many && timed "unpack 50k files" 1 tar -xf many.tar -C many && timed "remove 50k files" 1 rm -rf many
command -v sqlite3 >/dev/null && wanted "sqlite" && timed "sqlite 50k inserts" 3 sqlite_inserts && timed "sqlite 500 commits wal" 1 sqlite_commits
command -v redis-server >/dev/null && wanted "redis" && redis_rates
command -v redis-server >/dev/null && wanted "redis loopback" && redis_loopback_rates
command -v wrk >/dev/null && command -v nginx >/dev/null && wanted "nginx" && nginx_rate
command -v wrk >/dev/null && command -v node >/dev/null && wanted "node http" && node_rate
compgen -G '/usr/lib/postgresql/*/bin/pgbench' >/dev/null && [ "$(id -u)" = 0 ] && wanted "pgbench" && pgbench_rates
true
