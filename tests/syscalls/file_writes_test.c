// SPDX-License-Identifier: Apache-2.0
// Files that are written again and again without growing, so often that a kernel may let the program write their pages itself: who reads finds what was written, and all that
// a write does beside that it does. Each test is made where the programs' root is and in /dev/shm.
#include "file_pages.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/sendfile.h>

static void write_often(int fd, uint64_t pages, uint64_t version) {
  for (uint64_t i = 0; i < 2 * kOften; ++i) write_page(fd, i * 7919 % pages, version);
}
static int make_written(uint64_t pages) {
  const int fd = make(pages, 1);
  write_often(fd, pages, 1);
  return fd;
}
static bool is_earlier(struct timespec a, struct timespec b) { return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec < b.tv_nsec); }
static struct stat stat_of(int fd) {
  struct stat s;
  OK(fstat(fd, &s));
  return s;
}

TEST(writes_are_seen_by_all) {
  EVERYWHERE("seen") {
    const int fd = make_written(kPages), other = OK(open(path, O_RDONLY));
    const uint64_t *map = mmap(NULL, kPages * kPage, PROT_READ, MAP_SHARED, other, 0);
    ASSERT_TRUE(map != MAP_FAILED);
    for (uint64_t v = 2; v < 300; ++v) {
      const uint64_t page = v * 37 % kPages;
      write_page(fd, page, v);
      EXPECT_TRUE(is_page(fd, page, v) && is_page(other, page, v) && map[page * kPage / 8 + 5] == word_of(page, v));
      if (v % 50 != 0) continue;
      IN_CHILD(pid, {
        const int own = OK(open(path, O_RDWR));
        EXPECT_TRUE(is_page(own, page, v) && is_page(fd, page, v));
        write_often(own, kPages, v + 1000);
      });
      EXPECT_EXIT(pid, 0);
      EXPECT_TRUE(is_page(fd, 7919 % kPages, v + 1000) && is_page(other, 7919 % kPages, v + 1000));
      write_often(fd, kPages, v);
    }
    OK(munmap((void *)map, kPages * kPage));
    OK(close(other));
    OK(close(fd));
  }
}

// Words that pass between two processes: each writes after it has seen what the other wrote.
TEST(writes_answer_each_other) {
  EVERYWHERE("answer") {
    enum { kRounds = 3000 };
    const int fd = make_written(4);
    uint64_t word = 0;
    ASSERT_EQ(pwrite(fd, &word, sizeof word, 0), (ssize_t)sizeof word);
    IN_CHILD(pid, {
      const int own = OK(open(path, O_RDWR));
      OK(close(fd));  // the parent's alone
      for (uint64_t turn = 1; turn < kRounds; turn += 2) {
        do ASSERT_EQ(pread(own, &word, sizeof word, 0), (ssize_t)sizeof word);
        while (word < turn && sched_yield() == 0);
        EXPECT_EQ(word, turn);
        ++word;
        ASSERT_EQ(pwrite(own, &word, sizeof word, 0), (ssize_t)sizeof word);
      }
    });
    for (uint64_t turn = 0; turn < kRounds; turn += 2) {
      do ASSERT_EQ(pread(fd, &word, sizeof word, 0), (ssize_t)sizeof word);
      while (word < turn && sched_yield() == 0);
      EXPECT_EQ(word, turn);
      ++word;
      ASSERT_EQ(pwrite(fd, &word, sizeof word, 0), (ssize_t)sizeof word);
      write_page(fd, 1 + turn % 3, turn);
    }
    EXPECT_EXIT(pid, 0);
    OK(close(fd));
  }
}

// A reader who has found something does not find it again after it was overwritten, whichever way he reads.
static void read_whole(int fd, uint64_t version, const int copy[2]) {
  static char b[3 * kPage];
  off_t at = 0;
  OK(lseek(fd, 0, SEEK_SET));
  ASSERT_EQ(read(fd, b, sizeof b), 2 * kPage);
  EXPECT_TRUE(memcmp(b, page_of(0, version), kPage) == 0 && memcmp(b + kPage, page_of(1, version), kPage) == 0);
  ASSERT_EQ(read(fd, b, sizeof b), 0);
  ASSERT_EQ(sendfile(copy[1], fd, &at, kPage), kPage);
  ASSERT_EQ(read(copy[0], b, kPage), kPage);
  EXPECT_TRUE(memcmp(b, page_of(0, version), kPage) == 0);
}

// The second page, which may have been kept when the first one was read the last time.
static void read_backwards(int fd, uint64_t version) {
  static char b[kPage];
  for (uint64_t page = 2; page-- > 0;) {
    OK(lseek(fd, (off_t)(page * kPage), SEEK_SET));
    ASSERT_EQ(read(fd, b, kPage), kPage);
    EXPECT_TRUE(memcmp(b, page_of(page, version), kPage) == 0);
  }
}

TEST(writes_leave_nothing_old) {
  EVERYWHERE("old") {
    const int fd = make_written(2);
    int go[2], done[2], copy[2];
    OK(pipe(go));
    OK(pipe(done));
    OK(pipe(copy));
    IN_CHILD(pid, {
      uint64_t version;
      OK(close(fd));  // the parent's alone
      for (int i = 0; i < 12; ++i) read_whole(OK(open(path, O_RDONLY)), 1, copy);
      const int kept = OK(open(path, O_RDONLY));
      ASSERT_EQ(write(done[1], "d", 1), 1);
      while (read(go[0], &version, sizeof version) == (ssize_t)sizeof version && version != 0 && !kit_failed()) {
        read_backwards(kept, version);
        const int own = OK(open(path, O_RDONLY));
        read_whole(own, version, copy);
        OK(close(own));
        ASSERT_EQ(write(done[1], "d", 1), 1);
      }
    });
    OK(close(done[1]));
    char c;
    ASSERT_EQ(read(done[0], &c, 1), 1);
    for (uint64_t v = 2; v < 1500; ++v) {
      write_pages(fd, 0, 2, v);
      ASSERT_EQ(write(go[1], &v, sizeof v), (ssize_t)sizeof v);
      if (read(done[0], &c, 1) != 1) break;
      if (v % 200 == 0) write_often(fd, 2, v);
    }
    const uint64_t end = 0;
    ASSERT_EQ(write(go[1], &end, sizeof end), (ssize_t)sizeof end);
    EXPECT_EXIT(pid, 0);
    OK(close(fd));
  }
}

TEST(writes_at_the_end) {
  EVERYWHERE("end") {
    const int fd = make_written(20), other = OK(open(path, O_RDWR));
    char b[4 * kPage];
    memset(b, 'x', sizeof b);
    for (int round = 0; round < 20; ++round) {
      write_often(fd, 20, 1);
      EXPECT_EQ(pwrite(fd, b, 100, 20 * kPage - 50), 100);
      EXPECT_EQ(stat_of(fd).st_size, 20 * kPage + 50);
      EXPECT_EQ(lseek(fd, 0, SEEK_END), 20 * kPage + 50);
      EXPECT_EQ(pwrite(fd, b, 10, 25 * kPage), 10);
      EXPECT_EQ(stat_of(other).st_size, 25 * kPage + 10);
      write_often(fd, 20, 1);
      // Cut off by another one in the middle of a page, and what comes back is zeros.
      OK(ftruncate(other, 10 * kPage + 100));
      EXPECT_EQ(pwrite(fd, b, 50, 10 * kPage + 80), 50);
      EXPECT_EQ(stat_of(other).st_size, 10 * kPage + 130);
      OK(ftruncate(other, 10 * kPage + 90));
      OK(ftruncate(other, 20 * kPage));
      EXPECT_EQ(pread(fd, b, 3 * kPage, 10 * kPage), 3 * kPage);
      for (int i = 90; i < 3 * kPage; ++i) ASSERT_EQ(b[i], 0);
      write_page(fd, 15, 7);
      EXPECT_TRUE(is_page(other, 15, 7));
      memset(b, 'x', sizeof b);
      OK(fallocate(other, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * kPage, 4 * kPage));
      write_page(fd, 3, 9);
      EXPECT_TRUE(is_page(other, 3, 9));
      EXPECT_EQ(pread(other, b, 1, 4 * kPage), 1);
      EXPECT_EQ(b[0], 0);
      memset(b, 'x', sizeof b);
    }
    OK(close(other));
    OK(close(fd));
  }
}

TEST(writes_change_the_times) {
  EVERYWHERE("times") {
    const int fd = make_written(kPages), second = OK(open(other_path, O_RDWR | O_CREAT, 0600));
    struct timespec now;
    for (int i = 0; i < 10; ++i) {
      const struct stat before = stat_of(fd);
      kit_sleep_ms(15);
      write_often(fd, kPages, 1);
      const struct stat after = stat_of(fd);
      OK(clock_gettime(CLOCK_REALTIME, &now));
      EXPECT_TRUE(is_earlier(before.st_mtim, after.st_mtim) && is_earlier(before.st_ctim, after.st_ctim) && !is_earlier(now, after.st_mtim));
      kit_sleep_ms(15);
      write_page(fd, 3, 2);
      EXPECT_TRUE(is_earlier(after.st_mtim, stat_of(fd).st_mtim));
    }
    // Whatever is written later is not older.
    for (int i = 0; i < 2000; ++i) {
      write_page(fd, 1, 1);
      if (i % 3 == 0) ASSERT_EQ(pwrite(second, &i, sizeof i, 0), (ssize_t)sizeof i);
      else if (i % 3 == 1) OK(fchmod(second, 0600 + (mode_t)i % 8 * 8));
      else OK(futimens(second, NULL));
      write_page(fd, 1, 1);
      const struct stat first = stat_of(fd);
      struct stat s;
      OK(stat(other_path, &s));
      ASSERT_TRUE(!is_earlier(first.st_mtim, i % 3 == 1 ? s.st_ctim : s.st_mtim));
    }
    // A time that was set stays until the next write.
    const struct timespec set[2] = {{1000, 1}, {2000, 2}};
    write_often(fd, kPages, 1);
    OK(futimens(fd, set));
    EXPECT_EQ(stat_of(fd).st_mtim.tv_sec, 2000);
    write_page(fd, 1, 1);
    EXPECT_TRUE(stat_of(fd).st_mtim.tv_sec > 2000);
    OK(close(second));
    OK(close(fd));
  }
}

TEST(writes_move_the_position) {
  EVERYWHERE("position") {
    const int fd = make_written(20);
    char b[200];
    for (int round = 0; round < 3; ++round) {
      off_t at = OK(lseek(fd, 0, SEEK_SET));
      for (int i = 0; i < 300; ++i) {
        memset(b, 'a' + i % 26, sizeof b);
        const off_t n = 100 + i % 2 * 50;
        ASSERT_EQ(write(fd, b, (size_t)n), n);
        ASSERT_EQ(lseek(fd, 0, SEEK_CUR), at += n);
        if (i % 7 != 0) continue;
        ASSERT_EQ(read(fd, b, 10), 10);
        OK(lseek(fd, -10, SEEK_CUR));
      }
    }
    int to[2];
    OK(pipe(to));
    OK(lseek(fd, 0, SEEK_SET));
    for (int i = 0; i < kOften; ++i) ASSERT_EQ(write(fd, "parent..", 8), 8);
    IN_CHILD(pid, {
      for (int i = 0; i < kOften; ++i) ASSERT_EQ(write(fd, "child...", 8), 8);
      const int own = OK(open(path, O_RDWR));
      for (int i = 0; i < kOften; ++i) ASSERT_EQ(pwrite(own, "child...", 8, 8 * kPage), 8);
    });
    for (int i = 0; i < kOften; ++i) ASSERT_EQ(write(fd, "parent..", 8), 8);
    EXPECT_EXIT(pid, 0);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 3 * kOften * 8);
    int of_child = 0;
    for (int i = 0; i < 3 * kOften; ++i) {
      ASSERT_EQ(pread(fd, b, 8, i * 8), 8);
      of_child += memcmp(b, "child...", 8) == 0;
    }
    EXPECT_EQ(of_child, kOften);
    for (int i = 0; i < kOften; ++i) ASSERT_EQ(write(fd, "parent..", 8), 8);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 4 * kOften * 8);
    const int copy = OK(dup(fd));
    for (int i = 0; i < kOften; ++i) ASSERT_EQ(write(i % 2 ? fd : copy, "parent..", 8), 8);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 5 * kOften * 8);
    OK(close(copy));
    OK(close(fd));
  }
}

TEST(writes_of_those_who_append) {
  EVERYWHERE("append") {
    const int fd = make_written(20);
    OK(fcntl(fd, F_SETFL, O_APPEND));
    EXPECT_EQ(pwrite(fd, "more", 4, 0), 4);  // BUGS of pwrite(2)
    OK(lseek(fd, 0, SEEK_SET));
    EXPECT_EQ(write(fd, "more", 4), 4);
    EXPECT_EQ(stat_of(fd).st_size, 20 * kPage + 8);
    EXPECT_TRUE(is_page(fd, 0, 1));
    OK(fcntl(fd, F_SETFL, 0));
    write_often(fd, 20, 2);
    EXPECT_EQ(stat_of(fd).st_size, 20 * kPage + 8);
    const int appends = OK(open(path, O_RDWR | O_APPEND));
    for (int i = 0; i < kOften; ++i) ASSERT_EQ(write(appends, "more", 4), 4);
    EXPECT_EQ(stat_of(fd).st_size, 20 * kPage + 8 + 4 * kOften);
    OK(close(appends));
    OK(close(fd));
  }
}

TEST(writes_within_limits) {
  EVERYWHERE("limit") {
    const int fd = make_written(20);
    const struct rlimit limit = {10 * kPage, RLIM_INFINITY}, none = {RLIM_INFINITY, RLIM_INFINITY};
    int to[2], from[2];
    char c;
    OK(pipe(to));
    OK(pipe(from));
    kit_catch(SIGXFSZ, 0);
    kit_signals[SIGXFSZ] = 0;
    write_often(fd, 20, 1);
    OK(setrlimit(RLIMIT_FSIZE, &limit));
    EXPECT_ERR(pwrite(fd, "x", 1, 12 * kPage), EFBIG);
    EXPECT_EQ(kit_signals[SIGXFSZ], 1);
    EXPECT_EQ(pwrite(fd, page_of(9, 2), kPage, 10 * kPage - 100), 100);
    OK(setrlimit(RLIMIT_FSIZE, &none));
    write_often(fd, 20, 1);
    EXPECT_EQ(kit_signals[SIGXFSZ], 1);
    // By another process.
    IN_CHILD(pid, {
      write_often(fd, 20, 3);
      const int own = OK(open(path, O_RDWR));
      write_often(own, 20, 3);
      ASSERT_EQ(write(from[1], "r", 1), 1);
      ASSERT_EQ(read(to[0], &c, 1), 1);
      EXPECT_ERR(pwrite(own, "x", 1, 12 * kPage), EFBIG);
      EXPECT_EQ(kit_signals[SIGXFSZ], 2);
    });
    ASSERT_EQ(read(from[0], &c, 1), 1);
    OK(prlimit(pid, RLIMIT_FSIZE, &limit, NULL));
    ASSERT_EQ(write(to[1], "g", 1), 1);
    EXPECT_EXIT(pid, 0);
    OK(close(fd));
  }
}

TEST(writes_are_told_to_watchers) {
  EVERYWHERE("watch") {
    const int fd = make_written(20), watcher = OK(inotify_init1(IN_NONBLOCK));
    char events[4096];
    for (int i = 0; i < 20; ++i) {
      write_often(fd, 20, 1);
      const int wd = OK(inotify_add_watch(watcher, path, IN_MODIFY));
      for (int k = 0; k < 5; ++k) {
        write_page(fd, (uint64_t)k, 2);
        EXPECT_TRUE(read(watcher, events, sizeof events) > 0);
        EXPECT_ERR(read(watcher, events, sizeof events), EAGAIN);
      }
      OK(inotify_rm_watch(watcher, wd));
      EXPECT_TRUE(read(watcher, events, sizeof events) > 0);  // IN_IGNORED
      write_page(fd, 1, 2);
      EXPECT_ERR(read(watcher, events, sizeof events), EAGAIN);
    }
    OK(close(watcher));
    OK(close(fd));
  }
}

TEST(writes_take_rights_away) {
  NEEDS_ROOT();
  EVERYWHERE("suid") {
    const int fd = make(20, 1);
    OK(fchmod(fd, 0666));
    OK(fchown(fd, 1000, 1000));
    OK(close(fd));
    OK(chmod(".", 0777));
    IN_CHILD(pid, {
      OK(setresgid(1000, 1000, 1000));
      OK(setresuid(1000, 1000, 1000));
      const int own = OK(open(path, O_RDWR));
      for (int i = 0; i < 20; ++i) {
        write_often(own, 20, 1);
        OK(fchmod(own, 04777));
        EXPECT_EQ(stat_of(own).st_mode & 07777, 04777);
        write_page(own, 3, 2);
        EXPECT_EQ(stat_of(own).st_mode & 07777, 0777);
      }
    });
    EXPECT_EXIT(pid, 0);
    // Who may leave them where they are does not stay one who may.
    IN_CHILD(lesser, {
      const int own = OK(open(path, O_RDWR));
      OK(fchmod(own, 04777));
      write_often(own, 20, 1);
      EXPECT_EQ(stat_of(own).st_mode & 07777, 04777);
      write_often(own, 20, 1);
      OK(setresuid(1000, 1000, 1000));
      write_page(own, 3, 2);
      EXPECT_EQ(stat_of(own).st_mode & 07777, 0777);
    });
    EXPECT_EXIT(lesser, 0);
  }
}

TEST(writes_of_sealed_memfds) {
  for (int sealable = 0; sealable < 2; ++sealable) {
    const int fd = OK(memfd_create("writes", sealable ? MFD_ALLOW_SEALING : 0));
    write_pages(fd, 0, 20, 1);
    write_often(fd, 20, 1);
    EXPECT_TRUE(is_page(fd, 5, 1));
    if (sealable) {
      OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
      EXPECT_ERR(pwrite(fd, "x", 1, 0), EPERM);
      EXPECT_TRUE(is_page(fd, 0, 1));
    } else {
      EXPECT_ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
    }
    OK(close(fd));
  }
}

TEST(writes_end_with_the_descriptor) {
  EVERYWHERE("close") {
    int fd = make_written(20);
    OK(close(fd));
    EXPECT_ERR(pwrite(fd, "x", 1, 0), EBADF);
    EXPECT_EQ(open(path, O_RDONLY), fd);
    EXPECT_ERR(pwrite(fd, "x", 1, 0), EBADF);
    EXPECT_TRUE(is_page(fd, 0, 1));
    OK(close(fd));
    fd = OK(open(path, O_RDWR));
    write_often(fd, 20, 2);
    const int second = OK(open(other_path, O_RDWR | O_CREAT, 0600));
    write_pages(second, 0, 20, 5);
    OK(dup2(second, fd));
    write_often(fd, 20, 6);
    EXPECT_TRUE(is_page(second, 3, 6));
    const int again = OK(open(path, O_RDWR));
    EXPECT_TRUE(is_page(again, 3, 2));
    // Removed, and still written.
    write_often(again, 20, 7);
    OK(unlink(path));
    write_often(again, 20, 8);
    EXPECT_TRUE(is_page(again, 3, 8));
    OK(close(again));
    OK(close(second));
    OK(close(fd));
  }
}

TEST(writes_from_buffers_that_are_not_there) {
  EVERYWHERE("buffer") {
    const int fd = make_written(20);
    char *two = mmap(NULL, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(two, 'y', 2 * kPage);
    OK(munmap(two + kPage, kPage));
    OK(lseek(fd, 5 * kPage, SEEK_SET));
    for (int i = 0; i < 50; ++i) {
      write_page(fd, 2, 1);
      EXPECT_ERR(write(fd, (void *)1, 100), EFAULT);
      EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 5 * kPage);
      EXPECT_EQ(pwrite(fd, two + 100, kPage, 3 * kPage), kPage - 100);
      EXPECT_EQ(pwrite(fd, two, 0, 3 * kPage), 0);
      EXPECT_ERR(pwrite(fd, two, 1, -1), EINVAL);
    }
    // Fresh memory, and the file itself.
    char *fresh = mmap(NULL, 64 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 64; ++i) {
      write_page(fd, 2, 1);
      ASSERT_EQ(pwrite(fd, fresh + i * kPage, kPage, 4 * kPage), kPage);
    }
    char *map = mmap(NULL, 20 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ASSERT_TRUE(map != MAP_FAILED);
    for (uint64_t i = 0; i < kOften; ++i) {
      memcpy(map + 10 * kPage, page_of(11, i + 2), kPage);
      ASSERT_EQ(pwrite(fd, map + 10 * kPage, kPage, 11 * kPage), kPage);
      EXPECT_TRUE(is_page(fd, 11, i + 2));
    }
    OK(munmap(map, 20 * kPage));
    OK(close(fd));
  }
}

// Two who write at the same time, or one who writes what the other one cuts off: it is as if one of them had been first.
enum { kMuch = 16 * kPage };
static int first_fd;
static atomic_int turn;
static void *write_in_turn(void *rounds) {
  static _Thread_local char a[kMuch], b[kMuch];
  memset(a, 'a', kMuch);
  memset(b, 'b', kMuch);
  for (int i = 1; i < *(const int *)rounds; ++i) {
    // What lets the next one be done without anybody else.
    ASSERT_EQ(pwrite(first_fd, b, kMuch, 0), kMuch);
    atomic_store(&turn, 2 * i - 1);
    while (atomic_load(&turn) != 2 * i) sched_yield();
    ASSERT_EQ(pwrite(first_fd, a, kMuch, 0), kMuch);
    atomic_store(&turn, -i);
    while (atomic_load(&turn) != 0) sched_yield();
  }
  return NULL;
}
static bool is_all(const char *bytes, size_t n, char c) {
  for (size_t i = 0; i < n; ++i)
    if (bytes[i] != c) return false;
  return true;
}
static void beside_a_writer(void (*act)(int second, int round), void (*check)(int second)) {
  static int rounds = 1500;
  pthread_t t;
  const int second = OK(open(path, O_RDWR));
  first_fd = make_written(16);
  atomic_store(&turn, 0);
  ASSERT_EQ(pthread_create(&t, NULL, write_in_turn, &rounds), 0);
  for (int i = 1; i < rounds; ++i) {
    while (atomic_load(&turn) != 2 * i - 1) sched_yield();
    atomic_store(&turn, 2 * i);
    for (volatile int k = i % 50 * 20; k > 0; --k) {}
    act(second, i);
    while (atomic_load(&turn) != -i) sched_yield();
    check(second);
    atomic_store(&turn, 0);
  }
  pthread_join(t, NULL);
  OK(close(second));
  OK(close(first_fd));
}
static char content[kMuch];
static void write_second(int second, int round) {
  static char c[kMuch];
  memset(c, 'c', kMuch);
  ASSERT_EQ(pwrite(second, c, kMuch, 0), kMuch);
}
static void check_whole(int second) {
  ASSERT_EQ(pread(second, content, kMuch, 0), kMuch);
  ASSERT_TRUE(is_all(content, kMuch, content[0]) && content[0] != 'b');
}
static void cut(int second, int round) {
  if (round % 2) OK(ftruncate(second, kMuch - 1000));
  else OK(fallocate(second, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kMuch - 1000, 1000));
}
static void check_cut(int second) {
  OK(ftruncate(second, kMuch));
  ASSERT_EQ(pread(second, content, kMuch, 0), kMuch);
  ASSERT_TRUE(is_all(content, kMuch - 1000, 'a'));
  ASSERT_TRUE(is_all(content + kMuch - 1000, 1000, content[kMuch - 1]) && (content[kMuch - 1] == 0 || content[kMuch - 1] == 'a'));
}

TEST_TIMEOUT(writes_at_the_same_time, 60) {
  EVERYWHERE("whole") {
    OK(close(make(16, 1)));
    beside_a_writer(write_second, check_whole);
  }
}
TEST_TIMEOUT(writes_while_the_file_is_cut, 60) {
  EVERYWHERE("cut") {
    OK(close(make(16, 1)));
    beside_a_writer(cut, check_cut);
  }
}

// By two threads through one description.
static void *write_pieces(void *letter) {
  char piece[64];
  memset(piece, *(const char *)letter, sizeof piece);
  for (int i = 0; i < 4000; ++i) ASSERT_EQ(write(first_fd, piece, sizeof piece), (ssize_t)sizeof piece);
  return NULL;
}
TEST(writes_at_one_position) {
  EVERYWHERE("threads") {
    first_fd = make_written(8000 * 64 / kPage + 1);
    OK(lseek(first_fd, 0, SEEK_SET));
    pthread_t t[2];
    for (int i = 0; i < 2; ++i) ASSERT_EQ(pthread_create(&t[i], NULL, write_pieces, i ? "x" : "y"), 0);
    for (int i = 0; i < 2; ++i) pthread_join(t[i], NULL);
    EXPECT_EQ(lseek(first_fd, 0, SEEK_CUR), 8000 * 64);
    int count = 0;
    for (int i = 0; i < 8000; ++i) {
      ASSERT_EQ(pread(first_fd, content, 64, i * 64), 64);
      ASSERT_TRUE(is_all(content, 64, content[0]));
      count += content[0] == 'x';
    }
    EXPECT_EQ(count, 4000);
    OK(close(first_fd));
  }
}

// A program whose pages are overwritten, then run, changed and run again.
TEST(writes_of_programs) {
  EVERYWHERE("program") {
    if (place_ == 1) continue;  // may not be executed there
    const int from = OK(open("/proc/self/exe", O_RDONLY));
    const size_t size = (size_t)stat_of(from).st_size;
    char *bytes = malloc(size), *argv[] = {path, "--list", NULL}, *environment[] = {NULL};
    ASSERT_EQ(pread(from, bytes, size, 0), (ssize_t)size);
    OK(close(from));
    const int fd = OK(open(path, O_RDWR | O_CREAT, 0700));
    for (int round = 0; round < 3; ++round) {
      const int writer = OK(open(path, O_RDWR));
      for (int i = 0; i < 3; ++i)
        for (size_t at = 0; at < size; at += kPage) {
          const size_t n = size - at < kPage ? size - at : kPage;
          ASSERT_EQ(pwrite(writer, bytes + at, n, (off_t)at), (ssize_t)n);
        }
      OK(close(writer));
      if (round == 0) OK(close(fd));
      IN_CHILD(pid, {
        const int null = OK(open("/dev/null", O_WRONLY));
        OK(dup2(null, 1));
        execve(path, argv, environment);
        _exit(9);
      });
      EXPECT_EXIT(pid, 0);
      // The text that it lists: another one in its place.
      if (round == 1) memcpy(memmem(bytes, size, "writes_of_programs", 18), "writes_OF_programs", 18);
    }
    free(bytes);
  }
}
