#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Go: goroutines, preemption by signals, net/http on loopback, os/exec.
. "$(dirname "$0")/lib.sh"
need go
export GOCACHE=$(cd "$script_dir/../.." && pwd)/build/go-cache GOPATH=$work/path GOFLAGS=-mod=mod GO111MODULE=off CGO_ENABLED=0 GOTOOLCHAIN=local
cat > t.go <<'G'
package main
import ("fmt"; "io"; "net"; "net/http"; "os"; "os/exec"; "os/signal"; "runtime"; "sync"; "syscall"; "time")
func main() {
	runtime.GOMAXPROCS(1); done := make(chan bool)
	go func() { time.Sleep(50 * time.Millisecond); done <- true }()
	go func() { for { } }() // only a preemption signal can stop this
	<-done; runtime.GOMAXPROCS(2)
	var wg sync.WaitGroup; c := make(chan int, 10); total := 0
	for i := 0; i < 1000; i++ { wg.Add(1); go func(i int) { defer wg.Done(); c <- i }(i) }
	go func() { wg.Wait(); close(c) }(); for v := range c { total += v }
	l, err := net.Listen("tcp", "127.0.0.1:0"); if err != nil { panic(err) }
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "pong") }))
	var got sync.Map
	for i := 0; i < 50; i++ { wg.Add(1); go func(i int) { defer wg.Done(); r, err := http.Get("http://" + l.Addr().String()); if err != nil { panic(err) }; b, _ := io.ReadAll(r.Body); r.Body.Close(); got.Store(i, string(b)) }(i) }
	wg.Wait(); n := 0; got.Range(func(k, v any) bool { if v == "pong" { n++ }; return true })
	s := make(chan os.Signal, 1); signal.Notify(s, syscall.SIGUSR1); syscall.Kill(os.Getpid(), syscall.SIGUSR1); <-s
	out, err := exec.Command("echo", "child").Output(); if err != nil { panic(err) }
	for i := 0; i < 20; i++ { _ = make([]byte, 10<<20); runtime.GC() }
	fmt.Printf("%d %d %s", total, n, out)
}
G
go build -o t t.go; equal "$(timeout 60 ./t)" "499500 50 child"
