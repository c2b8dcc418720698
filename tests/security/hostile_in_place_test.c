// SPDX-License-Identifier: Apache-2.0
// A guest that attacks what it shares with others for input and output in place: it rewrites the memory of its connections, pipes and
// eventfds while it and the other end use them, and keeps locks. Others keep their bytes and their system calls.
#include "hostile.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

// Offsets from the start of the stub's corner (platform/systrap/stub/layout.h, platform/interface/in_place_io.h).
#define DESCRIPTORS 0x404000UL
#define SHARED 0x407000UL
#define LOCKS (SHARED + 24)
#define BLOCKS 0x18000000UL
#define BLOCK_SIZE 0x20000UL
static uintptr_t corner(void) { return getauxval(AT_SYSINFO_EHDR) & ~0xfffffUL; }
static uint64_t word_of(int fd) { return ((volatile uint64_t *)(corner() + DESCRIPTORS))[fd]; }
static volatile char *block_of(uint64_t word) { return (volatile char *)(corner() + BLOCKS + (word >> 8 & 0xffff) * BLOCK_SIZE); }
// Uses an end until the stub works on it. Both ends are in this process or the other one answers.
static void *echo(void *fd) {
  char b[64];
  ssize_t n;
  while ((n = read(*(int *)fd, b, sizeof b)) > 0)
    if (write(*(int *)fd, b, (size_t)n) != n) break;
  return NULL;
}
static bool warm_up(int fd) {
  char c = 1;
  for (int i = 0; i < 2000 && !word_of(fd); i++)
    if (write(fd, &c, 1) != 1 || read(fd, &c, 1) != 1) return false;
  return word_of(fd) != 0;
}
static void need_in_place(void) {
  find_stub();
  int s[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  IN_CHILD(pid, {
    close(s[0]);
    echo(&s[1]);
  });
  close(s[1]);
  bool there = can_read(corner() + DESCRIPTORS) && warm_up(s[0]);
  close(s[0]);
  EXPECT_EXIT(pid, 0);
  if (!there) SKIP("this platform does no I/O in place");
}

TEST(words_of_descriptors_are_read_only) {
  need_in_place();
  for (uintptr_t at = 0x404000; at < 0x407000; at += P) EXPECT_TRUE(can_read(corner() + at) && !can_write(corner() + at));
  EXPECT_TRUE(can_read(corner() + 0x201000) && !can_write(corner() + 0x201000));  // waiting words
  EXPECT_TRUE(can_read(corner() + 0x202000) && !can_write(corner() + 0x202000));  // change words
}

// Two innocent processes that send each other numbered bytes while others attack: [4] rounds, [5] mistakes.
static int inner_pair[2];
static void innocent(int fd, bool first) {
  unsigned char out = 0, in;
  struct pollfd p = {.fd = fd, .events = POLLIN};
  while (!__atomic_load_n(&board[0], __ATOMIC_SEQ_CST)) {
    if (first && write(fd, &out, 1) != 1) break;
    if (poll(&p, 1, 2000) != 1 || read(fd, &in, 1) != 1) {
      if (!board[0]) board[5]++;
      break;
    }
    if (in != out) board[5]++;
    if (!first && write(fd, &out, 1) != 1) break;
    out++, board[4] += first;
  }
  _exit(0);
}
static void scribble_in_place(unsigned n, int fds, int spare) {
  static const uint64_t poison[] = {0, ~0UL, 1, 2, 0x4000, 0x4001, 0x8000, 0x7fffffffffffUL, 1UL << 63};
  volatile char *locks = (volatile char *)(corner() + LOCKS);
  for (unsigned i = 0; i < n; i++) {
    unsigned r = next_random(), fd = next_random() % (unsigned)fds;
    uint64_t word = word_of((int)fd);
    if (r % 4 == 0) locks[next_random() % 2048] = (char)(r >> 8 & 1);
    else if (word) {
      // The heads of blocks, flags and bits more often than rings.
      uintptr_t at = (next_random() % 4 ? next_random() % 0x1000 : next_random() % 0x7000) / 4 * 4;
      *(volatile uint32_t *)(block_of(word) + at) = r % 3 ? (uint32_t)poison[next_random() % 9] : next_random();
    }
  }
  (void)spare;
}
// Threads that use the connections as they should while their own process scribbles.
static int own[8][2], own_epoll, own_event, own_pipe[2], own_other[2];
static void *use_own(void *unused) {
  (void)unused;
  char b[5000];
  struct epoll_event e[16];
  while (!done) {
    for (int i = 0; i < 8; i++) {
      (void)!write(own[i][0], b, 1 + next_random() % 4000);
      (void)!read(own[i][1], b, sizeof b);
      (void)!write(own[i][1], b, 7);
      (void)!recv(own[i][0], b, sizeof b, MSG_DONTWAIT);
      struct epoll_event add = {.events = EPOLLIN | (next_random() % 2 ? (uint32_t)EPOLLET : 0), .data.u64 = next_random()};
      epoll_ctl(own_epoll, 1 + (int)(next_random() % 3), own[i][0], &add);
    }
    uint64_t value = next_random() % 8 ? next_random() : ~0UL - next_random() % 3;
    (void)!write(own_event, &value, 8);
    (void)!read(own_event, &value, 8);
    struct epoll_event event = {.events = EPOLLIN | (next_random() % 2 ? EPOLLOUT | (uint32_t)EPOLLET : 0), .data.u64 = 5};
    epoll_ctl(own_epoll, 1 + (int)(next_random() % 3), own_event, &event);
    (void)!write(own_pipe[1], b, 1 + next_random() % (next_random() % 4 ? 300 : 5000));
    (void)!read(own_pipe[0], b, 1 + next_random() % 5000);
    (void)!splice(own_pipe[0], NULL, own_other[1], NULL, 5000, SPLICE_F_NONBLOCK);
    epoll_ctl(own_epoll, 1 + (int)(next_random() % 3), own_pipe[next_random() % 2], &event);
    epoll_wait(own_epoll, e, 16, 0);
    struct pollfd p[3] = {{own[0][0], POLLIN | POLLOUT, 0}, {own[1][1], POLLIN, 0}, {own_event, POLLIN | POLLOUT, 0}};
    poll(p, 3, 0);
  }
  return NULL;
}
static void in_place_step(int i) {
  seed = (unsigned)i * 2654435761u + 77;
  int most = 0;
  for (int k = 0; k < 8; k++) {
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, own[k]);
  }
  own_epoll = epoll_create1(0);
  own_event = eventfd(0, EFD_NONBLOCK);
  (void)!pipe2(own_pipe, O_NONBLOCK), (void)!pipe2(own_other, O_NONBLOCK);
  most = own_other[1];
  pthread_t t[2];
  done = false;
  for (int k = 0; k < 2; k++) pthread_create(&t[k], NULL, use_own, NULL);
  usleep(3000);
  for (int k = 0; k < 60; k++) {
    scribble_in_place(200, most + 2, 0);
    if (k % 8 == 3) {
      int fd = own[next_random() % 8][next_random() % 2];
      switch (next_random() % 4) {
        case 0: shutdown(fd, (int)(next_random() % 3)); break;
        case 1: close(dup(fd)); break;
        case 2: if (!fork()) _exit(0); break;
        default: close(fd), socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, own[next_random() % 8]);
      }
    }
  }
  done = true;
  _exit(0);
}
TEST_TIMEOUT(rewrite_memory_of_connections, 60) {
  need_in_place();
  pid_t witness = start_witness();
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, inner_pair));
  IN_CHILD(a, close(inner_pair[1]); innocent(inner_pair[0], true));
  IN_CHILD(b, close(inner_pair[0]); innocent(inner_pair[1], false));
  close(inner_pair[0]), close(inner_pair[1]);
  attack(40, in_place_step, 1500, 25000);
  printf("# %d steps, %d rounds of the innocent\n", board[3], board[4]);
  int before = board[4];
  for (int i = 0; i < 200 && board[4] < before + 100; i++) kit_sleep_ms(10);
  EXPECT_GE(board[4], before + 100);
  EXPECT_EQ(board[5], 0);
  end_witness(witness);
  kit_wait(a), kit_wait(b);
}

// An event of the stub that nothing caused: the slot says kStubKick for any descriptor. The slot is that of the first thread.
static void kick_step(int i) {
  seed = (unsigned)i * 40503u + 3;
  int s[2], e = epoll_create1(0);
  socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s);
  own_event = eventfd(0, EFD_NONBLOCK);
  pthread_t t;
  done = false;
  pthread_create(&t, NULL, use_own, NULL);
  volatile uint32_t *slot = (volatile uint32_t *)(corner() + 0x408000);
  for (int k = 0; k < 20000; k++) {
    slot[1] = 5 | (next_random() % 4 ? 0 : 1 << 8);                                        // head
    slot[14] = next_random() % 3 ? next_random() % 16 : next_random();                     // number: the descriptor
    slot[15] = next_random() % 4 ? next_random() : (uint32_t)-(int32_t)(next_random() % 600);  // reply: the result
    if (k % 16 == 0) syscall(SYS_getppid), read(s[0], &k, 0), epoll_wait(e, &(struct epoll_event){0}, 1, 0);
  }
  _exit(0);
}
TEST_TIMEOUT(kicks_out_of_nothing, 60) {
  need_in_place();
  pid_t witness = start_witness();
  attack(15, kick_step, 800, 20000);
  end_witness(witness);
}

// The peer of an innocent process writes positions, flags and rings as it likes, and never gives back its locks. The innocent one sees
// bytes, ends and errors, and no call that must not block takes long.
static void bad_peer(int fd) {
  warm_up(fd);
  seed = 12345;
  volatile char *block = block_of(word_of(fd)), *locks = (volatile char *)(corner() + LOCKS);
  locks[fd] = locks[1024 + fd] = 1;
  static const uint64_t poison[] = {0, ~0UL, 1, 0x3fff, 0x4000, 0x4001, 0x8000, 1UL << 63};
  for (int i = 0; i < 3000000 && !board[6]; i++) {
    unsigned half = next_random() % 2 * 256, r = next_random();
    switch (r % 8) {
      case 0: *(volatile uint64_t *)(block + half) = poison[next_random() % 8]; break;
      case 1: *(volatile uint64_t *)(block + half + 64) = poison[next_random() % 8]; break;
      case 2: *(volatile uint64_t *)(block + half + 128) = next_random() % 4 ? 0 : next_random(); break;
      case 3: block[0x1000 + next_random() % 0x8000] = (char)r; break;
      default: *(volatile uint64_t *)(block + half + (next_random() % 2 ? 64 : 0)) += next_random() % 3000; break;
    }
  }
  *(volatile uint64_t *)(block + 128) = *(volatile uint64_t *)(block + 256 + 128) = 0;  // flags: as if nothing were odd
}
TEST_TIMEOUT(peer_that_rewrites_the_connection, 60) {
  need_in_place();
  pid_t witness = start_witness();
  int s[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  IN_CHILD(peer, close(s[0]); bad_peer(s[1]));
  close(s[1]);
  char b[8192];
  for (int i = 0; i < 2000; i++) {  // what warm_up() sends comes back
    ssize_t n = recv(s[0], b, 1, 0);
    if (n == 1) (void)!send(s[0], b, 1, MSG_NOSIGNAL);
    if (word_of(s[0])) break;
  }
  OK(fcntl(s[0], F_SETFL, O_NONBLOCK));
  int e = OK(epoll_create1(0));
  struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP, .data.u64 = 42};
  OK(epoll_ctl(e, EPOLL_CTL_ADD, s[0], &ev));
  long long worst = 0, end = kit_now_ns() + 3000000000LL;
  for (unsigned i = 0; kit_now_ns() < end; i++) {
    long long start = kit_now_ns();
    struct pollfd p = {.fd = s[0], .events = POLLIN | POLLOUT};
    switch (i % 5) {
      case 0: { ssize_t n = read(s[0], b, sizeof b); EXPECT_TRUE(n >= -1 && n <= (ssize_t)sizeof b); break; }
      case 1: { ssize_t n = send(s[0], b, 1 + i % 5000, MSG_NOSIGNAL); EXPECT_TRUE(n >= -1 && n <= 5000); break; }
      case 2: EXPECT_GE(poll(&p, 1, 0), 0); break;
      case 3: EXPECT_TRUE(epoll_wait(e, &ev, 1, 0) <= 1 && ev.data.u64 == 42); break;
      default: ev.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | (i % 2 ? (uint32_t)EPOLLET : 0);
               OK(epoll_ctl(e, EPOLL_CTL_MOD, s[0], &ev));
    }
    if (kit_now_ns() - start > worst) worst = kit_now_ns() - start;
  }
  long long start = kit_now_ns();
  OK(shutdown(s[0], SHUT_RD));  // does not wait for the peer's lock
  if (kit_now_ns() - start > worst) worst = kit_now_ns() - start;
  board[6] = 1;
  EXPECT_EXIT(peer, 0);
  EXPECT_TRUE(worst < 700000000LL);
  printf("# worst %lld us\n", worst / 1000);
  end_witness(witness);
}
// The same of a pipe, by its writer and by its reader.
static void bad_pipe_end(int fd, bool writes) {
  char b[64];
  for (int i = 0; i < 200000 && !word_of(fd) && !board[6]; i++)
    if ((writes ? write(fd, b, 8) : read(fd, b, 8)) < 0) break;
  if (!word_of(fd)) _exit(7);
  seed = 4711 + writes;
  volatile char *block = block_of(word_of(fd)), *locks = (volatile char *)(corner() + LOCKS);
  locks[fd] = locks[1024 + fd] = 1;
  static const uint64_t poison[] = {0, ~0UL, 1, 0xffff, 0x10000, 0x10001, 0x20000, 1UL << 63};
  while (!board[6]) {
    unsigned half = next_random() % 8 ? 0 : 256, r = next_random();
    switch (r % 8) {
      case 0: *(volatile uint64_t *)(block + half) = poison[next_random() % 8]; break;
      case 1: *(volatile uint64_t *)(block + half + 64) = poison[next_random() % 8]; break;
      case 2: *(volatile uint32_t *)(block + half + 128) = next_random() % 4 ? next_random() % 8 : next_random(); break;
      case 3: block[0x1000 + next_random() % 0x10000] = (char)r; break;
      default: *(volatile uint64_t *)(block + half + (next_random() % 2 ? 64 : 0)) += next_random() % 9000; break;
    }
  }
  *(volatile uint32_t *)(block + 128) = 0;  // as if nothing were odd
  _exit(0);
}
static void pipe_with_bad_end(bool writer_is_bad) {
  int p[2], q[2];
  static char b[70000];
  OK(pipe(p));
  board[6] = 0;
  pid_t bad = OK(fork());
  if (!bad) {
    close(p[writer_is_bad ? 0 : 1]);
    bad_pipe_end(p[writer_is_bad ? 1 : 0], writer_is_bad);
  }
  close(p[writer_is_bad ? 1 : 0]);
  const int mine = p[writer_is_bad ? 0 : 1];
  OK(fcntl(mine, F_SETFL, O_NONBLOCK));
  OK(pipe2(q, O_NONBLOCK));
  signal(SIGPIPE, SIG_IGN);
  int e = OK(epoll_create1(0)), more;
  struct epoll_event ev = {.events = writer_is_bad ? EPOLLIN : EPOLLOUT, .data.u64 = 42};
  OK(epoll_ctl(e, EPOLL_CTL_ADD, mine, &ev));
  long long worst = 0, end = kit_now_ns() + 3000000000LL;
  for (unsigned i = 0; kit_now_ns() < end; i++) {
    const long long start = kit_now_ns();
    struct pollfd f = {.fd = mine, .events = POLLIN | POLLOUT};
    switch (i % 8) {
      case 0: EXPECT_GE(poll(&f, 1, 0), 0); break;
      case 1: EXPECT_TRUE(epoll_wait(e, &ev, 1, 0) <= 1); break;
      case 2: OK(ioctl(mine, FIONREAD, &more)); EXPECT_TRUE(more >= 0 && more <= 3 * 65536); break;
      case 3:
        ev.events = (writer_is_bad ? EPOLLIN : EPOLLOUT) | (i % 3 ? (uint32_t)EPOLLET : 0);
        OK(epoll_ctl(e, EPOLL_CTL_MOD, mine, &ev));
        break;
      case 4:
        if (i % 64 == 4) fcntl(mine, F_SETPIPE_SZ, i % 128 == 4 ? 131072 : 65536);
        if (writer_is_bad) {
          ssize_t n = i % 16 == 4 ? tee(mine, q[1], 30000, SPLICE_F_NONBLOCK) : splice(mine, NULL, q[1], NULL, 30000, SPLICE_F_NONBLOCK);
          EXPECT_TRUE(n >= -1 && n <= 30000);
          while (read(q[0], b, sizeof b) > 0) {}
        }
        break;
      default: {
        const size_t size = i % 3 ? 1 + i % 5000 : sizeof b;
        ssize_t n = writer_is_bad ? read(mine, b, size) : write(mine, b, size);
        EXPECT_TRUE(n >= -1 && n <= (ssize_t)size);
      }
    }
    if (kit_now_ns() - start > worst) worst = kit_now_ns() - start;
  }
  const long long start = kit_now_ns();
  close(mine);
  if (kit_now_ns() - start > worst) worst = kit_now_ns() - start;
  board[6] = 1;
  EXPECT_EXIT(bad, 0);
  EXPECT_TRUE(worst < 700000000LL);
  printf("# worst %lld us\n", worst / 1000);
}
TEST_TIMEOUT(pipe_whose_writer_lies, 60) {
  need_in_place();
  pid_t witness = start_witness();
  pipe_with_bad_end(true);
  end_witness(witness);
}
TEST_TIMEOUT(pipe_whose_reader_lies, 60) {
  need_in_place();
  pid_t witness = start_witness();
  pipe_with_bad_end(false);
  end_witness(witness);
}
// The end of a pipe that was passed on shows no bytes that were read before, nor can the other side be written there.
TEST(passed_pipe_shows_no_old_bytes) {
  need_in_place();
  int p[2], go[2];
  OK(pipe(p));
  OK(pipe(go));
  static char secret[64] = "the secret of the one who had it first, and whom it is for only";
  char b[64];
  for (int i = 0; i < 200; i++) EXPECT_TRUE(write(p[1], secret, 64) == 64 && read(p[0], b, 64) == 64);
  EXPECT_TRUE(word_of(p[0]) != 0);
  IN_CHILD(next, {
    close(p[1]);
    EXPECT_EQ(read(go[0], b, 1), 1);
    for (int i = 0; i < 2000 && !word_of(p[0]); i++) EXPECT_EQ(read(p[0], b, 1), 1);
    EXPECT_TRUE(word_of(p[0]) != 0);
    volatile char *block = block_of(word_of(p[0]));
    for (size_t at = 0x1000; at < 0x11000 - 64; at++)
      EXPECT_TRUE(!(block[at] == secret[4] && block[at + 1] == secret[5] && block[at + 2] == secret[6] && block[at + 3] == secret[7]));
  });
  close(p[0]);
  signal(SIGPIPE, SIG_IGN);
  EXPECT_EQ(write(go[1], b, 1), 1);
  memset(b, 'x', sizeof b);
  while (write(p[1], b, 1) == 1) {}
  EXPECT_EXIT(next, 0);
}
// The peer hides that it went away; it is told all the same.
TEST(peer_that_hides_its_end) {
  need_in_place();
  board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int s[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  IN_CHILD(peer, {
    close(s[0]);
    warm_up(s[1]);
    volatile char *block = block_of(word_of(s[1]));
    // A thread that clears the flags for as long as the process lives.
    pthread_t t;
    void *clear(void *at) {
      for (;;) ((volatile uint32_t *)at)[32] = ((volatile uint32_t *)at)[96] = 0;
      return NULL;
    }
    pthread_create(&t, NULL, clear, (void *)block);
    close(s[1]);
    while (!board[6]) kit_sleep_ms(1);
    kit_sleep_ms(100);
  });
  close(s[1]);
  char c;
  int e = OK(epoll_create1(0));
  struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP};
  OK(epoll_ctl(e, EPOLL_CTL_ADD, s[0], &ev));
  OK(fcntl(s[0], F_SETFL, O_NONBLOCK));
  bool ended = false;
  for (long long end = kit_now_ns() + 10000000000LL; !ended && kit_now_ns() < end;) {
    if (epoll_wait(e, &ev, 1, 1000) != 1) continue;
    ssize_t n = read(s[0], &c, 1);
    if (n == 1) n = send(s[0], &c, 1, MSG_NOSIGNAL);
    ended = n == 0 || (n < 0 && errno != EAGAIN);
  }
  EXPECT_TRUE(ended);
  board[6] = 1;
  EXPECT_EXIT(peer, 0);
}
// A connection to a child that echoes; s[0] is ours.
static pid_t start_echo(int s[2]) {
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
  IN_CHILD(peer, {
    close(s[0]);
    echo(&s[1]);
  });
  close(s[1]);
  return peer;
}
// An end that was passed to another process shows that one no bytes that were read before.
TEST(passed_end_shows_no_old_bytes) {
  need_in_place();
  int s[2];
  const pid_t peer = start_echo(s);
  static char secret[64] = "the secret of the one who had it first, and whom it is for only";
  EXPECT_TRUE(warm_up(s[0]));
  char b[64];
  for (int i = 0; i < 100; i++) EXPECT_TRUE(write(s[0], secret, 64) == 64 && read(s[0], b, 64) == 64);
  int go[2];
  OK(pipe(go));
  IN_CHILD(next, {
    EXPECT_EQ(read(go[0], b, 1), 1);  // the first one has closed its descriptor
    EXPECT_TRUE(warm_up(s[0]));
    volatile char *block = block_of(word_of(s[0]));
    for (size_t at = 0x1000; at < 0x9000 - 64; at++)
      EXPECT_TRUE(!(block[at] == secret[4] && block[at + 1] == secret[5] && block[at + 2] == secret[6] && block[at + 3] == secret[7]));
  });
  close(s[0]);
  EXPECT_EQ(write(go[1], b, 1), 1);
  EXPECT_EXIT(next, 0);
  EXPECT_EXIT(peer, 0);
}
// With a filter of its own a process has no memory of connections, in which the filter would see nothing.
TEST(a_seccomp_filter_ends_in_place) {
  need_in_place();
  int s[2];
  const pid_t peer = start_echo(s);
  EXPECT_TRUE(warm_up(s[0]));
  volatile char *block = block_of(word_of(s[0]));
  struct { unsigned short code; unsigned char jt, jf; unsigned k; } allow = {6, 0, 0, 0x7fff0000};
  struct { unsigned short n; void *filter; } program = {1, &allow};
  IN_CHILD(child, {
    OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    OK(syscall(SYS_seccomp, 1, 0, &program));
    EXPECT_TRUE(!warm_up(s[0]));
  });
  EXPECT_EXIT(child, 0);
  EXPECT_TRUE(warm_up(s[0]));
  OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  OK(syscall(SYS_seccomp, 1, 0, &program));
  EXPECT_EQ(word_of(s[0]), 0);
  EXPECT_TRUE(!can_read((uintptr_t)block));
  close(s[0]);
  EXPECT_EXIT(peer, 0);
}

// Answers of stat(2): in_place::AnswerTable.
#define ANSWERS (BLOCKS + (1024 - 8) * BLOCK_SIZE)
#define COMMON (BLOCKS + (1024 - 16) * BLOCK_SIZE)  // the same, for several processes
#define ANSWERS_SIZE (64 + 2 * 16384 + 3100 * 320)
static bool warm_up_answers(void) {
  struct stat st;
  for (int i = 0; i < 100; i++)
    if (stat("/bin/sh", &st) != 0 || stat(".", &st) != 0) return false;
  return can_read(corner() + ANSWERS) && can_read(corner() + COMMON);
}

// Who writes to his own answers fools himself and nobody else.
TEST(forged_answers_fool_nobody_else) {
  find_stub();
  struct stat before, st;
  OK(stat("/bin/sh", &before));
  if (!can_read(corner() + DESCRIPTORS) || !warm_up_answers()) SKIP("this platform answers no stat in place");
  static const uint64_t poison[] = {0, ~0UL, 1, 2, 0xffff, 0x7fffffffffffUL, 1UL << 63};
  volatile uint64_t *table = (volatile uint64_t *)(corner() + ANSWERS);
  for (unsigned i = 0; i < 200000; i++) {
    const unsigned at = next_random() % 3 ? next_random() % 4200 : next_random() % (ANSWERS_SIZE / 8);
    table[at] = next_random() % 2 ? poison[next_random() % 7] : next_random();
    if (i % 8 == 0) stat(i % 16 ? "." : "no/such/name", &st);
    if (i % 8 == 1) stat(i % 16 != 1 ? "/bin/sh" : "/no/such/name", &st);
    if (i % 64 == 0) close(open("/", O_RDONLY));
  }
  for (unsigned i = 0; i < ANSWERS_SIZE / 8; i++) table[i] = 0x0001000100010001;
  stat(".", &st);
  // What others see as well it cannot write at all.
  for (unsigned at = 0; at < ANSWERS_SIZE; at += 4096) EXPECT_TRUE(!can_write(corner() + COMMON + at));
  EXPECT_TRUE(mprotect((void *)(corner() + COMMON), 4096, PROT_READ | PROT_WRITE) != 0);
  IN_CHILD(child, {
    EXPECT_TRUE(!can_read(corner() + ANSWERS) && !can_read(corner() + COMMON));
    for (int i = 0; i < 200; i++) {
      OK(stat(".", &st));
      OK(stat("/bin/sh", &st));
      EXPECT_EQ(st.st_ino, before.st_ino);
      EXPECT_ERR(stat("/no/such/name", &st), ENOENT);
    }
    EXPECT_TRUE(can_read(corner() + ANSWERS) && can_read(corner() + COMMON));
    // Not even through what the stub itself can call: stub_pages_stay_read_only has tried.
    EXPECT_TRUE(!can_write(corner() + COMMON));
  });
  EXPECT_EXIT(child, 0);
}

static bool is_in_common(const char *text) {
  return memmem((void *)(corner() + COMMON), ANSWERS_SIZE, text, strlen(text)) != NULL;
}
// Who may do less sees nothing of what those who may do more have asked for.
TEST(answers_are_in_common_with_equals_only) {
  if (geteuid() != 0) SKIP("needs root");
  find_stub();
  if (!can_read(corner() + DESCRIPTORS) || !warm_up_answers()) SKIP("this platform answers no stat in place");
  struct stat st;
  OK(chmod(".", 0755));
  char secret[64], text[80];  // so that no page here has it in one piece but for the moment of asking
  snprintf(secret, sizeof secret, "/no-such-secret-%d", getpid());
  snprintf(text, sizeof text, "%s", secret + 1);
  for (int i = 0; i < 3; i++) EXPECT_ERR(stat(secret, &st), ENOENT);
  EXPECT_TRUE(is_in_common(text));
  IN_CHILD(equal, {
    ASSERT_TRUE(warm_up_answers());
    EXPECT_TRUE(is_in_common(text));
  });
  EXPECT_EXIT(equal, 0);
  IN_CHILD(other, {
    OK(syscall(SYS_setresuid, 1000, 1000, 1000));
    ASSERT_TRUE(warm_up_answers());
    EXPECT_TRUE(!is_in_common(text));
  });
  EXPECT_EXIT(other, 0);
  IN_CHILD(weak, {
    OK(prctl(PR_CAPBSET_DROP, 0, 0, 0, 0));
    ASSERT_TRUE(warm_up_answers());
    EXPECT_TRUE(!is_in_common(text));
  });
  EXPECT_EXIT(weak, 0);
}

// Another program gets no answers of the one before, and one with a filter none at all.
TEST(answers_end_with_the_program) {
  find_stub();
  if (!can_read(corner() + DESCRIPTORS) || !warm_up_answers()) SKIP("this platform answers no stat in place");
  struct { unsigned short code; unsigned char jt, jf; unsigned k; } allow = {6, 0, 0, 0x7fff0000};
  struct { unsigned short n; void *filter; } program = {1, &allow};
  OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  OK(syscall(SYS_seccomp, 1, 0, &program));
  struct stat st;
  OK(stat("/bin/sh", &st));
  EXPECT_TRUE(!can_read(corner() + ANSWERS) && !can_read(corner() + COMMON));
}

// Places of plain files and descriptors that were closed in place: in_place::PlacesBlock, ProcessShared::closed.
#define PLACES (COMMON - BLOCK_SIZE)
#define CLOSED (LOCKS + 2048)
static int large;
static void use_files(int shared) {
  char b[256];
  const int fd = open("plain", next_random() % 2 ? O_RDONLY : O_RDWR), dir = open(".", O_RDONLY | O_DIRECTORY);
  read(fd, b, next_random() % sizeof b);
  lseek(fd, next_random() % 100, (int)(next_random() % 3));
  pread(fd, b, next_random() % sizeof b, next_random() % 100);
  pread(large, b, next_random() % sizeof b, next_random() % WINDOW_BYTES);
  memset(b, 'l', sizeof b);
  pwrite(large, b, next_random() % sizeof b, next_random() % (WINDOW_BYTES - sizeof b));
  read(shared, b, next_random() % sizeof b);
  lseek(shared, 0, SEEK_CUR);
  syscall(SYS_getdents64, dir, b, sizeof b);
  syscall(SYS_getdents64, dir, b, sizeof b);
  fcntl(fd, F_SETFD, next_random() % 2);
  if (next_random() % 4 == 0) write(fd, b, next_random() % 64);
  close(fd);
  close(dir);
}
// Who writes to them fools himself: others keep their descriptors, positions and bytes, and what he shares with others is a position.
TEST(forged_places_fool_nobody_else) {
  find_stub();
  kit_write_file("plain", "0123456789");
  const int shared = OK(open("plain", O_RDONLY));
  large = make_window_to_write("large", 'l');
  for (int i = 0; i < 40; i++) use_files(shared);
  if (!can_read(corner() + PLACES)) SKIP("this platform reads no files in place");
  int ends[2];
  OK(pipe(ends));
  IN_CHILD(witness, {
    // Its own places, beside the attacks.
    char c;
    OK(close(ends[1]));
    kit_write_file("witness", "abcdefghij");
    do {
      const int fd = OK(open("witness", O_RDONLY));
      char b[16];
      EXPECT_EQ(read(fd, b, 4), 4);
      EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 4);
      EXPECT_EQ(read(fd, b, 16), 6);
      EXPECT_TRUE(memcmp(b, "efghij", 6) == 0);
      EXPECT_EQ(lseek(fd, 0, SEEK_END), 10);
      OK(close(fd));
      EXPECT_ERR(close(fd), EBADF);
      EXPECT_TRUE(lseek(shared, 0, SEEK_CUR) >= 0);
      fcntl(ends[0], F_SETFL, O_NONBLOCK);
    } while (read(ends[0], &c, 1) < 0 && !kit_failed());
  });
  static const uint64_t poison[] = {0, ~0UL, 1, 2, 0xffff, 0x7fffffffffffUL, 1UL << 63, 0x1ffffffffffffUL};
  volatile uint64_t *block = (volatile uint64_t *)(corner() + PLACES), *closed = (volatile uint64_t *)(corner() + CLOSED);
  for (unsigned i = 0; i < 60000; i++) {
    const unsigned at = next_random() % 3 ? next_random() % (64 * 192 / 8) : next_random() % (BLOCK_SIZE / 8);
    block[at] = next_random() % 2 ? poison[next_random() % 8] : next_random();
    if (i % 16 == 0) {
      // Nothing that is open for others to see: 0 to 2, the witness's pipe.
      *(volatile uint32_t *)closed = 1;
      closed[1 + next_random() % 16] |= next_random() % 2 ? ~0x3ffUL : poison[next_random() % 8] & ~0x3ffUL;
    }
    if (i % 8 == 0) use_files(shared);
  }
  EXPECT_EQ(write(ends[1], "e", 1), 1);
  EXPECT_EXIT(witness, 0);
  for (int i = 1; i <= 16; i++) closed[i] = 0;
  for (unsigned i = 0; i < BLOCK_SIZE / 8; i++) block[i] = 0;
  char b[16];
  const int fd = OK(open("plain", O_RDONLY));
  EXPECT_TRUE(read(fd, b, 1) <= 1);
  EXPECT_TRUE(pread(large, b, 1, 5000) == 1 && b[0] == 'l');
  IN_CHILD(child, {
    EXPECT_TRUE(!can_read(corner() + PLACES));
    const int again = OK(open("plain", O_RDONLY));
    EXPECT_TRUE(read(again, b, 10) == 10);
  });
  EXPECT_EXIT(child, 0);
}

// A process that never takes away what it was told to: its stub says that all is done (ProcessShared::done). It sees the bytes that were its own to read or
// nothing, whatever becomes of the file and whoever makes others.
static void keep_window(const char *path) {
  const int fd = make_window(path, 'a');
  volatile char *bytes = window();
  if (!can_read((uintptr_t)bytes) || *bytes != 'a') board[6] = 1;
  else if (can_write((uintptr_t)bytes)) board[5]++;
  close(dup(fd));
  board[4] = 0, board[5] += 0, board[6] += 0;  // nothing is mapped any more from here on
  *(volatile uint64_t *)(corner() + SHARED + 16) = 1UL << 62;
  board[4] = 1;
  while (!board[0] && !board[6])
    for (size_t at = 0; at < WINDOW_BYTES; at += 512)
      if (bytes[at] != 'a' && bytes[at] != 0) board[5]++;
  close(fd);
  for (;;)
    for (size_t at = 0; at < WINDOW_BYTES && !board[6]; at += 512)
      if (bytes[at] != 'a' && bytes[at] != 0) board[5]++;
}
TEST_TIMEOUT(kept_windows_show_nothing_else, 30) {
  find_stub();
  pid_t witness = start_witness();
  pid_t keeper = OK(fork());
  if (!keeper) keep_window("/dev/shm/kept");
  for (int i = 0; i < 2000 && !board[4]; i++) kit_sleep_ms(1);
  EXPECT_EQ(board[4], 1);
  static char b[65536];
  memset(b, 'b', sizeof b);
  const int kept = OK(open("/dev/shm/kept", O_RDWR));
  for (int round = 0; round < 20; round++) {
    switch (round % 4) {
      case 0: OK(fallocate(kept, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, WINDOW_BYTES / 2)); break;
      case 1: OK(ftruncate(kept, 4096)); break;
      case 2: OK(ftruncate(kept, WINDOW_BYTES)); break;
      default: OK(ftruncate(kept, 0)); break;
    }
    // What comes where the pages were, if anything did.
    const int other = OK(open("/dev/shm/other", O_RDWR | O_CREAT | O_TRUNC, 0600));
    for (int i = 0; i < 64; i++) EXPECT_EQ(write(other, b, sizeof b), (ssize_t)sizeof b);
    char *memory = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(memory, 'c', 4 << 20);
    kit_sleep_ms(5);
    munmap(memory, 4 << 20);
    OK(close(other));
  }
  end_witness(witness);
  kit_sleep_ms(50);
  OK(kill(keeper, SIGKILL));
  kit_wait(keeper);
  if (board[6]) SKIP("this platform shows no pages of files");
  EXPECT_EQ(board[5], 0);
  OK(unlink("/dev/shm/kept"));
  OK(unlink("/dev/shm/other"));
}

// The same of one that may write: it goes on for ever, and reaches nothing but what was the file's.
static void keep_window_to_write(const char *path) {
  const int fd = make_window_to_write(path, 'a');
  volatile char *bytes = window();
  if (!can_write((uintptr_t)bytes)) board[6] = 1;
  close(dup(fd));
  board[4] = 0, board[6] += 0;  // nothing is mapped any more from here on
  *(volatile uint64_t *)(corner() + SHARED + 16) = 1UL << 62;
  board[4] = 1;
  for (int closed = 0;; closed += closed == 0 && board[3] > 10 && close(fd) == 0)
    for (size_t at = 0; at < WINDOW_BYTES && !board[6]; at += 256) bytes[at] = 'h';
}
TEST_TIMEOUT(kept_windows_write_nothing_else, 30) {
  find_stub();
  pid_t witness = start_witness();
  pid_t keeper = OK(fork());
  if (!keeper) keep_window_to_write("/dev/shm/kept");
  for (int i = 0; i < 2000 && !board[4]; i++) kit_sleep_ms(1);
  EXPECT_EQ(board[4], 1);
  static char b[65536];
  const int kept = OK(open("/dev/shm/kept", O_RDWR));
  for (int round = 0; round < 20; round++) {
    board[3] = round;
    switch (round % 4) {
      case 0: OK(fallocate(kept, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, WINDOW_BYTES / 2)); break;
      case 1: OK(ftruncate(kept, 4096)); break;
      case 2: OK(ftruncate(kept, WINDOW_BYTES)); break;
      default: OK(ftruncate(kept, 0)); break;
    }
    memset(b, 'b', sizeof b);
    const int other = OK(open("/dev/shm/other", O_RDWR | O_CREAT | O_TRUNC, 0600));
    for (int i = 0; i < 64; i++) ASSERT_EQ(write(other, b, sizeof b), (ssize_t)sizeof b);
    char *memory = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(memory, 'c', 4 << 20);
    kit_sleep_ms(5);
    for (size_t i = 0; i < 4 << 20; i++) ASSERT_EQ(memory[i], 'c');
    munmap(memory, 4 << 20);
    for (int i = 0; i < 64; i++) {
      ASSERT_EQ(pread(other, b, sizeof b, i * 65536), (ssize_t)sizeof b);
      for (size_t k = 0; k < sizeof b; k++) ASSERT_EQ(b[k], 'b');
    }
    // What was given to the file after it was cut off is its own again.
    ASSERT_EQ(pwrite(kept, b, sizeof b, WINDOW_BYTES), (ssize_t)sizeof b);
    ASSERT_EQ(pread(kept, b, sizeof b, WINDOW_BYTES), (ssize_t)sizeof b);
    for (size_t k = 0; k < sizeof b; k++) ASSERT_EQ(b[k], 'b');
    OK(close(other));
  }
  end_witness(witness);
  OK(kill(keeper, SIGKILL));
  kit_wait(keeper);
  if (board[6]) SKIP("this platform shows no pages of files");
  OK(unlink("/dev/shm/kept"));
  OK(unlink("/dev/shm/other"));
}

// One that says it is still writing, for ever, has others wait for a moment, and only once.
TEST_TIMEOUT(writers_that_never_end, 30) {
  find_stub();
  pid_t witness = start_witness();
  pid_t keeper = OK(fork());
  if (!keeper) {
    const int fd = make_window_to_write("/dev/shm/kept", 'a');
    if (!can_write((uintptr_t)window())) board[6] = 1;
    volatile uint32_t *places = (volatile uint32_t *)(corner() + PLACES);
    board[4] = 1;
    for (;;) {
      for (int i = 0; i < 64 && !board[6]; i++) places[i * 192 / 4 + 13] = 1;  // FilePlace::writing
      pwrite(fd, "a", 1, 0);
    }
  }
  for (int i = 0; i < 2000 && !board[4]; i++) kit_sleep_ms(1);
  EXPECT_EQ(board[4], 1);
  const int kept = OK(open("/dev/shm/kept", O_RDWR)), watcher = OK(inotify_init1(IN_NONBLOCK));
  const long long start = kit_now_ns();
  for (int round = 0; round < 200; round++) {
    EXPECT_EQ(pwrite(kept, "b", 1, 4096), 1);
    OK(ftruncate(kept, 5000 + round));
    OK(inotify_rm_watch(watcher, OK(inotify_add_watch(watcher, "/dev/shm/kept", IN_MODIFY))));
  }
  EXPECT_TRUE(kit_now_ns() - start < 3000000000);
  end_witness(witness);
  OK(kill(keeper, SIGKILL));
  kit_wait(keeper);
  if (board[6]) SKIP("this platform shows no pages of files");
  OK(unlink("/dev/shm/kept"));
}

// What may be sealed, or was not opened for reading and writing, is not there to be written.
TEST(windows_that_must_not_be_written) {
  find_stub();
  char b[4096], name[64];
  memset(b, 's', sizeof b);
  const int sealable = OK(memfd_create("sealable", MFD_ALLOW_SEALING));
  for (int i = 0; i < 300; i++) ASSERT_EQ(pwrite(sealable, b, sizeof b, i % 20 * 4096), (ssize_t)sizeof b);
  kit_sleep_ms(20);
  for (int i = 0; i < 300; i++) ASSERT_EQ(pread(sealable, b, sizeof b, i % 20 * 4096), (ssize_t)sizeof b);
  for (int i = 0; i < 300; i++) ASSERT_EQ(pwrite(sealable, b, sizeof b, i % 20 * 4096), (ssize_t)sizeof b);
  EXPECT_TRUE(!can_write((uintptr_t)window()));
  OK(close(sealable));
  snprintf(name, sizeof name, "/dev/shm/only-%d", (int)getpid());
  const int writes = OK(open(name, O_WRONLY | O_CREAT, 0600));
  for (int i = 0; i < 600; i++) ASSERT_EQ(pwrite(writes, b, sizeof b, i % 20 * 4096), (ssize_t)sizeof b);
  EXPECT_TRUE(!can_read((uintptr_t)window()));
  OK(close(writes));
  OK(unlink(name));
}
