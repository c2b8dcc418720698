#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# nginx with two workers, driven by wrk on loopback.
. "$(dirname "$0")/lib.sh"
need nginx wrk
port=$(free_port)
mkdir -p www logs tmp; chmod 755 "$work" www; echo 'hello from nginx' > www/index.html; head -c 1048576 /dev/zero > www/big
cat > n.conf <<C
user root; worker_processes 2; pid $work/pid; error_log $work/logs/e; daemon off;
events { worker_connections 256; }
http { access_log $work/logs/a; sendfile on; client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
  server { listen 127.0.0.1:$port; root $work/www; location /p/ { proxy_pass http://127.0.0.1:$port/; } } }
C
nginx -p "$work" -c "$work/n.conf" 2> start.log & server=$!
get() { exec 9<>/dev/tcp/127.0.0.1/$port; printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&9; cat <&9; exec 9>&-; }
eventually 20 grep -q . pid; eventually 20 bash -c "exec 9<>/dev/tcp/127.0.0.1/$port"
equal "$(get / | tail -1)" 'hello from nginx'; equal "$(get /p/ | tail -1)" 'hello from nginx'; equal "$(get /none | head -1 | cut -d' ' -f2)" 404
test "$(get /big | wc -c)" -gt 1048576
wrk -t2 -c16 -d1s http://127.0.0.1:$port/ > w; grep -q 'Requests/sec' w; ! grep -q 'Non-2xx\|Socket errors' w
kill -HUP "$(cat pid)"; sleep 0.3; equal "$(get / | tail -1)" 'hello from nginx'
kill -QUIT "$(cat pid)"; wait $server
