#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# python3: threads, subprocess, multiprocessing, asyncio, sockets, files, signals.
. "$(dirname "$0")/lib.sh"
need python3
cat > t.py <<'P'
import asyncio, concurrent.futures, json, mmap, multiprocessing, os, select, signal, socket, sqlite3, subprocess, sys, tempfile, threading, time

def square(x): return x * x

def threads():
    total, lock = [0], threading.Lock()
    def work():
        for _ in range(10000):
            with lock: total[0] += 1
    ts = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in ts]; [t.join() for t in ts]
    assert total[0] == 80000
    with concurrent.futures.ThreadPoolExecutor(8) as e: assert sum(e.map(square, range(100))) == 328350

def processes():
    out = subprocess.run(["sort"], input="b\na\n", capture_output=True, text=True, check=True).stdout
    assert out == "a\nb\n"
    assert subprocess.run("exit 9", shell=True).returncode == 9
    p = subprocess.Popen(["sleep", "10"]); p.terminate(); assert p.wait() == -signal.SIGTERM
    with multiprocessing.Pool(4) as pool: assert pool.map(square, range(50)) == [x * x for x in range(50)]
    q = multiprocessing.Queue(); c = multiprocessing.Process(target=q.put, args=(42,)); c.start(); assert q.get(timeout=20) == 42; c.join()
    ctx = multiprocessing.get_context("spawn")
    with ctx.Pool(2) as pool: assert pool.map(square, [3, 4]) == [9, 16]

def sockets():
    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, "sock")):
        l = socket.socket(family); l.bind(address); l.listen()
        def serve():
            s, _ = l.accept()
            while (d := s.recv(65536)): s.sendall(d)
            s.close()
        t = threading.Thread(target=serve); t.start()
        c = socket.create_connection(l.getsockname()) if family == socket.AF_INET else socket.socket(family)
        if family == socket.AF_UNIX: c.connect(address)
        data = os.urandom(300000); sent = threading.Thread(target=c.sendall, args=(data,)); sent.start()
        got = b""
        while len(got) < len(data): got += c.recv(65536)
        sent.join(); assert got == data; c.close(); t.join(); l.close()

def loops():
    async def main():
        async def handle(r, w):
            w.write((await r.readline()).upper()); await w.drain(); w.close()
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async def ask(i):
            r, w = await asyncio.open_connection("127.0.0.1", port)
            w.write(b"msg %d\n" % i); assert await r.readline() == b"MSG %d\n" % i; w.close()
        await asyncio.gather(*[ask(i) for i in range(50)])
        p = await asyncio.create_subprocess_exec("echo", "hi", stdout=asyncio.subprocess.PIPE)
        assert (await p.communicate())[0] == b"hi\n"
        await asyncio.sleep(0.01); server.close()
    asyncio.run(main())

def files():
    with open("f", "w+b") as f:
        f.write(b"x" * 100000); f.flush()
        m = mmap.mmap(f.fileno(), 0); m[5] = 0x41; m.flush(); f.seek(5); assert f.read(1) == b"A"
    os.makedirs("a/b/c"); os.rename("a", "z"); assert os.path.isdir("z/b/c")
    with tempfile.TemporaryDirectory() as d: open(os.path.join(d, "x"), "w").close()
    assert sum(len(f) for _, _, f in os.walk("/usr/lib/python3")) > 5
    db = sqlite3.connect("t.db"); db.execute("create table t(x)"); db.executemany("insert into t values(?)", [(i,) for i in range(1000)]); db.commit()
    assert db.execute("select sum(x) from t").fetchone()[0] == 499500

def signals():
    hits = []
    signal.signal(signal.SIGALRM, lambda s, f: hits.append(s)); signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    while len(hits) < 5: time.sleep(0.002)
    signal.setitimer(signal.ITIMER_REAL, 0)
    r, w = os.pipe(); pid = os.fork()
    if not pid: os.write(w, b"x"); os._exit(5)
    assert select.select([r], [], [], 10)[0] and os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5

if __name__ == "__main__":
    for part in (threads, processes, sockets, loops, files, signals):
        try: part()
        except BaseException as e: print("#", part.__name__, repr(e)); raise
    print(json.dumps({"fine": True}))
P
equal "$(timeout 100 python3 t.py)" '{"fine": true}'
equal "$(python3 -c 'import ctypes; print(ctypes.CDLL(None).getpid() > 0)')" True
