#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# sqlite3 with a write-ahead log and concurrent writers.
. "$(dirname "$0")/lib.sh"
need sqlite3
equal "$(sqlite3 t.db 'pragma journal_mode=wal')" wal
sqlite3 t.db 'create table t(id integer primary key, x text)'
for w in 1 2 3 4; do
  (for i in $(seq 10); do sqlite3 -cmd '.timeout 20000' t.db "begin immediate; insert into t(x) values('$w-$i'); commit"; done) &
done
wait
equal "$(sqlite3 t.db 'select count(*), count(distinct x) from t')" "40|40"
sqlite3 t.db "with recursive n(i) as (select 1 union all select i+1 from n where i<20000) insert into t(x) select i from n"
equal "$(sqlite3 t.db 'pragma integrity_check')" ok; sqlite3 t.db 'pragma wal_checkpoint(truncate)' >/dev/null; equal "$(stat -c %s t.db-wal 2>/dev/null || echo 0)" 0
sqlite3 t.db .dump | sqlite3 u.db; equal "$(sqlite3 u.db 'select count(*) from t')" 20040
