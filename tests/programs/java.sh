#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Java: compile, run, garbage collection, threads, http.
. "$(dirname "$0")/lib.sh"
need javac java
cat > T.java <<'J'
import java.net.*; import java.net.http.*; import java.nio.file.*; import java.util.*; import java.util.concurrent.*; import com.sun.net.httpserver.*;
public class T {
  public static void main(String[] a) throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(16); List<Future<Long>> fs = new ArrayList<>();
    for (int i = 0; i < 64; i++) { final int n = i; fs.add(pool.submit(() -> { long s = 0; for (int k = 0; k < 100000; k++) s += k ^ n; return s; })); }
    for (Future<Long> f : fs) f.get(); pool.shutdown();
    for (int i = 0; i < 2000; i++) { byte[][] junk = new byte[100][]; for (int k = 0; k < 100; k++) junk[k] = new byte[1000]; } System.gc();
    HttpServer s = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
    s.createContext("/", x -> { byte[] b = "hi".getBytes(); x.sendResponseHeaders(200, b.length); x.getResponseBody().write(b); x.close(); }); s.start();
    HttpResponse<String> r = HttpClient.newHttpClient().send(HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + s.getAddress().getPort() + "/")).build(), HttpResponse.BodyHandlers.ofString());
    s.stop(0);
    Process p = new ProcessBuilder("echo", "child").start(); String out = new String(p.getInputStream().readAllBytes()); p.waitFor();
    Files.writeString(Path.of("f"), "x".repeat(10000)); Thread.sleep(10);
    System.out.println(r.body() + " " + out.trim() + " " + Files.size(Path.of("f")));
    System.exit(0);
  }
}
J
javac T.java; equal "$(timeout 60 java -Xmx128m T)" "hi child 10000"; equal "$(timeout 60 java -XX:+UseSerialGC -Xmx64m T)" "hi child 10000"
