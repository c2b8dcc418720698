// SPDX-License-Identifier: Apache-2.0
#include "tests/gofer/gofer_process.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gofer/main.h"
#include "tests/util/catch.h"

namespace test {

TempDir::TempDir() {
  char name[] = "/tmp/gofer-test-XXXXXX";
  REQUIRE(mkdtemp(name));
  path_ = name;
  REQUIRE(chmod(name, 0755) == 0);
}
TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}
void TempDir::write(const std::string& name, const std::string& text) const { std::ofstream(*this / name) << text; }
std::string TempDir::read(const std::string& name) const {
  std::ifstream in(*this / name);
  std::stringstream s;
  s << in.rdbuf();
  return s.str();
}
void TempDir::mkdir(const std::string& name) const { REQUIRE(::mkdir((*this / name).c_str(), 0755) == 0); }
void TempDir::symlink(const std::string& target, const std::string& name) const {
  REQUIRE(::symlink(target.c_str(), (*this / name).c_str()) == 0);
}

GoferProcess::GoferProcess(const std::vector<Tree>& trees, Options options) {
  std::string json = R"({"trees":[)";
  for (const Tree& t : trees) {
    if (json.back() != '[') json += ",";
    json += R"({"path":")" + t.path + R"(","readonly":)" + (t.readonly ? "true" : "false") + R"(,"file":)" +
            (t.file ? "true" : "false") + "}";
  }
  json += std::string(R"(],"host_uds":)") + (options.host_uds ? "true" : "false") + "}";
  int pair[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
  const timeval silence_limit{120, 0};
  REQUIRE(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &silence_limit, sizeof silence_limit) == 0);
  socket_.reset(pair[0]);
  base::UniqueFd theirs(pair[1]);
  base::UniqueFd config(memfd_create("config", MFD_CLOEXEC));
  REQUIRE(write(config.get(), json.data(), json.size()) == static_cast<ssize_t>(json.size()));
  log_.reset(memfd_create("log", MFD_CLOEXEC));
  pid_ = fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) {
    int copies[3] = {fcntl(theirs.get(), F_DUPFD, 20), fcntl(config.get(), F_DUPFD, 20), fcntl(log_.get(), F_DUPFD, 20)};
    for (int i = 0; i < 3; ++i) dup2(copies[i], 3 + i);
    if (options.max_files != 0) {
      rlimit limit{static_cast<rlim_t>(options.max_files), static_cast<rlim_t>(options.max_files)};
      setrlimit(RLIMIT_NOFILE, &limit);
    }
    char name[] = "runsc-gofer";
    char* argv[] = {name, nullptr};
    _exit(gofer::server_main(1, argv));
  }
}

GoferProcess::~GoferProcess() {
  socket_.reset();
  wait();
}

int GoferProcess::wait() {
  if (pid_ > 0) {
    // Held by a client still: a test that failed. Nothing may outlive it.
    for (int i = 0; i < 200 && waitpid(pid_, &status_, WNOHANG) == 0; ++i) usleep(10'000);
    if (kill(pid_, 0) == 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, &status_, 0);
    }
    pid_ = -1;
  }
  return status_;
}

std::string GoferProcess::log() {
  std::string text(65536, '\0');
  ssize_t n = pread(log_.get(), text.data(), text.size(), 0);
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}

base::RefPtr<gofer::Client> GoferProcess::client() {
  auto client = gofer::Client::create(take_socket());
  INFO(log());
  REQUIRE(client.has_value());
  return std::move(*client);
}

}  // namespace test
