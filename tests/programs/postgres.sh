#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# PostgreSQL: initdb, server, pgbench, restart.
. "$(dirname "$0")/lib.sh"
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1) || true
[ -x "$bin/initdb" ] && [ -x "$bin/pgbench" ] || { echo "# skip: postgresql is not installed"; exit 77; }
[ "$(id -u)" = 0 ] || { echo "# skip: needs root to become postgres"; exit 77; }
chown postgres "$work"; chmod 755 "$work"
as() { runuser -u postgres -- "$@"; }
as "$bin/initdb" -D "$work/db" -A trust -U postgres > init.log
port=$(free_port); options="-c listen_addresses=127.0.0.1 -p $port -k $work -c fsync=on -c shared_buffers=16MB"
as "$bin/pg_ctl" -D "$work/db" -l "$work/db/log" -w -t 60 -o "$options" start > /dev/null
trap 'as "$bin/pg_ctl" -D "$work/db" -m immediate stop >/dev/null 2>&1 || true; cleanup' EXIT
sql() { as psql -h 127.0.0.1 -p $port -U postgres -Atc "$1"; }
equal "$(sql 'select sum(i) from generate_series(1,1000) i')" 500500
as "$bin/pgbench" -h "$work" -p $port -U postgres -i -s 1 -q postgres 2> /dev/null
as "$bin/pgbench" -h "$work" -p $port -U postgres -c 4 -j 2 -t 50 postgres 2>/dev/null | has 'number of transactions actually processed: 200/200'
equal "$(sql 'select count(*) from pgbench_history')" 200; sql 'vacuum full analyze; ' >/dev/null
as "$bin/pg_ctl" -D "$work/db" -m fast -w stop > /dev/null
as "$bin/pg_ctl" -D "$work/db" -l "$work/db/log" -w -t 60 -o "$options" start > /dev/null
equal "$(sql 'select count(*) from pgbench_history')" 200
as "$bin/pg_ctl" -D "$work/db" -m fast -w stop > /dev/null; trap cleanup EXIT
