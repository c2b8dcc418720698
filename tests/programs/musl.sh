#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A static musl program with threads, fork and exec.
. "$(dirname "$0")/lib.sh"
need musl-gcc
cat > m.c <<'C'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static int sum; static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static void *add(void *p) { for (int i = 0; i < 10000; i++) { pthread_mutex_lock(&m); sum++; pthread_mutex_unlock(&m); } return p; }
int main(int c, char **v) {
  if (c > 1) { printf("child %s\n", v[1]); return 4; }
  pthread_t t[8]; for (int i = 0; i < 8; i++) pthread_create(&t[i], 0, add, 0); for (int i = 0; i < 8; i++) pthread_join(t[i], 0);
  fflush(stdout); if (!fork()) { execl(v[0], v[0], "x", (char *)0); _exit(9); }
  int s; wait(&s); struct timespec ts; clock_gettime(CLOCK_MONOTONIC, &ts); char *p = malloc(1 << 20); free(p);
  printf("%d %d\n", sum, WEXITSTATUS(s)); return 0;
}
C
musl-gcc -static -O2 -o m m.c -pthread; equal "$(./m)" $'child x\n80000 4'
