// SPDX-License-Identifier: Apache-2.0
#include "runsc-cli/container/state.h"

#include <atomic>
#include <cstdlib>
#include <thread>

#include <catch2/catch.hpp>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/json/reader.h"
#include "runsc-cli/container/container.h"

namespace cli {
namespace {

struct TempRoot {
  std::string path;
  TempRoot() {
    char name[] = "/tmp/runsc-state-XXXXXX";
    REQUIRE(mkdtemp(name));
    path = name;
  }
  ~TempRoot() { rmdir(path.c_str()); }
};

State sample(const std::string& id) {
  State s;
  s.id = id;
  s.oci_version = "1.1.0";
  s.bundle = "/b";
  s.status = Status::kRunning;
  s.pid = getpid();
  s.pid_start_time = process_start_time(getpid());
  s.process.args = {"x"};
  s.hooks.poststop.push_back({"/bin/true", {"true"}, {"A=b"}, 3});
  return s;
}

TEST_CASE("State: ids that could leave the directory are refused") {
  for (const char* bad : {"", ".", "..", "a/b", "/", "a\n", "a b", "\xc3\xa4"}) CHECK_FALSE(StateFiles::at("/r", bad).has_value());
  CHECK_FALSE(StateFiles::at("/r", std::string(129, 'a')).has_value());
  for (const char* good : {"a", "A-b_c.d+1", "..."}) CHECK(StateFiles::at("/r", good).has_value());
}

TEST_CASE("State: survives the round trip") {
  TempRoot root;
  auto files = StateFiles::at(root.path + "/deep/er", "c");
  auto lock = files->create();
  REQUIRE(lock.has_value());
  CHECK_FALSE(files->create().has_value());
  REQUIRE(files->save(sample("c")).has_value());
  auto back = files->load();
  REQUIRE(back.has_value());
  CHECK(back->hooks.poststop.at(0).timeout_sec == 3);
  CHECK(back->process.args == std::vector<std::string>{"x"});
  CHECK(current_status(*back) == Status::kRunning);
  back->pid_start_time += 1;  // another process with the same pid
  CHECK(current_status(*back) == Status::kStopped);
  CHECK(list_ids(root.path + "/deep/er") == std::vector<std::string>{"c"});
  files->remove();
  CHECK_FALSE(files->exists());
  CHECK_FALSE(files->lock().has_value());
  rmdir((root.path + "/deep/er").c_str());
  rmdir((root.path + "/deep").c_str());
}

TEST_CASE("State: a damaged file is an error and can be deleted by force") {
  TempRoot root;
  auto files = StateFiles::at(root.path, "c");
  REQUIRE(files->create().has_value());
  int fd = open((root.path + "/c.json").c_str(), O_CREAT | O_WRONLY, 0600);
  REQUIRE(write(fd, "{\"id\":", 6) == 6);
  close(fd);
  CHECK_FALSE(files->load().has_value());
  CHECK_FALSE(delete_container(*files, Force::kNo).has_value());
  CHECK(delete_container(*files, Force::kYes).has_value());
  CHECK_FALSE(files->exists());
  CHECK(delete_container(*files, Force::kYes).has_value());
}

TEST_CASE("State: a control socket with the longest id") {
  TempRoot root;
  for (const std::string& id : {std::string("c"), std::string(128, 'x')}) {
    auto files = StateFiles::at(root.path, id);
    REQUIRE(files->create().has_value());
    auto listener = files->listen();
    REQUIRE(listener.has_value());
    CHECK(files->connect().has_value());
    CHECK(list_ids(root.path) == std::vector<std::string>{id});
    files->remove();
    CHECK_FALSE(files->connect().has_value());
  }
}

TEST_CASE("State: the OCI document") {
  State s = sample("c");
  auto json = base::Json::parse(state_json(s, Status::kCreated, StateFields::kOci));
  CHECK(json["status"] == "created");
  CHECK(json["pid"] == getpid());
  CHECK(base::Json::parse(state_json(s, Status::kStopped, StateFields::kRuntime))["pid"] == 0);
}

TEST_CASE("State: readers never see a half-written file while others write") {
  TempRoot root;
  auto files = StateFiles::at(root.path, "c");
  REQUIRE(files->create().has_value());
  REQUIRE(files->save(sample("c")).has_value());
  std::atomic<bool> stop{false};
  std::atomic<int> bad{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i)
    readers.emplace_back([&] {
      while (!stop)
        if (!files->load()) ++bad;
    });
  for (int i = 0; i < 300; ++i) {
    State s = sample("c");
    s.bundle = std::string(static_cast<size_t>(i) * 50, 'x');
    auto lock = files->lock();
    if (!lock || !files->save(s)) ++bad;
  }
  stop = true;
  for (auto& t : readers) t.join();
  CHECK(bad == 0);
  files->remove();
}

TEST_CASE("State: of many creators at once one wins, and waiters on a deleted container notice") {
  TempRoot root;
  std::atomic<int> won{0}, held{0};
  std::atomic<bool> overlap{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      auto files = StateFiles::at(root.path, "c");
      for (int round = 0; round < 50; ++round) {
        auto lock = files->create();
        if (!lock) lock = files->lock();
        if (!lock) continue;
        if (held.fetch_add(1) != 0) overlap = true;
        ++won;
        held.fetch_sub(1);
        files->remove();
      }
    });
  for (auto& t : threads) t.join();
  CHECK(won > 0);
  CHECK_FALSE(overlap);
  auto files = StateFiles::at(root.path, "c");
  CHECK_FALSE(files->exists());
}

TEST_CASE("State: signals by name and number") {
  CHECK(signal_number("TERM") == 15);
  CHECK(signal_number("sigkill") == 9);
  CHECK(signal_number("9") == 9);
  CHECK(signal_number("RTMIN+1") == 35);
  CHECK(signal_number("SIGRTMAX-1") == 63);
  CHECK(signal_number("0") == 0);  // is anybody there: kill(2)
  for (const char* bad : {"", "65", "-1", "FOO", "9x", "RTMIN+31"}) CHECK(signal_number(bad) == -1);
}

}  // namespace
}  // namespace cli
