#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
. "$(dirname "$0")/lib.sh"
need redis-server redis-cli redis-benchmark
port=$(free_port)
redis-server --port $port --bind 127.0.0.1 --unixsocket "$work/s" --dir "$work" --save '' --appendonly yes --daemonize no > log 2>&1 &
server=$!
cli() { redis-cli -p $port "$@"; }
eventually 20 cli ping
equal "$(cli set k v)" OK; equal "$(cli get k)" v; equal "$(redis-cli -s "$work/s" incrby n 5)" 5
equal "$(cli eval 'return redis.call("get", KEYS[1])' 1 k)" v
redis-benchmark -p $port -n 20000 -c 20 -t set,get,lpush,lrange_100 -q > bench; grep -q 'GET: .* requests per second' bench
redis-benchmark -s "$work/s" -n 20000 -P 16 -t set -q > /dev/null
cli bgrewriteaof >/dev/null; eventually 20 sh -c "redis-cli -p $port info persistence | grep -q aof_rewrite_in_progress:0"
cli bgsave >/dev/null; eventually 20 sh -c "redis-cli -p $port info persistence | grep -q rdb_bgsave_in_progress:0"
test -s dump.rdb; cli shutdown nosave 2>/dev/null || true; wait $server
redis-server --port $port --bind 127.0.0.1 --dir "$work" --save '' --appendonly yes > log2 2>&1 & server=$!
eventually 20 sh -c "redis-cli -p $port get k | grep -qx v"; kill $server; wait $server || true
