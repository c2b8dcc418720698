// SPDX-License-Identifier: Apache-2.0
// Files of pages that say which one they are, in the programs' root and in /dev/shm.
#pragma once

#include "kit.h"

#define MAYBE static __attribute__((unused))
enum { kPage = 4096, kPages = 600, kOften = 200 };

static const char *const kPlaces[] = {".", "/dev/shm"};
MAYBE char path[128], other_path[128];

MAYBE void choose(const char *directory, const char *name) {
  snprintf(path, sizeof path, "%s/windows-%d-%s", directory, (int)getpid(), name);
  snprintf(other_path, sizeof other_path, "%s/windows-%d-%s.other", directory, (int)getpid(), name);
}
#define EVERYWHERE(name) for (size_t place_ = 0; place_ < 2 && (choose(kPlaces[place_], name), true); unlink(path), unlink(other_path), ++place_)

// Page `page` of a file as version `version` of it has it.
MAYBE uint64_t word_of(uint64_t page, uint64_t version) { return version * 1000000007 + page * 31 + 1; }
MAYBE const void *page_of(uint64_t page, uint64_t version) {
  static _Thread_local uint64_t words[kPage / 8];
  for (size_t i = 0; i < kPage / 8; ++i) words[i] = word_of(page, version);
  return words;
}
MAYBE void write_page(int fd, uint64_t page, uint64_t version) {
  ASSERT_EQ(pwrite(fd, page_of(page, version), kPage, (off_t)(page * kPage)), kPage);
}
MAYBE void write_pages(int fd, uint64_t from, uint64_t to, uint64_t version) {
  for (uint64_t page = from; page < to; ++page) write_page(fd, page, version);
}
MAYBE int make(uint64_t pages, uint64_t version) {
  const int fd = OK(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600));
  write_pages(fd, 0, pages, version);
  return fd;
}
MAYBE bool is_page(int fd, uint64_t page, uint64_t version) {
  uint64_t b[kPage / 8];
  return pread(fd, b, kPage, (off_t)(page * kPage)) == kPage && memcmp(b, page_of(page, version), kPage) == 0;
}
