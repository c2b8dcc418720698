#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
. "$(dirname "$0")/lib.sh"
need busybox
b=$(command -v busybox); mkdir bin; "$b" --install -s bin; PATH=$work/bin:$PATH
equal "$(sh -c 'echo $((6*7)) | sed s/4/x/')" x2
equal "$(busybox sh -c 'for i in 1 2 3; do echo $i; done | busybox sort -r | busybox tr "\n" ,')" 3,2,1,
echo data > f; busybox gzip f; busybox zcat f.gz | has -x data; busybox tar cf t.tar f.gz; equal "$(busybox tar tf t.tar)" f.gz
equal "$(busybox awk 'BEGIN{for(i=0;i<10;i++)s+=i;print s}')" 45; busybox find /etc -name passwd | has -x /etc/passwd
busybox ps | has busybox; busybox vi -h >/dev/null 2>&1 || true; busybox md5sum f.gz >/dev/null; busybox id -u | has -x "$(id -u)"
equal "$(busybox seq 5 | busybox wc -l)" 5; busybox timeout 1 busybox sleep 5 || equal $? 143
