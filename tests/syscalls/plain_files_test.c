// SPDX-License-Identifier: Apache-2.0
// Descriptors of regular files and directories, used so often that a kernel may take shortcuts: closing, flags, positions, and what is
// read is what everybody else would find, whoever changes it.
#include "kit.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

enum { kMany = 64 };

static void warm_up(void) {
  kit_write_file("warm", "0123456789");
  for (int i = 0; i < kMany; ++i) {
    char b[32];
    struct stat s;
    const int fd = OK(open("warm", O_RDONLY));
    OK(fstat(fd, &s));
    ASSERT_EQ(read(fd, b, sizeof b), 10);
    ASSERT_EQ(read(fd, b, sizeof b), 0);
    ASSERT_EQ(lseek(fd, 0, SEEK_CUR), 10);
    OK(close(fd));
  }
}

static int is_listed(pid_t pid, int fd) {
  char path[64];
  struct stat s;
  snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
  return lstat(path, &s) == 0;
}

TEST(plain_files_closed_is_closed) {
  warm_up();
  for (int i = 0; i < kMany; ++i) {
    char b[16];
    struct stat s;
    const int a = OK(open("warm", O_RDONLY)), c = OK(open(".", O_RDONLY | O_DIRECTORY));
    OK(close(a));
    EXPECT_ERR(fstat(a, &s), EBADF);
    EXPECT_ERR(read(a, b, 1), EBADF);
    EXPECT_ERR(pread(a, b, 1, 0), EBADF);
    EXPECT_ERR(lseek(a, 0, SEEK_CUR), EBADF);
    EXPECT_ERR(fcntl(a, F_GETFD), EBADF);
    EXPECT_ERR(fcntl(a, F_SETFD, 0), EBADF);
    EXPECT_ERR(fcntl(a, F_GETFL), EBADF);
    EXPECT_ERR(close(a), EBADF);
    EXPECT_ERR(dup(a), EBADF);
    EXPECT_EQ(is_listed(getpid(), a), 0);
    OK(close(c));
    EXPECT_ERR(openat(c, "warm", O_RDONLY), EBADF);
    EXPECT_ERR(fstatat(c, "warm", &s, 0), EBADF);
    EXPECT_ERR(syscall(SYS_getdents64, c, b, sizeof b), EBADF);
    EXPECT_ERR(fchdir(c), EBADF);
  }
}

TEST(plain_files_lowest_number_comes_first) {
  warm_up();
  int fds[8];
  OK(close_range(3, ~0u, 0));
  for (int round = 0; round < kMany; ++round) {
    for (int i = 0; i < 8; ++i) fds[i] = OK(open(i & 1 ? "." : "warm", O_RDONLY));
    for (int i = 0; i < 8; ++i) EXPECT_EQ(fds[i], fds[0] + i);
    OK(close(fds[5]));
    OK(close(fds[2]));
    EXPECT_EQ(open("warm", O_RDONLY), fds[2]);
    EXPECT_EQ(dup(fds[0]), fds[5]);
    OK(close(fds[3]));
    EXPECT_EQ(fcntl(fds[0], F_DUPFD_CLOEXEC, 0), fds[3]);
    OK(close(fds[1]));
    EXPECT_EQ(dup2(fds[0], fds[1]), fds[1]);
    int ends[2];
    OK(close(fds[6]));
    OK(close(fds[7]));
    OK(pipe(ends));
    EXPECT_EQ(ends[0], fds[6]);
    EXPECT_EQ(ends[1], fds[7]);
    EXPECT_EQ(write(ends[1], "x", 1), 1);
    for (int i = 0; i < 8; ++i) OK(close(fds[i]));
  }
}

TEST(plain_files_flags) {
  warm_up();
  for (int i = 0; i < kMany; ++i) {
    const int a = OK(open("warm", O_RDONLY | O_CLOEXEC)), b = OK(open("warm", O_RDWR | O_APPEND)), d = OK(open(".", O_RDONLY | O_DIRECTORY));
    EXPECT_EQ(fcntl(a, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(b, F_GETFD), 0);
    EXPECT_EQ(fcntl(a, F_SETFD, FD_CLOEXEC), 0);
    EXPECT_EQ(fcntl(a, F_SETFD, 0), 0);
    EXPECT_EQ(fcntl(a, F_GETFD), 0);
    EXPECT_EQ(fcntl(b, F_SETFD, FD_CLOEXEC), 0);
    EXPECT_EQ(fcntl(b, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(a, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_DIRECTORY), O_RDONLY);
    EXPECT_EQ(fcntl(b, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK), O_RDWR | O_APPEND);
    EXPECT_EQ(fcntl(d, F_GETFL) & (O_ACCMODE | O_DIRECTORY), O_RDONLY | O_DIRECTORY);
    const int e = OK(fcntl(a, F_DUPFD_CLOEXEC, 0));
    EXPECT_EQ(fcntl(e, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(a, F_GETFD), 0);
    if (i > kMany / 2) {
      EXPECT_EQ(fcntl(a, F_SETFL, O_NONBLOCK), 0);
      EXPECT_EQ(fcntl(e, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
      IN_CHILD(pid, EXPECT_EQ(fcntl(a, F_SETFL, 0), 0));
      EXPECT_EXIT(pid, 0);
      EXPECT_EQ(fcntl(a, F_GETFL) & O_NONBLOCK, 0);
      EXPECT_EQ(fcntl(e, F_GETFL) & O_NONBLOCK, 0);
    }
    OK(close(a));
    OK(close(b));
    OK(close(d));
    OK(close(e));
  }
}

TEST(plain_files_closed_before_fork_and_exec) {
  warm_up();
  const int a = OK(open("warm", O_RDONLY)), b = OK(open("warm", O_RDONLY | O_CLOEXEC)), c = OK(open("warm", O_RDONLY));
  OK(close(a));
  IN_CHILD(pid, EXPECT_ERR(fcntl(a, F_GETFD), EBADF); EXPECT_EQ(is_listed(getppid(), a), 0); EXPECT_EQ(is_listed(getppid(), c), 1));
  EXPECT_EXIT(pid, 0);
  char text[128];
  snprintf(text, sizeof text, "test ! -e /proc/self/fd/%d && test ! -e /proc/self/fd/%d && test -e /proc/self/fd/%d", a, b, c);
  EXPECT_EQ(system(text), 0);
  // Another process looks.
  OK(close(c));
  IN_CHILD(looker, EXPECT_EQ(is_listed(getppid(), c), 0));
  EXPECT_EXIT(looker, 0);
}

TEST(plain_files_close_drops_locks_at_once) {
  warm_up();
  int to[2], from[2];
  OK(pipe(to));
  OK(pipe(from));
  IN_CHILD(pid, {
    char c;
    for (int i = 0; i < 8; ++i) {
      const int fd = OK(open("warm", O_RDWR));
      ASSERT_EQ(read(to[0], &c, 1), 1);
      struct flock held = {.l_type = F_WRLCK};
      EXPECT_ERR(fcntl(fd, F_SETLK, &held), EAGAIN);
      EXPECT_ERR(flock(fd, LOCK_EX | LOCK_NB), EWOULDBLOCK);
      ASSERT_EQ(write(from[1], "c", 1), 1);
      ASSERT_EQ(read(to[0], &c, 1), 1);
      EXPECT_EQ(fcntl(fd, F_SETLK, &held), 0);
      EXPECT_EQ(flock(fd, LOCK_EX | LOCK_NB), 0);
      OK(close(fd));
      ASSERT_EQ(write(from[1], "d", 1), 1);
    }
  });
  for (int i = 0; i < 8; ++i) {
    char c;
    // A record lock goes with any descriptor of the file, a flock with the last one of the description.
    const int a = OK(open("warm", O_RDONLY)), b = OK(open("warm", O_RDONLY));
    struct flock lock = {.l_type = F_RDLCK};
    OK(fcntl(a, F_SETLK, &lock));
    OK(flock(b, LOCK_SH));
    ASSERT_EQ(write(to[1], "a", 1), 1);
    ASSERT_EQ(read(from[0], &c, 1), 1);
    OK(close(b));
    ASSERT_EQ(write(to[1], "b", 1), 1);
    ASSERT_EQ(read(from[0], &c, 1), 1);
    OK(close(a));
  }
  EXPECT_EXIT(pid, 0);
}

static int count_events(int fd, uint32_t mask) {
  char buffer[4096];
  int n = 0;
  const ssize_t got = read(fd, buffer, sizeof buffer);
  for (ssize_t at = 0; at < got;) {
    const struct inotify_event *e = (const struct inotify_event *)(buffer + at);
    n += (e->mask & mask) != 0;
    at += (ssize_t)sizeof *e + e->len;
  }
  return n;
}

TEST(plain_files_close_is_told_to_watchers) {
  warm_up();
  for (int i = 0; i < 8; ++i) {
    const int before = OK(open("warm", O_RDONLY)), open_one = OK(open("warm", O_RDONLY));
    OK(close(before));
    const int watcher = OK(inotify_init1(IN_NONBLOCK));
    OK(inotify_add_watch(watcher, "warm", IN_CLOSE | IN_ACCESS | IN_OPEN));
    EXPECT_EQ(count_events(watcher, IN_CLOSE), 0);  // closed before anybody watched
    char b[4];
    EXPECT_EQ(read(open_one, b, 4), 4);
    EXPECT_EQ(count_events(watcher, IN_ACCESS), 1);
    OK(close(open_one));
    EXPECT_EQ(count_events(watcher, IN_CLOSE_NOWRITE), 1);
    const int later = OK(open("warm", O_RDONLY));
    EXPECT_EQ(count_events(watcher, IN_OPEN), 1);
    EXPECT_EQ(read(later, b, 4), 4);
    EXPECT_EQ(pread(later, b, 4, 0), 4);
    EXPECT_EQ(count_events(watcher, IN_ACCESS), 1);  // two alike in a row are one
    OK(close(later));
    EXPECT_EQ(count_events(watcher, IN_CLOSE_NOWRITE), 1);
    OK(close(watcher));
  }
}

TEST(plain_files_closed_does_not_keep_a_mount_busy) {
  NEEDS_ROOT();
  warm_up();
  if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) SKIP("no mounts");
  OK(mkdir("m", 0755));
  for (int i = 0; i < 4; ++i) {
    OK(mount("none", "m", "tmpfs", 0, NULL));
    kit_write_file("m/f", "text");
    const int fd = OK(open("m/f", O_RDONLY)), dir = OK(open("m", O_RDONLY | O_DIRECTORY));
    OK(close(fd));
    EXPECT_ERR(umount("m"), EBUSY);
    OK(close(dir));
    EXPECT_EQ(umount("m"), 0);
  }
}

TEST(plain_files_closed_leave_their_room) {
  NEEDS_ROOT();
  warm_up();
  if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) SKIP("no mounts");
  OK(mkdir("m", 0755));
  OK(mount("none", "m", "tmpfs", 0, "size=1m"));
  static char bytes[700 * 1024];
  for (int i = 0; i < 8; ++i) {
    const int w = OK(open("m/f", O_WRONLY | O_CREAT, 0644));
    EXPECT_EQ(write(w, bytes, sizeof bytes), sizeof bytes);
    OK(close(w));
    const int r = OK(open("m/f", O_RDONLY));
    OK(unlink("m/f"));
    OK(close(r));
    if (i % 2 == 0) continue;
    IN_CHILD(pid, {
      const int other = OK(open("m/g", O_WRONLY | O_CREAT, 0644));
      EXPECT_EQ(write(other, bytes, sizeof bytes), sizeof bytes);
      OK(unlink("m/g"));
    });
    EXPECT_EXIT(pid, 0);
  }
  OK(umount("m"));
}

// --- Positions ---

TEST(plain_files_position_is_shared) {
  warm_up();
  for (int i = 0; i < 8; ++i) {
    char b[4];
    const int a = OK(open("warm", O_RDONLY)), c = OK(dup(a));
    EXPECT_EQ(lseek(a, 3, SEEK_SET), 3);
    EXPECT_EQ(lseek(c, 0, SEEK_CUR), 3);
    EXPECT_EQ(read(c, b, 2), 2);
    EXPECT_EQ(lseek(a, 1, SEEK_CUR), 6);
    IN_CHILD(pid, EXPECT_EQ(lseek(c, 0, SEEK_CUR), 6); EXPECT_EQ(lseek(c, -2, SEEK_END), 8));
    EXPECT_EXIT(pid, 0);
    EXPECT_EQ(lseek(a, 0, SEEK_CUR), 8);
    EXPECT_EQ(read(a, b, 4), 2);
    EXPECT_EQ(memcmp(b, "89", 2), 0);
    EXPECT_EQ(read(a, b, 4), 0);
    EXPECT_EQ(lseek(a, 100, SEEK_SET), 100);
    EXPECT_EQ(read(a, b, 4), 0);
    EXPECT_ERR(lseek(a, -1, SEEK_SET), EINVAL);
    EXPECT_ERR(lseek(a, -101, SEEK_CUR), EINVAL);
    EXPECT_ERR(lseek(a, INT64_MAX, SEEK_CUR), EINVAL);
    EXPECT_ERR(lseek(a, 0, 17), EINVAL);
    EXPECT_EQ(lseek(a, 0, SEEK_CUR), 100);
    const off_t far = (off_t)1 << 42;
    EXPECT_EQ(lseek(a, far, SEEK_SET), far);
    EXPECT_EQ(lseek(a, 1, SEEK_CUR), far + 1);
    EXPECT_EQ(read(a, b, 4), 0);
    char line[128] = "", path[64];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", a);
    EXPECT_EQ(lseek(a, 7, SEEK_SET), 7);
    const int info = OK(open(path, O_RDONLY));
    EXPECT_GT(read(info, line, sizeof line - 1), 0);
    EXPECT_TRUE(strstr(line, "pos:\t7\n") != NULL);
    OK(close(info));
    // Over a socket and back.
    int pair[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = {0};
    char byte = 'x';
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    *cmsg = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(cmsg), &a, sizeof a);
    OK(sendmsg(pair[0], &msg, 0));
    EXPECT_EQ(lseek(a, 2, SEEK_SET), 2);
    IN_CHILD(receiver, {
      OK(recvmsg(pair[1], &msg, 0));
      int got;
      memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof got);
      EXPECT_EQ(lseek(got, 0, SEEK_CUR), 2);
      EXPECT_EQ(lseek(got, 5, SEEK_SET), 5);
    });
    EXPECT_EXIT(receiver, 0);
    EXPECT_EQ(lseek(a, 0, SEEK_CUR), 5);
    OK(close(pair[0]));
    OK(close(pair[1]));
    OK(close(a));
    EXPECT_EQ(lseek(c, 1, SEEK_CUR), 6);
    OK(close(c));
  }
}

TEST(plain_files_end_follows_the_size) {
  warm_up();
  const int w = OK(open("size", O_RDWR | O_CREAT | O_TRUNC, 0644)), r = OK(open("size", O_RDONLY));
  for (int i = 0; i < kMany; ++i) {
    char b[8];
    EXPECT_EQ(lseek(r, 0, SEEK_END), i);
    EXPECT_EQ(read(r, b, 8), 0);
    EXPECT_EQ(read(r, b, 8), 0);
    EXPECT_EQ(write(w, "z", 1), 1);
    EXPECT_EQ(read(r, b, 8), 1);
    EXPECT_EQ(lseek(w, 0, SEEK_END), i + 1);
  }
  OK(ftruncate(w, 5));
  EXPECT_EQ(lseek(r, 0, SEEK_END), 5);
  IN_CHILD(pid, OK(truncate("size", 3)));
  EXPECT_EXIT(pid, 0);
  EXPECT_EQ(lseek(r, 0, SEEK_END), 3);
  // Through a mapping.
  char *map = OK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, w, 0)), b[4];
  for (int i = 0; i < kMany; ++i) {
    EXPECT_EQ(pread(r, b, 3, 0), 3);
    map[1] = (char)('a' + i % 26);
    EXPECT_EQ(pread(r, b, 3, 0), 3);
    EXPECT_EQ(b[1], 'a' + i % 26);
    EXPECT_EQ(lseek(r, 0, SEEK_SET), 0);
    EXPECT_EQ(read(r, b, 3), 3);
    EXPECT_EQ(b[1], 'a' + i % 26);
  }
}

TEST(plain_files_bad_buffers) {
  warm_up();
  for (int i = 0; i < 4; ++i) {
    char b[16];
    const int a = OK(open("warm", O_RDONLY)), w = OK(open("warm", O_WRONLY)), d = OK(open(".", O_RDONLY));
    char *edge = OK(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    OK(mprotect(edge + 4096, 4096, PROT_NONE));
    EXPECT_ERR(read(a, (void *)16, 4), EFAULT);
    EXPECT_EQ(lseek(a, 0, SEEK_CUR), 0);
    EXPECT_ERR(pread(a, edge + 4096, 4, 2), EFAULT);
    EXPECT_ERR(read(a, (void *)-8, 4), EFAULT);
    EXPECT_ERR(read(a, (void *)-8, 4), EFAULT);
    EXPECT_ERR(pread(a, b, 4, -1), EINVAL);
    EXPECT_EQ(read(a, b, 0), 0);
    EXPECT_ERR(read(w, b, 4), EBADF);
    EXPECT_ERR(pread(w, b, 4, 0), EBADF);
    EXPECT_ERR(read(d, b, 4), EISDIR);
    EXPECT_ERR(syscall(SYS_getdents64, a, b, sizeof b), ENOTDIR);
    EXPECT_EQ(read(a, b, 16), 10);
    EXPECT_EQ(memcmp(b, "0123456789", 10), 0);
    OK(munmap(edge, 8192));
    OK(close(a));
    OK(close(w));
    OK(close(d));
  }
}

static int names_left(int fd) {
  char buffer[4096];
  int n = 0;
  for (;;) {
    const long got = OK(syscall(SYS_getdents64, fd, buffer, sizeof buffer));
    if (got == 0) return n;
    for (long at = 0; at < got; ++n) at += *(uint16_t *)(buffer + at + 16);
  }
}

TEST(plain_files_listing_ends) {
  warm_up();
  OK(mkdir("l", 0755));
  for (int i = 0; i < 16; ++i) {
    const int fd = OK(open("l", O_RDONLY | O_DIRECTORY)), other = OK(dup(fd));
    char name[32];
    EXPECT_EQ(names_left(fd), i + 2);
    EXPECT_EQ(names_left(fd), 0);
    EXPECT_EQ(names_left(other), 0);
    EXPECT_EQ(lseek(other, 0, SEEK_SET), 0);
    EXPECT_EQ(names_left(fd), i + 2);
    snprintf(name, sizeof name, "l/%d", i);
    kit_write_file(name, "");
    EXPECT_EQ(lseek(fd, 0, SEEK_SET), 0);
    EXPECT_EQ(names_left(other), i + 3);
    OK(close(fd));
    OK(close(other));
  }
  const int fd = OK(open("l", O_RDONLY | O_DIRECTORY));
  EXPECT_EQ(names_left(fd), 18);
  EXPECT_EQ(names_left(fd), 0);
  EXPECT_EQ(system("rm -r l"), 0);
  char b[512];
  EXPECT_ERR(syscall(SYS_getdents64, fd, b, sizeof b), ENOENT);
}

// --- Anything in any order, beside a model of it ---

enum { kFiles = 3, kFds = 8, kSize = 70000 };
static struct {
  unsigned char bytes[kSize];
  size_t size;
} files[kFiles];
static struct {
  int fd, file;
  size_t *at;
} open_fds[kFds];
static size_t positions[4096];
static int next_position;

static void check_bytes(const unsigned char *got, size_t n, int file, size_t at) {
  if (memcmp(got, files[file].bytes + at, n) != 0) {
    EXPECT_TRUE(!"the bytes of the file");
    kit_give_up();
  }
}

static void step(unsigned *seed) {
  static unsigned char buffer[kSize];
  const int i = rand_r(seed) % kFds, what = rand_r(seed) % 16;
  char name[8];
  if (open_fds[i].fd < 0) {
    if (next_position == 4096) return;
    const int file = rand_r(seed) % kFiles;
    snprintf(name, sizeof name, "r%d", file);
    open_fds[i].fd = OK(open(name, rand_r(seed) % 2 ? O_RDONLY : O_RDWR));
    open_fds[i].file = file;
    open_fds[i].at = &positions[next_position++];
    *open_fds[i].at = 0;
    return;
  }
  const int fd = open_fds[i].fd, file = open_fds[i].file;
  size_t *at = open_fds[i].at;
  const size_t size = files[file].size, count = (size_t)rand_r(seed) % (rand_r(seed) % 3 ? 3000 : kSize);
  const size_t somewhere = (size_t)rand_r(seed) % (size + 2);
  switch (what) {
    case 0:
      OK(close(fd));
      open_fds[i].fd = -1;
      break;
    case 1: {
      const int to = rand_r(seed) % kFds;
      if (open_fds[to].fd >= 0) break;
      open_fds[to] = open_fds[i];
      open_fds[to].fd = OK(dup(fd));
      break;
    }
    case 2: case 3: case 4: case 5: case 6: {
      const size_t n = *at >= size ? 0 : count < size - *at ? count : size - *at;
      ASSERT_EQ(read(fd, buffer, count), n);
      check_bytes(buffer, n, file, *at);
      *at += n;
      break;
    }
    case 7: case 8: {
      const size_t n = somewhere >= size ? 0 : count < size - somewhere ? count : size - somewhere;
      ASSERT_EQ(pread(fd, buffer, count, (off_t)somewhere), n);
      check_bytes(buffer, n, file, somewhere);
      break;
    }
    case 9:
      *at = somewhere;
      ASSERT_EQ(lseek(fd, (off_t)somewhere, SEEK_SET), somewhere);
      break;
    case 10: ASSERT_EQ(lseek(fd, 0, SEEK_CUR), *at); break;
    case 11:
      *at = size;
      ASSERT_EQ(lseek(fd, 0, SEEK_END), size);
      break;
    case 12: {
      snprintf(name, sizeof name, "r%d", file);
      const size_t n = count < kSize - somewhere ? count : kSize - somewhere;
      for (size_t k = 0; k < n; ++k) files[file].bytes[somewhere + k] = (unsigned char)rand_r(seed);
      if (n == 0) break;
      if (somewhere > size) memset(files[file].bytes + size, 0, somewhere - size);
      if (somewhere + n > size) files[file].size = somewhere + n;
      const int w = OK(open(name, O_WRONLY));
      ASSERT_EQ(pwrite(w, files[file].bytes + somewhere, n, (off_t)somewhere), n);
      OK(close(w));
      break;
    }
    case 13: {
      snprintf(name, sizeof name, "r%d", file);
      if (somewhere > size) memset(files[file].bytes + size, 0, somewhere - size);
      files[file].size = somewhere;
      OK(truncate(name, (off_t)somewhere));
      break;
    }
    case 14: {
      struct stat s;
      OK(fstat(fd, &s));
      ASSERT_EQ(s.st_size, size);
      break;
    }
    default:
      if (rand_r(seed) % 8 == 0) {
        // A child moves the position.
        *at = somewhere;
        IN_CHILD(pid, OK(lseek(fd, (off_t)somewhere, SEEK_SET)));
        EXPECT_EXIT(pid, 0);
      }
  }
}

static void random_steps(void) {
  unsigned seed = (unsigned)getpid();
  for (int i = 0; i < kFiles; ++i) {
    char name[8];
    snprintf(name, sizeof name, "r%d", i);
    kit_write_file(name, "");
  }
  for (int i = 0; i < kFds; ++i) open_fds[i].fd = -1;
  for (int i = 0; i < 20000 && !kit_failed(); ++i) step(&seed);
  if (kit_failed()) fprintf(stderr, "pid %d was the seed\n", getpid());
}
TEST_TIMEOUT(plain_files_random, 60) { random_steps(); }
TEST_TIMEOUT(plain_files_random_in_memory, 60) {
  char dir[] = "/dev/shm/plain_XXXXXX";
  if (!mkdtemp(dir)) SKIP("no /dev/shm");
  OK(chdir(dir));
  random_steps();
  OK(chdir("/"));
  char command[64];
  snprintf(command, sizeof command, "rm -r %s", dir);
  EXPECT_EQ(system(command), 0);
}

// --- Threads ---

static atomic_int stop;
static int shared_fd;
static void *read_records(void *total) {
  uint32_t record;
  long n = 0;
  while (read(shared_fd, &record, sizeof record) == sizeof record) n += record;
  *(long *)total = n;
  return NULL;
}
// Each record goes to one reader.
TEST(plain_files_threads_share_a_position) {
  enum { kRecords = 20000 };
  static uint32_t records[kRecords];
  long wanted = 0;
  for (uint32_t i = 0; i < kRecords; ++i) wanted += records[i] = i;
  const int w = OK(open("records", O_CREAT | O_WRONLY, 0644));
  ASSERT_EQ(write(w, records, sizeof records), sizeof records);
  OK(close(w));
  warm_up();
  for (int round = 0; round < 4; ++round) {
    pthread_t threads[3];
    long sums[3];
    shared_fd = OK(open("records", O_RDONLY));
    for (int i = 0; i < 3; ++i) pthread_create(&threads[i], NULL, read_records, &sums[i]);
    long sum = 0;
    for (int i = 0; i < 3; ++i) {
      pthread_join(threads[i], NULL);
      sum += sums[i];
    }
    EXPECT_EQ(sum, wanted);
    EXPECT_EQ(lseek(shared_fd, 0, SEEK_CUR), sizeof records);
    OK(close(shared_fd));
  }
}

// Threads that work until they are stopped, and count what went wrong.
static pthread_t workers[4];
static int bad_of[4], worker_count;
static void start_workers(void *(*work)(void *bad), int n) {
  worker_count = n;
  for (int i = 0; i < n; ++i) pthread_create(&workers[i], NULL, work, &bad_of[i]);
}
static void stop_workers(void) {
  atomic_store(&stop, 1);
  for (int i = 0; i < worker_count; ++i) {
    pthread_join(workers[i], NULL);
    EXPECT_EQ(bad_of[i], 0);
  }
}

// Numbers that one thread closes are taken by another; nobody's file is closed by anybody else.
static void *open_and_close(void *bad) {
  while (!atomic_load(&stop)) {
    struct stat a, b;
    const int fd = open("warm", O_RDONLY), dir = open(".", O_RDONLY | O_DIRECTORY);
    char c = 0;
    if (fd < 0 || dir < 0 || fstat(fd, &a) != 0 || !S_ISREG(a.st_mode) || fstat(dir, &b) != 0 || !S_ISDIR(b.st_mode) ||
        pread(fd, &c, 1, 3) != 1 || c != '3' || lseek(fd, 4, SEEK_SET) != 4 || read(fd, &c, 1) != 1 || c != '4' || close(dir) != 0 ||
        close(fd) != 0)
      ++*(int *)bad;
  }
  return NULL;
}
TEST(plain_files_threads_open_and_close) {
  warm_up();
  start_workers(open_and_close, 4);
  for (int i = 0; i < 200; ++i) {
    int ends[2];
    char c;
    OK(pipe(ends));
    ASSERT_EQ(write(ends[1], "p", 1), 1);
    ASSERT_EQ(read(ends[0], &c, 1), 1);
    OK(close(ends[0]));
    OK(close(ends[1]));
    if (i % 20 == 0) {
      IN_CHILD(pid, EXPECT_EQ(access("warm", F_OK), 0));
      EXPECT_EXIT(pid, 0);
    }
  }
  stop_workers();
}

// --- Opened again and again ---

static int shows_name(int fd, const char *name) {
  char link[64], path[512] = "";
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  OK(readlink(link, path, sizeof path - 1));
  const char *slash = strrchr(path, '/');
  return slash && strcmp(slash + 1, name) == 0;
}

TEST(plain_files_opened_again) {
  warm_up();
  kit_write_file("a", "aaaa");
  kit_write_file("b", "bbbbbb");
  OK(close_range(3, ~0u, 0));
  char b[16];
  for (int i = 0; i < kMany; ++i) {
    // A new description each time: at the beginning, with the flags that were asked for, at the lowest number.
    int fd = OK(open("a", O_RDONLY));
    EXPECT_EQ(fd, 3);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
    EXPECT_EQ(read(fd, b, 2), 2);
    OK(close(fd));
    fd = OK(open("a", O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(read(fd, b, 8), 4);
    OK(close(fd));
    fd = OK(open("a", O_RDONLY | O_NONBLOCK));
    EXPECT_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    OK(close(fd));
    fd = OK(open("b", O_RDONLY));
    EXPECT_EQ(read(fd, b, 8), 6);
    OK(close(fd));
    fd = OK(open("a", O_RDWR));
    EXPECT_EQ(write(fd, "A", 1), 1);
    OK(close(fd));
    // Others of the description go on.
    fd = OK(open("a", O_RDONLY));
    const int kept = OK(dup(fd));
    EXPECT_EQ(read(fd, b, 1), 1);
    OK(close(fd));
    fd = OK(open("a", O_RDONLY));
    EXPECT_EQ(lseek(kept, 0, SEEK_CUR), 1);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
    OK(close(kept));
    OK(close(fd));
    // A lower number that somebody else gave up.
    int ends[2];
    OK(pipe(ends));
    fd = OK(open("a", O_RDONLY));
    OK(close(ends[0]));
    OK(close(fd));
    fd = OK(open("a", O_RDONLY));
    EXPECT_EQ(fd, ends[0]);
    OK(close(ends[1]));
    OK(close(fd));
  }
  EXPECT_ERR(open("a", O_RDONLY | O_DIRECTORY), ENOTDIR);
}

TEST(plain_files_opened_again_elsewhere) {
  warm_up();
  OK(mkdir("d", 0755));
  struct stat first, s;
  char b[8];
  for (int i = 0; i < 24; ++i) {
    kit_write_file("d/x", "old");
    for (int k = 0; k < 3; ++k) OK(close(OK(open("d/x", O_RDONLY))));
    OK(stat("d/x", &first));
    kit_write_file("d/y", "new");
    OK(rename("d/y", "d/x"));
    int fd = OK(open("d/x", O_RDONLY));
    OK(fstat(fd, &s));
    EXPECT_NE(s.st_ino, first.st_ino);
    EXPECT_EQ(read(fd, b, 8), 3);
    EXPECT_EQ(memcmp(b, "new", 3), 0);
    OK(close(fd));
    OK(unlink("d/x"));
    EXPECT_ERR(open("d/x", O_RDONLY), ENOENT);
    // One file with two names.
    kit_write_file("d/one", "1");
    OK(link("d/one", "d/two"));
    for (int k = 0; k < 4; ++k) {
      fd = OK(open(k & 1 ? "d/two" : "d/one", O_RDONLY));
      EXPECT_TRUE(shows_name(fd, k & 1 ? "two" : "one"));
      OK(close(fd));
    }
    OK(unlink("d/one"));
    fd = OK(open("d/two", O_RDONLY));
    EXPECT_TRUE(shows_name(fd, "two"));
    OK(close(fd));
    OK(unlink("d/two"));
  }
}

TEST(plain_files_opened_again_when_refused) {
  warm_up();
  kit_write_file("f", "text");
  for (int i = 0; i < 8; ++i) {
    for (int k = 0; k < 8; ++k) OK(close(OK(open("f", O_RDONLY))));
    // Without a number left.
    struct rlimit_ { unsigned long now, most; } before, none;
    OK(syscall(SYS_prlimit64, 0, 7, NULL, &before));
    const int next = OK(open("f", O_RDONLY));
    OK(close(next));
    none = (struct rlimit_){(unsigned long)next, before.most};
    OK(syscall(SYS_prlimit64, 0, 7, &none, NULL));
    EXPECT_ERR(open("f", O_RDONLY), EMFILE);
    OK(syscall(SYS_prlimit64, 0, 7, &before, NULL));
    OK(close(OK(open("f", O_RDONLY))));
  }
  if (geteuid() != 0) return;
  IN_CHILD(pid, {
    OK(chmod(".", 0755));
    OK(setresgid(12345, 12345, 12345));
    OK(setresuid(12345, 12345, 12345));
    for (int k = 0; k < kMany; ++k) OK(close(OK(open("f", O_RDONLY))));
    IN_CHILD(other, OK(0));
    EXPECT_EXIT(other, 0);
  });
  EXPECT_EXIT(pid, 0);
  int to[2], from[2];
  OK(pipe(to));
  OK(pipe(from));
  IN_CHILD(reader, {
    char c;
    OK(setresuid(12345, 12345, 12345));
    for (int i = 0; i < 8; ++i) {
      for (int k = 0; k < 4; ++k) OK(close(OK(open("f", O_RDONLY))));
      ASSERT_EQ(write(from[1], "r", 1), 1);
      ASSERT_EQ(read(to[0], &c, 1), 1);
      EXPECT_ERR(open("f", O_RDONLY), EACCES);
      ASSERT_EQ(write(from[1], "r", 1), 1);
      ASSERT_EQ(read(to[0], &c, 1), 1);
    }
  });
  for (int i = 0; i < 8; ++i) {
    char c;
    ASSERT_EQ(read(from[0], &c, 1), 1);
    OK(chmod("f", 0600));
    ASSERT_EQ(write(to[1], "w", 1), 1);
    ASSERT_EQ(read(from[0], &c, 1), 1);
    OK(chmod("f", 0644));
    ASSERT_EQ(write(to[1], "w", 1), 1);
  }
  EXPECT_EXIT(reader, 0);
}

static void *open_again(void *bad) {
  while (!atomic_load(&stop)) {
    char c = 0;
    const int fd = open("warm", O_RDONLY);
    if (fd < 0 || lseek(fd, 0, SEEK_CUR) != 0 || read(fd, &c, 1) != 1 || c != '0' || read(fd, &c, 1) != 1 || c != '1' || close(fd) != 0)
      ++*(int *)bad;
  }
  return NULL;
}
TEST(plain_files_threads_open_again) {
  warm_up();
  start_workers(open_again, 3);
  for (int i = 0; i < 300; ++i) {
    const int fd = OK(open("warm", O_RDONLY));
    OK(dup2(fd, 100 + i % 7));
    EXPECT_EQ(lseek(fd, 5, SEEK_SET), 5);
    EXPECT_EQ(lseek(100 + i % 7, 0, SEEK_CUR), 5);
    OK(close(fd));
    if (i % 50 == 0) {
      IN_CHILD(pid, EXPECT_EQ(lseek(100 + i % 7, 0, SEEK_CUR), 5));
      EXPECT_EXIT(pid, 0);
    }
  }
  stop_workers();
}

// --- sendfile(2) ---

TEST(plain_files_sent) {
  warm_up();
  int pair[2], ends[2];
  OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  OK(pipe(ends));
  char b[64];
  for (int i = 0; i < 200; ++i) {
    const int fd = OK(open("warm", O_RDONLY)), out = i & 1 ? pair[0] : ends[1], in = i & 1 ? pair[1] : ends[0];
    off_t at = 0;
    EXPECT_EQ(sendfile(out, fd, &at, 4), 4);
    EXPECT_EQ(at, 4);
    EXPECT_EQ(sendfile(out, fd, &at, 100), 6);
    EXPECT_EQ(at, 10);
    EXPECT_EQ(sendfile(out, fd, &at, 100), 0);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
    EXPECT_EQ(sendfile(out, fd, NULL, 3), 3);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 3);
    EXPECT_EQ(read(in, b, sizeof b), 13);
    char wanted[16];
    snprintf(wanted, sizeof wanted, "%c123456789%c12", i < 100 ? '0' : 'a' + (i - 1) % 26, i < 100 ? '0' : 'a' + (i - 1) % 26);
    EXPECT_EQ(memcmp(b, wanted, 13), 0);
    at = -1;
    EXPECT_ERR(sendfile(out, fd, &at, 4), EINVAL);
    EXPECT_ERR(sendfile(out, fd, (off_t *)8, 4), EFAULT);
    OK(close(fd));
    if (i < 99) continue;
    const int w = OK(open("warm", O_WRONLY));
    const char c = (char)('a' + i % 26);
    EXPECT_EQ(pwrite(w, &c, 1, 0), 1);
    OK(close(w));
  }
  const int fd = OK(open("warm", O_RDONLY));
  off_t at = 0;
  OK(close(pair[1]));
  signal(SIGPIPE, SIG_IGN);
  EXPECT_ERR(sendfile(pair[0], fd, &at, 4), EPIPE);
  EXPECT_EQ(at, 0);
}

// --- /dev/null and /dev/zero ---

TEST(plain_files_endless) {
  for (int i = 0; i < kMany; ++i) {
    char b[300];
    const int null = OK(open("/dev/null", O_RDWR)), zero = OK(open("/dev/zero", O_RDONLY | O_CLOEXEC)), out = OK(open("/dev/null", O_WRONLY));
    EXPECT_EQ(write(null, "abc", 3), 3);
    EXPECT_EQ(write(out, (void *)8, 1000), 1000);  // nobody looks
    EXPECT_ERR(write(out, (void *)-4096, 8), EFAULT);
    EXPECT_ERR(write(zero, "abc", 3), EBADF);
    EXPECT_ERR(read(out, b, 3), EBADF);
    EXPECT_EQ(read(null, b, sizeof b), 0);
    memset(b, 1, sizeof b);
    EXPECT_EQ(read(zero, b + 1, sizeof b - 2), sizeof b - 2);
    EXPECT_EQ(b[0] + b[sizeof b - 1], 2);
    for (size_t k = 1; k < sizeof b - 1; ++k) ASSERT_EQ(b[k], 0);
    EXPECT_ERR(read(zero, (void *)8, 10), EFAULT);
    EXPECT_EQ(write(null, NULL, 0), 0);
    EXPECT_EQ(fcntl(zero, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(out, F_GETFL) & O_ACCMODE, O_WRONLY);
    EXPECT_EQ(lseek(zero, 10, SEEK_SET), 0);
    char *map = OK(mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_EQ(read(zero, map, 65536), 65536);
    OK(mprotect(map + 32768, 4096, PROT_NONE));
    EXPECT_EQ(read(zero, map, 65536), 32768);
    OK(munmap(map, 65536));
    OK(dup2(zero, null));
    EXPECT_EQ(read(null, b, 3), 3);
    OK(close(zero));
    EXPECT_ERR(read(zero, b, 3), EBADF);
    OK(close(null));
    OK(close(out));
  }
}
