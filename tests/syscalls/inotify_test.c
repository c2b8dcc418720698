// SPDX-License-Identifier: Apache-2.0
// inotify.
#include "kit.h"

#include <sys/inotify.h>

static int queue;
static char events[4096];
static ssize_t size, at;
static struct inotify_event *next(void) {
  if (at >= size) {
    at = 0;
    size = read(queue, events, sizeof events);
    if (size <= 0) return NULL;
  }
  struct inotify_event *e = (void *)(events + at);
  at += sizeof *e + e->len;
  return e;
}
static void expect(int wd, uint32_t mask, const char *name) {
  struct inotify_event *e = next();
  if (!e) {
    kit_fail(__FILE__, __LINE__, "no event, wanted 0x%x %s", mask, name);
    return;
  }
  if (e->wd != wd || e->mask != mask || strcmp(e->len ? e->name : "", name))
    kit_fail(__FILE__, __LINE__, "got %d 0x%x %s, wanted %d 0x%x %s", e->wd, e->mask, e->len ? e->name : "", wd, mask, name);
}
static void start(void) {
  queue = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (queue < 0 && errno == ENOSYS) SKIP("no inotify");
  ASSERT_TRUE(queue >= 0);
}

TEST(files_in_a_directory) {
  start();
  int w = OK(inotify_add_watch(queue, ".", IN_CREATE | IN_DELETE | IN_MODIFY | IN_MOVE | IN_CLOSE_WRITE));
  kit_write_file("f", "x");
  expect(w, IN_CREATE, "f");
  expect(w, IN_MODIFY, "f");
  expect(w, IN_CLOSE_WRITE, "f");
  OK(rename("f", "g"));
  expect(w, IN_MOVED_FROM, "f");
  expect(w, IN_MOVED_TO, "g");
  OK(mkdir("d", 0755));
  expect(w, IN_CREATE | IN_ISDIR, "d");
  OK(unlink("g"));
  expect(w, IN_DELETE, "g");
  EXPECT_TRUE(!next() && errno == EAGAIN);
}
TEST(one_file) {
  start();
  kit_write_file("f", "x");
  int w = OK(inotify_add_watch(queue, "f", IN_OPEN | IN_ACCESS | IN_ATTRIB | IN_CLOSE_NOWRITE | IN_DELETE_SELF));
  int fd = OK(open("f", O_RDONLY));
  char c;
  read(fd, &c, 1);
  close(fd);
  expect(w, IN_OPEN, "");
  expect(w, IN_ACCESS, "");
  expect(w, IN_CLOSE_NOWRITE, "");
  chmod("f", 0600);
  expect(w, IN_ATTRIB, "");
  unlink("f");
  expect(w, IN_ATTRIB, "");
  expect(w, IN_DELETE_SELF, "");
  expect(w, IN_IGNORED, "");
}
TEST(removal_of_a_watch) {
  start();
  int w = OK(inotify_add_watch(queue, ".", IN_CREATE));
  OK(inotify_rm_watch(queue, w));
  expect(w, IN_IGNORED, "");
  EXPECT_ERR(inotify_rm_watch(queue, w), EINVAL);
  EXPECT_ERR(inotify_add_watch(queue, "none", IN_CREATE), ENOENT);
  EXPECT_ERR(inotify_add_watch(queue, ".", 0), EINVAL);
  EXPECT_ERR(inotify_add_watch(0, ".", IN_CREATE), EINVAL);
  EXPECT_ERR(inotify_init1(0x7), EINVAL);
  char small[4];
  kit_write_file("x", "");
  OK(inotify_add_watch(queue, ".", IN_DELETE));
  unlink("x");
  EXPECT_ERR(read(queue, small, 4), EINVAL);
}
