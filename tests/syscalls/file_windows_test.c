// SPDX-License-Identifier: Apache-2.0
// Large files that are read again and again, so often that a kernel may let the program read their pages itself: what is read is what everybody else
// would find, whoever changes the file and however. Each test is made where the programs' root is and in /dev/shm.
#include "file_pages.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/utsname.h>

static bool is_zeros(int fd, uint64_t page) {
  static const char zeros[kPage];
  char b[kPage];
  return pread(fd, b, kPage, (off_t)(page * kPage)) == kPage && memcmp(b, zeros, kPage) == 0;
}
static void read_often(int fd, uint64_t pages, uint64_t version) {
  for (uint64_t i = 0; i < kOften; ++i) ASSERT_TRUE(is_page(fd, i * 7919 % pages, version));
}

TEST(windows_show_what_is_written) {
  EVERYWHERE("write") {
    const int writer = make(kPages, 1), fd = OK(open(path, O_RDONLY)), both = OK(open(path, O_RDWR));
    read_often(fd, kPages, 1);
    read_often(both, kPages, 1);
    for (uint64_t v = 2; v < 40; ++v) {
      const uint64_t page = v * 37 % kPages;
      write_page(writer, page, v);
      EXPECT_TRUE(is_page(fd, page, v) && is_page(fd, page + 1, 1));
      write_page(both, page, v + 100);
      EXPECT_TRUE(is_page(both, page, v + 100) && is_page(fd, page, v + 100));
      IN_CHILD(pid, write_page(writer, page, v + 200));
      EXPECT_EXIT(pid, 0);
      EXPECT_TRUE(is_page(fd, page, v + 200) && is_page(both, page, v + 200));
      write_page(both, page, 1);
    }
    read_often(fd, kPages, 1);
    OK(close(fd));
    OK(close(both));
    OK(close(writer));
  }
}

TEST(windows_show_the_size) {
  EVERYWHERE("size") {
    const int writer = make(kPages, 1), fd = OK(open(path, O_RDONLY));
    char b[3 * kPage];
    for (int round = 0; round < 6; ++round) {
      read_often(fd, kPages, 1);
      OK(ftruncate(writer, 100 * kPage + 10));
      EXPECT_EQ(pread(fd, b, sizeof b, 100 * kPage), 10);
      EXPECT_EQ(pread(fd, b, sizeof b, 100 * kPage + 10), 0);
      EXPECT_EQ(pread(fd, b, sizeof b, 300 * kPage), 0);
      EXPECT_EQ(pread(fd, b, sizeof b, 99 * kPage), kPage + 10);
      EXPECT_EQ(lseek(fd, 0, SEEK_END), 100 * kPage + 10);
      read_often(fd, 100, 1);
      if (round & 1) OK(truncate(path, kPages * kPage));
      else OK(ftruncate(writer, kPages * kPage));
      for (int i = 0; i < 40; ++i) EXPECT_TRUE(is_zeros(fd, 101 + (uint64_t)i * 3));
      EXPECT_EQ(pread(fd, b, kPage, 100 * kPage), kPage);
      for (int i = 0; i < kPage; ++i) EXPECT_TRUE((i < 10) == (b[i] == ((const char *)page_of(100, 1))[i]) || b[i] == 0);
      for (int i = 10; i < kPage; ++i) EXPECT_EQ(b[i], 0);
      write_pages(writer, 100, kPages, 1);
      EXPECT_EQ(pwrite(writer, "more", 4, kPages * kPage), 4);
      EXPECT_EQ(pread(fd, b, sizeof b, (kPages - 1) * kPage), kPage + 4);
      EXPECT_TRUE(memcmp(b + kPage, "more", 4) == 0);
    }
    // By O_TRUNC and by another process.
    read_often(fd, kPages, 1);
    IN_CHILD(pid, OK(close(open(path, O_WRONLY | O_TRUNC))));
    EXPECT_EXIT(pid, 0);
    EXPECT_EQ(pread(fd, b, sizeof b, 0), 0);
    OK(close(fd));
    OK(close(writer));
  }
}

TEST(windows_show_holes) {
  EVERYWHERE("hole") {
    const int writer = make(kPages, 1), fd = OK(open(path, O_RDONLY));
    char b[2 * kPage];
    for (uint64_t round = 0; round < 6; ++round) {
      read_often(fd, kPages, 1);
      const uint64_t page = 40 * round + 20;
      OK(fallocate(writer, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(page * kPage), 10 * kPage));
      for (uint64_t i = 0; i < 10; ++i) EXPECT_TRUE(is_zeros(fd, page + i));
      EXPECT_TRUE(is_page(fd, page - 1, 1) && is_page(fd, page + 10, 1));
      for (int i = 0; i < kOften; ++i) EXPECT_TRUE(is_zeros(fd, page + (uint64_t)i % 10) && is_page(fd, page + 10 + (uint64_t)i % 10, 1));
      // Part of a page.
      OK(fallocate(writer, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)((page + 12) * kPage + 100), 100));
      EXPECT_EQ(pread(fd, b, kPage, (off_t)(page + 12) * kPage), kPage);
      for (int i = 0; i < kPage; ++i) EXPECT_EQ(b[i], i >= 100 && i < 200 ? 0 : ((const char *)page_of(page + 12, 1))[i]);
      for (uint64_t i = 0; i < 10; ++i) {
        write_page(writer, page + i, round + 5);
        EXPECT_TRUE(is_page(fd, page + i, round + 5));
      }
      write_pages(writer, page, page + 13, 1);
    }
    OK(close(fd));
    OK(close(writer));
  }
}

TEST(windows_of_sparse_files) {
  EVERYWHERE("sparse") {
    const int writer = make(1, 1), fd = OK(open(path, O_RDONLY));
    const uint64_t far = 3ull << 30 >> 12;
    write_pages(writer, far, far + 40, 2);
    for (uint64_t i = 0; i < kOften; ++i) {
      EXPECT_TRUE(is_page(fd, far + i % 40, 2));
      EXPECT_TRUE(is_zeros(fd, far - 1 - i * 1000));
      EXPECT_TRUE(is_page(fd, 0, 1));
    }
    struct stat before, after;
    OK(fstat(fd, &before));
    for (uint64_t i = 0; i < kOften; ++i) EXPECT_TRUE(is_zeros(fd, far - 1 - i));
    OK(fstat(fd, &after));
    EXPECT_EQ(before.st_blocks, after.st_blocks);  // reading made no pages
    write_page(writer, far - 1, 3);
    EXPECT_TRUE(is_page(fd, far - 1, 3) && is_zeros(fd, far - 2));
    EXPECT_EQ(lseek(fd, 0, SEEK_END), (off_t)((far + 40) * kPage));
    char b[4 * kPage];
    EXPECT_EQ(pread(fd, b, sizeof b, (off_t)((far + 39) * kPage)), kPage);
    EXPECT_EQ(pread(fd, b, sizeof b, INT64_MAX - (off_t)sizeof b), 0);
    EXPECT_ERR(pread(fd, b, sizeof b, -1), EINVAL);
    OK(close(fd));
    OK(close(writer));
  }
}

TEST(windows_of_names_that_change) {
  EVERYWHERE("name") {
    const int writer = make(kPages, 1), fd = OK(open(path, O_RDONLY));
    read_often(fd, kPages, 1);
    const int next = OK(open(other_path, O_RDWR | O_CREAT, 0600));
    write_pages(next, 0, kPages, 2);
    OK(rename(other_path, path));
    read_often(fd, kPages, 1);
    const int fresh = OK(open(path, O_RDONLY));
    read_often(fresh, kPages, 2);
    OK(unlink(path));
    read_often(fresh, kPages, 2);
    read_often(fd, kPages, 1);
    write_page(writer, 5, 9);
    EXPECT_TRUE(is_page(fd, 5, 9) && is_page(fresh, 5, 2));
    OK(close(fd));
    OK(close(writer));
    // What has the number next.
    const int again = make(kPages, 3);
    EXPECT_EQ(again, writer < fd ? writer : fd);
    read_often(again, kPages, 3);
    OK(dup2(fresh, again));
    read_often(again, kPages, 2);
    OK(close(fresh));
    read_often(again, kPages, 2);
    OK(close(again));
    OK(close(next));
    char b[1];
    EXPECT_ERR(pread(again, b, 1, 0), EBADF);
  }
}

TEST(windows_of_mapped_files) {
  EVERYWHERE("map") {
    const int writer = make(kPages, 1), fd = OK(open(path, O_RDONLY));
    read_often(fd, kPages, 1);
    char *map = mmap(NULL, kPages * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, writer, 0);
    ASSERT_TRUE(map != MAP_FAILED);
    for (uint64_t i = 0; i < kOften; ++i) {
      const uint64_t page = i * 17 % kPages;
      memcpy(map + page * kPage, page_of(page, i + 2), kPage);
      EXPECT_TRUE(is_page(fd, page, i + 2));
    }
    IN_CHILD(pid, memcpy(map + 7 * kPage, page_of(7, 77), kPage));
    EXPECT_EXIT(pid, 0);
    EXPECT_TRUE(is_page(fd, 7, 77));
    write_pages(writer, 0, kPages, 1);
    read_often(fd, kPages, 1);
    if (madvise(map + 20 * kPage, 10 * kPage, MADV_REMOVE) == 0) {
      for (uint64_t i = 0; i < 10; ++i) EXPECT_TRUE(is_zeros(fd, 20 + i));
      memcpy(map + 21 * kPage, page_of(21, 5), kPage);
      EXPECT_TRUE(is_page(fd, 21, 5) && is_zeros(fd, 22));
      write_page(writer, 22, 6);
      EXPECT_TRUE(is_page(fd, 22, 6));
    }
    // Private changes stay where they are made.
    char *own = mmap(NULL, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    ASSERT_TRUE(own != MAP_FAILED);
    memset(own + 50 * kPage, 1, kPage);
    EXPECT_TRUE(is_page(fd, 50, 1));
    OK(munmap(own, kPages * kPage));
    OK(munmap(map, kPages * kPage));
    // The buffer is the file.
    map = mmap(NULL, kPages * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, writer, 0);
    for (int i = 0; i < 40; ++i) EXPECT_EQ(pread(fd, map + 60 * kPage, kPage, 61 * kPage), kPage);
    EXPECT_TRUE(memcmp(map + 60 * kPage, page_of(61, 1), kPage) == 0);
    OK(munmap(map, kPages * kPage));
    OK(close(fd));
    OK(close(writer));
  }
}

// A file of the image, which is changed while it is open for reading. Natively a copy of it.
TEST(windows_of_files_of_the_image) {
  char exe[256], image[300];
  struct utsname u;
  struct stat s;
  const ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
  ASSERT_TRUE(n > 0);
  exe[n] = 0;
  *strrchr(exe, '/') = 0;
  snprintf(image, sizeof image, "%s/tty_test", exe);
  OK(uname(&u));
  if (!strstr(u.release, "-runsc")) {
    char command[700];
    snprintf(command, sizeof command, "cp '%s' image", image);
    ASSERT_EQ(system(command), 0);
    strcpy(image, "image");
  }
  const int fd = OK(open(image, O_RDONLY)), second = OK(open(image, O_RDONLY));
  OK(fstat(fd, &s));
  const size_t size = (size_t)s.st_size;
  char *content = malloc(size), b[3 * kPage];
  ASSERT_EQ(pread(fd, content, size, 0), (ssize_t)size);
  for (size_t i = 0; i < 400; ++i) {
    const size_t at = i * 104729 % size, want = at + sizeof b < size ? sizeof b : size - at;
    ASSERT_EQ(pread(i & 1 ? fd : second, b, sizeof b, (off_t)at), (ssize_t)want);
    ASSERT_TRUE(memcmp(b, content + at, want) == 0);
  }
  char *private = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, second, 0);
  ASSERT_TRUE(private != MAP_FAILED);
  const int writer = OK(open(image, O_RDWR));
  for (size_t i = 0; i < 100; ++i) {
    const size_t at = i * 7919 % (size - sizeof b);
    memset(content + at, (int)i, 100);
    ASSERT_EQ(pwrite(writer, content + at, 100, (off_t)at), 100);
    ASSERT_EQ(pread(i & 1 ? fd : second, b, sizeof b, (off_t)at), (ssize_t)sizeof b);
    EXPECT_TRUE(memcmp(b, content + at, sizeof b) == 0);
    ASSERT_EQ(pread(writer, b, sizeof b, (off_t)at), (ssize_t)sizeof b);
    EXPECT_TRUE(memcmp(b, content + at, sizeof b) == 0);
  }
  for (size_t i = 0; i < 400; ++i) {
    const size_t at = i * 104729 % (size - sizeof b);
    ASSERT_EQ(pread(i % 3 ? fd : writer, b, sizeof b, (off_t)at), (ssize_t)sizeof b);
    EXPECT_TRUE(memcmp(b, content + at, sizeof b) == 0);
  }
  OK(ftruncate(writer, kPage));
  EXPECT_EQ(pread(fd, b, sizeof b, 10), kPage - 10);
  EXPECT_EQ(pread(fd, b, sizeof b, 5 * kPage), 0);
  OK(ftruncate(writer, 8 * kPage));
  EXPECT_TRUE(is_zeros(fd, 5) && is_zeros(second, 7));
  OK(unlink(image));
  for (uint64_t i = 0; i < 40; ++i) EXPECT_TRUE(is_zeros(fd, 1 + i % 7));
}

TEST(windows_before_and_after_fork_and_dup) {
  EVERYWHERE("fork") {
    const int writer = make(kPages, 1), fd = OK(open(path, O_RDONLY));
    read_often(fd, kPages, 1);
    int to[2];
    OK(pipe(to));
    IN_CHILD(pid, {
      char c;
      read_often(fd, kPages, 1);
      EXPECT_EQ(read(to[0], &c, 1), 1);
      EXPECT_TRUE(is_page(fd, 3, 2));
      EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 5 * kPage);
      const int own = OK(open(path, O_RDONLY));
      for (int i = 0; i < kOften; ++i) EXPECT_TRUE(is_page(own, 3, 2) && is_page(fd, 4, 1));
      write_page(writer, 4, 4);
      EXPECT_TRUE(is_page(own, 4, 4) && is_page(fd, 4, 4));
    });
    read_often(fd, kPages, 1);
    OK(lseek(fd, 5 * kPage, SEEK_SET));
    write_page(writer, 3, 2);
    EXPECT_EQ(write(to[1], "c", 1), 1);
    EXPECT_EXIT(pid, 0);
    EXPECT_TRUE(is_page(fd, 4, 4));
    const int copy = OK(dup(fd));
    for (int i = 0; i < kOften; ++i) EXPECT_TRUE(is_page(copy, 3, 2) && is_page(fd, 5, 1));
    OK(close(fd));
    write_page(writer, 3, 1);
    write_page(writer, 4, 1);
    read_often(copy, kPages, 1);
    OK(close(copy));
    OK(close(to[0]));
    OK(close(to[1]));
    OK(close(writer));
  }
}

TEST(windows_and_positions) {
  EVERYWHERE("position") {
    const int writer = make(kPages, 1), fd = OK(open(path, O_RDONLY));
    char b[3 * kPage];
    for (int round = 0; round < 3; ++round) {
      OK(lseek(fd, 0, SEEK_SET));
      for (uint64_t page = 0; page < kPages; ++page) {
        ASSERT_EQ(read(fd, b, kPage), kPage);
        ASSERT_TRUE(memcmp(b, page_of(page, 1), kPage) == 0);
      }
      EXPECT_EQ(read(fd, b, kPage), 0);
      EXPECT_EQ(lseek(fd, 0, SEEK_CUR), kPages * kPage);
      for (uint64_t i = 0; i < kOften; ++i) {
        const off_t at = (off_t)(i * 7919 % ((kPages - 3) * kPage));
        OK(lseek(fd, at, SEEK_SET));
        ASSERT_EQ(read(fd, b, 2 * kPage), 2 * kPage);
        EXPECT_EQ(lseek(fd, 0, SEEK_CUR), at + 2 * kPage);
        uint64_t middle;
        memcpy(&middle, b + kPage - at % 8, 8);
        EXPECT_EQ(middle, at % 8 ? middle : word_of((uint64_t)at / kPage + 1, 1));
      }
    }
    // A buffer that cannot be written, or only in part.
    char *two = mmap(NULL, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    OK(munmap(two + kPage, kPage));
    OK(lseek(fd, 10 * kPage, SEEK_SET));
    EXPECT_ERR(read(fd, (void *)1, kPage), EFAULT);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 10 * kPage);
    EXPECT_TRUE(pread(fd, two + 100, kPage, 0) == kPage - 100);
    EXPECT_EQ(pread(fd, two, kPage, 0), kPage);
    EXPECT_EQ(pread(fd, two, 0, 0), 0);
    OK(close(fd));
    OK(close(writer));
  }
}

// Larger than any window, and with several of them.
TEST_TIMEOUT(windows_of_large_files, 60) {
  EVERYWHERE("large") {
    enum { kLarge = 24 << 8, kFiles = 6 };
    const int writer = make(kLarge, 1);
    int fds[kFiles];
    for (int i = 0; i < kFiles; ++i) fds[i] = OK(open(path, O_RDONLY));
    static char b[6 * kPage];
    for (int i = 0; i < kFiles; ++i) read_often(fds[i], kLarge, 1);
    for (uint64_t i = 0; i < 3000; ++i) {
      const uint64_t page = i < 1500 ? i * 7919 % kLarge : i / 100 * 256 % kLarge;
      const ssize_t want = page + 6 <= kLarge ? 6 * kPage : (ssize_t)(kLarge - page) * kPage;
      ASSERT_EQ(pread(fds[i % kFiles], b, sizeof b, (off_t)(page * kPage)), want);
      ASSERT_TRUE(memcmp(b, page_of(page, 1), kPage) == 0 && memcmp(b + want - kPage, page_of(page + (uint64_t)want / kPage - 1, 1), kPage) == 0);
      if (i % 500 == 499) {
        write_page(writer, page, 1);
        const int at = (int)(i / 500) % kFiles;
        OK(close(fds[at]));
        fds[at] = OK(open(path, O_RDONLY));
      }
    }
    static char much[4 << 20];
    for (int i = 0; i < 40; ++i) {
      ASSERT_EQ(pread(fds[0], much, sizeof much, (off_t)i % 5 * (4 << 20) + kPage), (ssize_t)sizeof much);
      for (uint64_t page = 0; page < sizeof much / kPage; page += 100)
        ASSERT_TRUE(memcmp(much + page * kPage, page_of(page + (uint64_t)i % 5 * 1024 + 1, 1), kPage) == 0);
    }
    for (int i = 0; i < kFiles; ++i) OK(close(fds[i]));
    OK(close(writer));
  }
}

static int shared_fd;
static atomic_bool stop_reading;
static atomic_int wrong, rounds;
// A word of a version or, from page 100 on, nothing; or some bytes of one and some of another, as reads and writes at the same time make them.
static bool is_some_version(uint64_t page, uint64_t word) {
  for (int byte = 0; byte < 8; ++byte) {
    const uint8_t there = (uint8_t)(word >> 8 * byte);
    bool fits = page >= 100 && there == 0;
    for (uint64_t v = 0; v <= 5; ++v) fits |= there == (uint8_t)(word_of(page, v) >> 8 * byte);
    if (!fits) return false;
  }
  return true;
}
static void *read_all_the_time(void *unused) {
  static _Thread_local uint64_t b[2 * kPage / 8];
  for (uint64_t i = 0; !atomic_load(&stop_reading); ++i) {
    const uint64_t page = i * 13 % (kPages - 1);
    const ssize_t n = pread(shared_fd, b, sizeof b, (off_t)(page * kPage));
    if (n < 0 || n % kPage != 0 || (page < 99 && n != 2 * kPage)) atomic_fetch_add(&wrong, 1);
    for (ssize_t k = 0; k < n / kPage * 2; ++k)
      if (!is_some_version(page + (uint64_t)k / 2, b[(size_t)(k / 2 * kPage + k % 2 * 2000) / 8])) atomic_fetch_add(&wrong, 1);
    atomic_fetch_add(&rounds, 1);
  }
  return unused;
}

TEST_TIMEOUT(windows_of_two_threads_while_the_file_changes, 60) {
  EVERYWHERE("threads") {
    const int writer = make(kPages, 1);
    shared_fd = OK(open(path, O_RDONLY));
    atomic_store(&stop_reading, false);
    atomic_store(&rounds, 0);
    pthread_t t[2];
    for (int i = 0; i < 2; ++i) ASSERT_EQ(pthread_create(&t[i], NULL, read_all_the_time, NULL), 0);
    const long long end = kit_now_ns() + 1500000000;
    for (uint64_t i = 0; kit_now_ns() < end; ++i) {
      const uint64_t page = i * 31 % kPages;
      const int before = atomic_load(&rounds);
      switch (i % 8) {
        case 0: OK(ftruncate(writer, (100 + (off_t)(page % 400)) * kPage)); break;
        case 1: OK(ftruncate(writer, kPages * kPage)); break;
        case 2: OK(fallocate(writer, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(100 + page % 300) * kPage, 20 * kPage)); break;
        case 3: write_pages(writer, 100, kPages, i % 5); break;
        default: write_page(writer, page, i % 5 + 1); break;
      }
      for (int k = 0; k < 1000 && atomic_load(&rounds) < before + 60; ++k) usleep(50);
    }
    atomic_store(&stop_reading, true);
    for (int i = 0; i < 2; ++i) pthread_join(t[i], NULL);
    EXPECT_EQ(atomic_load(&wrong), 0);
    OK(close(shared_fd));
    OK(close(writer));
  }
}

TEST(windows_beside_locks_and_watches) {
  EVERYWHERE("watch") {
    const int writer = make(kPages, 1), fd = OK(open(path, O_RDONLY));
    struct flock lock = {.l_type = F_RDLCK};
    OK(fcntl(fd, F_SETLK, &lock));
    read_often(fd, kPages, 1);
    write_page(writer, 2, 2);
    EXPECT_TRUE(is_page(fd, 2, 2));
    const int watcher = OK(inotify_init1(IN_NONBLOCK));
    char events[4096], b[16];
    for (int i = 0; i < 20; ++i) {
      const int wd = OK(inotify_add_watch(watcher, path, IN_ACCESS));
      EXPECT_EQ(pread(fd, b, sizeof b, i * 777), (ssize_t)sizeof b);
      EXPECT_TRUE(read(watcher, events, sizeof events) > 0);
      OK(inotify_rm_watch(watcher, wd));
      EXPECT_TRUE(read(watcher, events, sizeof events) > 0);  // IN_IGNORED
      EXPECT_EQ(pread(fd, b, sizeof b, i * 777), (ssize_t)sizeof b);
      EXPECT_ERR(read(watcher, events, sizeof events), EAGAIN);
    }
    OK(close(watcher));
    OK(close(fd));
    OK(close(writer));
  }
}

TEST(windows_and_the_time_of_access) {
  EVERYWHERE("times") {
    const int writer = make(kPages, 1), fd = OK(open(path, O_RDONLY));
    struct stat s, later;
    for (int i = 0; i < 3; ++i) {
      write_page(writer, 3, 1);
      kit_sleep_ms(30);
      read_often(fd, kPages, 1);
      OK(fstat(fd, &s));
      if (place_ == 1) EXPECT_TRUE(s.st_atim.tv_sec > s.st_mtim.tv_sec || (s.st_atim.tv_sec == s.st_mtim.tv_sec && s.st_atim.tv_nsec > s.st_mtim.tv_nsec));
      kit_sleep_ms(30);
      read_often(fd, kPages, 1);
      OK(fstat(fd, &later));
      EXPECT_TRUE(memcmp(&s.st_atim, &later.st_atim, sizeof s.st_atim) == 0);  // relatime
    }
    OK(close(fd));
    OK(close(writer));
  }
}

TEST(windows_of_memfds) {
  const int fd = OK(memfd_create("windows", MFD_ALLOW_SEALING));
  write_pages(fd, 0, kPages, 1);
  read_often(fd, kPages, 1);
  OK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
  EXPECT_ERR(ftruncate(fd, 0), EPERM);
  OK(fallocate(fd, 0, kPages * kPage, 100 * kPage));
  for (uint64_t i = 0; i < kOften; ++i) EXPECT_TRUE(is_zeros(fd, kPages + i % 100) && is_page(fd, i, 1));
  for (uint64_t i = 0; i < kOften; ++i) {
    write_page(fd, i, i + 7);
    EXPECT_TRUE(is_page(fd, i, i + 7) && is_page(fd, i + 1, 1));
  }
  OK(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
  EXPECT_ERR(pwrite(fd, "x", 1, 0), EPERM);
  EXPECT_TRUE(is_page(fd, 0, 7));
  OK(close(fd));
}
