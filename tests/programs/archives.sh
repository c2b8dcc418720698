#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tar, gzip, bzip2, xz.
. "$(dirname "$0")/lib.sh"
need tar gzip xz
mkdir -p t/sub; seq 20000 > t/numbers; head -c 300000 /dev/urandom > t/random; ln -s numbers t/link; ln t/numbers t/hard; chmod 751 t/sub
for z in '' z J; do
  tar -c${z}f a.tar t; mkdir x; tar -x${z}pf a.tar -C x; diff -r t x/t
  equal "$(stat -c %a x/t/sub)" 751; equal "$(stat -c %i x/t/numbers)" "$(stat -c %i x/t/hard)"; rm -r x a.tar
done
gzip -k9 t/numbers -c > n.gz; gzip -t n.gz; zcat n.gz | cmp - t/numbers
xz -T2 -k t/random; xz -dc t/random.xz | cmp - t/random
tar -c /usr/share/doc 2>/dev/null | tar -t | wc -l | has -E '^[0-9]+$'
tar -C / -c usr/include/linux usr/include/x86_64-linux-gnu | tar -x; diff -rq /usr/include/linux usr/include/linux >/dev/null
rm -rf usr; test ! -e usr
