#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Node: fs, worker_threads, child_process, http, timers.
. "$(dirname "$0")/lib.sh"
need node
cat > t.js <<'J'
const fs = require('fs'), http = require('http'), cp = require('child_process'), os = require('os'), assert = require('assert');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
if (!isMainThread) { let s = 0; for (let i = 0; i < 1e6; i++) s += i % workerData; parentPort.postMessage(s); return; }
(async () => {
  fs.mkdirSync('d/e', { recursive: true });
  await fs.promises.writeFile('d/f', 'x'.repeat(1e5)); assert.equal((await fs.promises.stat('d/f')).size, 1e5);
  await fs.promises.rename('d/f', 'd/g'); assert.deepEqual(fs.readdirSync('d').sort(), ['e', 'g']);
  const sums = await Promise.all([2, 3, 5, 7].map(n => new Promise((y, no) => new Worker(__filename, { workerData: n }).on('message', y).on('error', no))));
  assert.equal(sums[0], 500000);
  assert.equal(cp.execSync('echo out').toString(), 'out\n'); assert.equal(cp.spawnSync('sh', ['-c', 'exit 3']).status, 3);
  const child = cp.spawn('cat'); child.stdin.end('piped'); let got = ''; for await (const c of child.stdout) got += c; assert.equal(got, 'piped');
  const server = http.createServer((q, r) => { let n = 0; q.on('data', d => n += d.length).on('end', () => r.end(String(n))); });
  await new Promise(y => server.listen(0, '127.0.0.1', y));
  const post = size => new Promise((y, no) => { const q = http.request({ port: server.address().port, host: '127.0.0.1', method: 'POST' }, r => { let b = ''; r.on('data', d => b += d).on('end', () => y(b)); }); q.on('error', no); q.end(Buffer.alloc(size)); });
  assert.deepEqual(await Promise.all([1, 1000, 5000000].map(post)), ['1', '1000', '5000000']);
  server.close(); await new Promise(y => setTimeout(y, 20)); assert(os.totalmem() > 0 && os.cpus().length > 0);
  console.log('fine');
})().catch(e => { console.log('#', e); process.exit(1); });
J
equal "$(timeout 60 node t.js)" fine
