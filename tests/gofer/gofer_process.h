// SPDX-License-Identifier: Apache-2.0
// A real gofer process over a temporary directory, for the protocol tests.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "base/host/unique_fd.h"
#include "base/ref/ref.h"
#include "gofer/client/client.h"

namespace test {

// A directory that goes away with everything in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const;
  std::string read(const std::string& name) const;
  void mkdir(const std::string& name) const;
  void symlink(const std::string& target, const std::string& name) const;

 private:
  std::string path_;
};

struct Tree {
  std::string path;
  bool readonly = false;
  bool file = false;
};

class GoferProcess {
 public:
  struct Options {
    bool host_uds = false;
    int max_files = 0;  // RLIMIT_NOFILE, 0: as it is
  };
  explicit GoferProcess(const std::vector<Tree>& trees) : GoferProcess(trees, Options{}) {}
  GoferProcess(const std::vector<Tree>& trees, Options options);
  ~GoferProcess();
  GoferProcess(const GoferProcess&) = delete;

  base::UniqueFd take_socket() { return std::move(socket_); }
  base::RefPtr<gofer::Client> client();
  pid_t pid() const { return pid_; }
  // Waits for its end: the wait status.
  int wait();
  std::string log();

 private:
  base::UniqueFd socket_, log_;
  pid_t pid_ = -1;
  int status_ = 0;
};

}  // namespace test
